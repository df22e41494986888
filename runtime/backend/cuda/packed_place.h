// SPDX-License-Identifier: Apache-2.0
// For .cu files: where a thread block finds its part of a packed matrix. One thread block computes
// 16 output rows, one packed block of every piece; thread i serves output row i % 16 of these.
#pragma once
#include <cuda_fp16.h>

#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"

namespace adapmoe::cuda {

inline constexpr int kLanes = 16;  // output rows of a packed block

__device__ inline float from_half(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

// Which packed block of a piece block `b` of the product is, and over which pieces it runs.
struct Place {
  int64_t block;  // in its piece
  int64_t begin, end;
};

__device__ inline Place place(const ProductArgs& p, int64_t b) {
  if (p.chained) return {b, 0, p.w.count};
  const auto piece = static_cast<uint32_t>(b) / static_cast<uint32_t>(p.w.blocks);
  return {b - piece * p.w.blocks, piece, piece + 1};
}

__device__ inline const std::byte* block_of(const ProductArgs& p, const Place& at, int64_t piece) {
  const std::byte* data = p.w.data != nullptr ? p.w.data[piece] : p.w.only;
  return data + p.w.offset + at.block * p.w.block_bytes;
}

// Thread blocks of one product.
inline int64_t blocks_of(const ProductArgs& p) { return p.w.blocks * (p.chained ? 1 : p.w.count); }

// The product of one expert that the plan uses, and this block's place in it.
struct Settled {
  ProductArgs product;
  int64_t block;
  bool used;
};

__device__ inline Settled settle(const RoutedProductArgs& a) {
  const uint32_t blocks = gridDim.x / static_cast<uint32_t>(a.most);
  const uint32_t slot = blockIdx.x / blocks;
  Settled s{a.product, blockIdx.x % blocks, static_cast<int32_t>(slot) < *a.plan.used};
  if (!s.used) return s;
  ProductArgs& p = s.product;
  const int64_t first = a.plan.first_output[slot];
  p.rows = a.plan.first_output[slot + 1] - first;
  p.w.data += a.plan.experts[slot] * p.w.count;
  p.y += first * p.y_stride;
  if (!p.chained) {
    p.index = a.plan.rows + first;
  } else if (p.act.q != nullptr) {
    p.act.q += first * p.act.q_stride;
    p.act.scale += first * p.act.group_stride;
    p.act.sum += first * p.act.group_stride;
  } else {
    p.act.x += first * p.act.x_stride;
  }
  return s;
}

}  // namespace adapmoe::cuda
