// SPDX-License-Identifier: Apache-2.0
// For .cu files: where a thread block finds its part of a packed matrix. One thread block computes
// 16 output rows, one packed block of every piece; thread (lane, slot) serves output row `lane`.
#pragma once
#include <cuda_fp16.h>

#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"

namespace adapmoe::cuda {

inline constexpr int kLanes = 16;                 // output rows of a packed block
inline constexpr int kSlots = kThreads / kLanes;  // groups, or activation rows, at the same time

__device__ inline float from_half(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

__device__ inline int64_t source_row(const ProductArgs& p, int64_t row) {
  const int64_t i = row < p.rows ? row : p.rows - 1;  // computed again, and not stored
  return p.index != nullptr ? p.index[i] : i;
}

// Which packed block of a piece block `b` of the product is, and over which pieces it runs.
struct Place {
  int64_t block;  // in its piece
  int64_t begin, end;
};

__device__ inline Place place(const ProductArgs& p, int64_t b) {
  if (p.chained) return {b, 0, p.w.count};
  return {b % p.w.blocks, b / p.w.blocks, b / p.w.blocks + 1};
}

__device__ inline const std::byte* block_of(const ProductArgs& p, const Place& at, int64_t piece) {
  const std::byte* data = p.w.data != nullptr ? p.w.data[piece] : p.w.only;
  return data + p.w.offset + at.block * p.w.block_bytes;
}

}  // namespace adapmoe::cuda
