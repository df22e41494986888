// SPDX-License-Identifier: Apache-2.0
// Finds TensorRT at run time: libnvinfer.so.MAJOR where the loader has it, and then our adapter for
// that major version, which lies beside this program or module. Nothing links against either.
#pragma once
#include <string>

#include "runtime/backend/expert_engines.h"  // PlanOrigin
#include "runtime/backend/tensorrt/adapter_abi.h"
#include "runtime/base/status.h"

namespace adapmoe::tensorrt {

// The adapter of the TensorRT that built the plans. Once loaded, both libraries stay until the
// process ends. Thread-safe. Errors: kUnavailable naming what was built by what, what is here and
// what to do.
Result<const TrtAdapter*> load_adapter(const PlanOrigin& origin);

// Whether a library of version `found` ("10.3.0.26") reads plans of `built` ("10.3.0"): as many
// numbers as both give are equal, at least three.
bool same_version(const std::string& built, const std::string& found);

}  // namespace adapmoe::tensorrt
