// SPDX-License-Identifier: Apache-2.0
// Activations in the form that packed weights need: int8 groups for int4 and int8 weights, plain
// floats for f16 and f32.
#pragma once
#include <cstdint>

namespace adapmoe {

struct ActRows {
  const int8_t* q = nullptr;     // [rows][q_stride], group after group
  const float* scale = nullptr;  // [rows][group_stride]
  const int32_t* sum = nullptr;  // [rows][group_stride], sum of the group's q
  const float* x = nullptr;      // [rows][x_stride]
  int64_t q_stride = 0;
  int64_t group_stride = 0;
  int64_t x_stride = 0;
};

}  // namespace adapmoe
