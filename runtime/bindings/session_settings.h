// SPDX-License-Identifier: Apache-2.0
// Settings of a session as Python passes them: by name.
#pragma once
#include <nanobind/nanobind.h>

#include <string>

#include "runtime/engine/session_config.h"

namespace adapmoe {

// Defaults, with what is given in their place. Errors: TypeError for a name that is no setting and
// for a value of another type, ValueError for a value that the field cannot hold; both name the
// setting.
SessionConfig session_config(const nanobind::dict& given);

// {name: default}.
nanobind::dict session_settings();

// The mode of the name that the setting "gating" takes. Errors: as session_config().
GatingMode gating_mode(const std::string& name);

}  // namespace adapmoe
