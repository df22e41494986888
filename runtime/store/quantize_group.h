// SPDX-License-Identifier: Apache-2.0
// Quantization groups: the fp16 scale that minimises the squared weight error, and the integers.
#pragma once
#include <cstdint>

#include "runtime/base/types.h"  // DType

namespace adapmoe {

inline constexpr int kMaxGroupSize = 128;

// Groups that are searched side by side, one per SIMD lane, so that no sum crosses lanes.
inline constexpr int kGroupLanes = 8;

struct GroupScales {
  uint16_t half_bits[kGroupLanes];  // fp16, > 0 and finite
  float values[kGroupLanes];        // the same numbers
};

// Largest magnitude that `dtype` can hold with a finite fp16 scale.
// REQUIRES: is_quantized(dtype).
float largest_quantizable(DType dtype);

// Chooses the scales of kGroupLanes groups, `weights[group_size][kGroupLanes]`, and writes `quants`
// of the same shape, int4 in [-8, 7] or int8 in [-127, 127]. A group of zeros has scale 1. A lane's
// result depends on its own weights only, and is the same on every instruction set.
// REQUIRES: is_quantized(dtype); group_size is 32, 64 or 128; |weights| <=
// largest_quantizable(dtype); canonical FpEnvironment.
void quantize_groups(const float* weights, int group_size, DType dtype, int8_t* quants,
                     GroupScales& scales);

}  // namespace adapmoe
