// SPDX-License-Identifier: Apache-2.0
// The GPU that TensorRT plans are built for, or shall run on.
#pragma once
#include <cstdint>
#include <string>

namespace adapmoe {

struct EngineDevice {
  std::string target;  // its compute capability, such as "sm_87"
  std::string name;    // the driver's, such as "Orin"
  int64_t multiprocessors = 0;
};

}  // namespace adapmoe
