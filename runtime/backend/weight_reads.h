// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>

namespace adapmoe {

// How a GPU product of several rows reads its weights. The bits do not depend on it.
enum class WeightReads : uint8_t {
  kByRows,  // the kernels' own choice
  kAgain,   // again for every few rows
  kOnce,    // once for all rows: these pass by each part of the weights
};

}  // namespace adapmoe
