// SPDX-License-Identifier: Apache-2.0
// The named tuples in which results go to Python.
#pragma once
#include <nanobind/nanobind.h>

namespace adapmoe {

// The class of this name in python/adapmoe/core_types.py.
inline nanobind::object core_type(const char* name) {
  return nanobind::module_::import_("adapmoe.core_types").attr(name);
}

}  // namespace adapmoe
