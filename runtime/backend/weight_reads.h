// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace adapmoe {

// How a GPU product of several rows reads its weights. The bits do not depend on it.
enum class WeightReads : uint8_t {
  kByRows,   // the kernels' own choice
  kInPlace,  // where they lie, again for every few rows
  kStaged,   // copied to shared memory first, once for all rows
};

}  // namespace adapmoe
