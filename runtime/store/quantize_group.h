// SPDX-License-Identifier: Apache-2.0
// One quantization group: the fp16 scale that minimises the squared weight error, and the integers.
#pragma once
#include <cstdint>

#include "runtime/base/types.h"  // DType

namespace adapmoe {

inline constexpr int kMaxGroupSize = 128;

struct GroupScale {
  uint16_t half_bits = 0;  // fp16, > 0 and finite
  float value = 0.0f;      // the same number
};

// Largest magnitude that `dtype` can hold with a finite fp16 scale.
// REQUIRES: is_quantized(dtype).
float largest_quantizable(DType dtype);

// Chooses the scale of `weights[group_size]` and writes `quants[group_size]`, int4 in [-8, 7] or
// int8 in [-127, 127]. A group of zeros has scale 1. The same bits on every instruction set.
// REQUIRES: is_quantized(dtype); group_size is 32, 64 or 128; |weights| <=
// largest_quantizable(dtype); canonical FpEnvironment.
GroupScale quantize_group(const float* weights, int group_size, DType dtype, int8_t* quants);

}  // namespace adapmoe
