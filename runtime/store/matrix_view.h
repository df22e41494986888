// SPDX-License-Identifier: Apache-2.0
// A matrix as a checkpoint stores it.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>

#include "runtime/base/half.h"

namespace adapmoe {

enum class WeightType { kF32, kF16, kBF16 };

// Row r begins at element r * row_stride of `data`, its columns are contiguous.
struct MatrixView {
  const void* data = nullptr;
  int64_t row_stride = 0;  // in elements; at least the number of columns
  WeightType type = WeightType::kF32;
};

// The first `cols` elements of a row as floats, exactly.
inline void load_row(MatrixView matrix, int64_t row, int64_t cols, float* out) {
  const int64_t first = row * matrix.row_stride;
  if (matrix.type == WeightType::kF32) {
    std::copy_n(static_cast<const float*>(matrix.data) + first, cols, out);
    return;
  }
  const uint16_t* source = static_cast<const uint16_t*>(matrix.data) + first;
  if (matrix.type == WeightType::kBF16) {
    for (int64_t c = 0; c < cols; ++c) out[c] = std::bit_cast<float>(uint32_t{source[c]} << 16);
  } else {
    for (int64_t c = 0; c < cols; ++c) out[c] = half_to_float(source[c]);
  }
}

}  // namespace adapmoe
