// SPDX-License-Identifier: Apache-2.0
// For .cu files: the fixed tree that ends every sum over 16 lanes.
#pragma once

namespace adapmoe::cuda {

inline constexpr int kLanes = 16;

// Lane i + lane i+8, then i+4, i+2, i+1. Every index is a constant, so that lanes stay in
// registers.
template <int kHalf = kLanes / 2>
__device__ inline float tree_sum(float (&lanes)[kLanes]) {
#pragma unroll
  for (int i = 0; i < kHalf; ++i) lanes[i] += lanes[i + kHalf];
  if constexpr (kHalf > 1) tree_sum<kHalf / 2>(lanes);
  return lanes[0];
}

}  // namespace adapmoe::cuda
