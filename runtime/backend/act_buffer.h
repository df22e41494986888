// SPDX-License-Identifier: Apache-2.0
// Where a backend keeps activations in the form that the weights need.
#pragma once
#include <cstdint>

#include "runtime/backend/act_rows.h"
#include "runtime/memory/bump.h"

namespace adapmoe {

// Writable ActRows.
struct ActBuffer {
  int8_t* q = nullptr;
  float* scale = nullptr;
  int32_t* sum = nullptr;
  float* x = nullptr;
  int64_t cols = 0;   // stride of q and x
  int64_t group = 0;  // 0: not quantized

  // REQUIRES: `group` is a multiple of 16.
  void layout(Bump& bump, int64_t rows, int64_t row_cols, bool quantized) {
    constexpr int64_t kColumnUnit = 128;  // a multiple of every group size
    constexpr int64_t kSmallestGroup = 16;
    cols = align_up(row_cols, kColumnUnit);
    if (quantized) {
      q = bump.take<int8_t>(rows * cols);
      scale = bump.take<float>(rows * cols / kSmallestGroup);
      sum = bump.take<int32_t>(rows * cols / kSmallestGroup);
    } else {
      x = bump.take<float>(rows * cols);
    }
  }

  // Rows starting at `row`, columns starting at `col`.
  ActRows view(int64_t row, int64_t col) const {
    if (group == 0) return {.x = x + row * cols + col, .x_stride = cols};
    const int64_t groups = cols / group;
    const int64_t at = row * groups + col / group;
    return {.q = q + row * cols + col,
            .scale = scale + at,
            .sum = sum + at,
            .q_stride = cols,
            .group_stride = groups};
  }
};

}  // namespace adapmoe
