// SPDX-License-Identifier: Apache-2.0
// Packed int4 and int8 matrices times activations that stay floats (W4A16): the weights are widened
// where they are used. Not the canonical arithmetic: what it misses is the rounding of activations
// to int8, so it is nearer to the exact product, but not the CPU's bits.
#include "runtime/backend/cuda/packed_place.h"

namespace adapmoe::cuda {
namespace {

constexpr int kSlots = kThreads / kLanes;  // groups at the same time
constexpr int kRowsPerPass = 4;            // activation rows that share one reading of the weights
constexpr int kAtOnce = 4;                 // words of a lane; a group has a multiple of them

__device__ int64_t source_row(const ProductArgs& p, int64_t row) {
  const int64_t i = row < p.rows ? row : p.rows - 1;  // computed again, and not stored
  return p.index != nullptr ? p.index[i] : i;
}

// An integer in [0, 255] as a float, without a conversion, which costs more than two additions.
__device__ float widen(uint32_t value) {
  constexpr uint32_t kTwoTo23 = 0x4b000000U;  // whose last mantissa bit is 1
  return __uint_as_float(kTwoTo23 | value) - 8388608.0F;
}

// The integer weights of one packed word of a lane: 8 columns of int4, 4 of int8.
template <bool kInt4>
struct Word {
  static constexpr int kCols = kInt4 ? 8 : 4;
  float w[kCols];

  __device__ explicit Word(uint32_t bits) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kInt4) {  // low nibbles, then high ones; 8 means zero
        w[i] = widen((bits >> (8 * i)) & 15U) - 8.0F;
        w[4 + i] = widen((bits >> (8 * i + 4)) & 15U) - 8.0F;
      } else {  // with the sign bit inverted, zero is 128
        w[i] = widen(((bits >> (8 * i)) & 255U) ^ 128U) - 128.0F;
      }
    }
  }
};

// The sums over one group, for R rows: x[r] is where the group begins in row r.
template <bool kInt4, int R>
__device__ void sum_group(const uint32_t* word, int words, const float* const (&x)[R],
                          float (&sum)[R]) {
  constexpr int kVectors = Word<kInt4>::kCols / 4;
  for (int k = 0; k < words; k += kAtOnce) {
    uint32_t bits[kAtOnce];  // all read before the first is used
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) bits[i] = word[(k + i) * kLanes];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const Word<kInt4> weights(bits[i]);
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          const float4 part = reinterpret_cast<const float4*>(x[r])[(k + i) * kVectors + v];
          sum[r] = fmaf(weights.w[4 * v], part.x, sum[r]);
          sum[r] = fmaf(weights.w[4 * v + 1], part.y, sum[r]);
          sum[r] = fmaf(weights.w[4 * v + 2], part.z, sum[r]);
          sum[r] = fmaf(weights.w[4 * v + 3], part.w, sum[r]);
        }
      }
    }
  }
}

// Slot s sums groups s, s + 8, ... of all pieces for R rows at a time; then one thread per output
// adds the slots, in a fixed order. The weights are read again for every R rows.
template <bool kInt4, int R>
__device__ void float_activations_block(const ProductArgs& p, int64_t b) {
  __shared__ float partial[kSlots * R * kLanes];
  const Place at = place(p, b);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int slot = static_cast<int>(threadIdx.x) / kLanes;
  const auto group = static_cast<int>(p.w.group_size);
  const int groups = static_cast<int>(p.w.cols) / group;
  const int words = group / Word<kInt4>::kCols;
  for (int64_t row = 0; row < p.rows; row += R) {
    float acc[R] = {};
    const float* rows[R];
#pragma unroll
    for (int r = 0; r < R; ++r) rows[r] = p.act.x + source_row(p, row + r) * p.act.x_stride;
    for (int64_t piece = at.begin; piece < at.end; ++piece) {
      const std::byte* block = block_of(p, at, piece);
      const auto* scales = reinterpret_cast<const uint16_t*>(block) + lane;
      const auto* data = reinterpret_cast<const uint32_t*>(block + p.w.scale_bytes) + lane;
      const int64_t column = p.chained ? piece * p.w.cols : 0;
      for (int g = slot; g < groups; g += kSlots) {
        const float* x[R];
        float sum[R] = {};
#pragma unroll
        for (int r = 0; r < R; ++r) x[r] = rows[r] + column + g * group;
        sum_group<kInt4, R>(data + int64_t{g} * words * kLanes, words, x, sum);
        const float scale = from_half(scales[g * kLanes]);
#pragma unroll
        for (int r = 0; r < R; ++r) acc[r] = fmaf(sum[r], scale, acc[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) partial[(slot * R + r) * kLanes + lane] = acc[r];
    __syncthreads();
    if (slot < R && row + slot < p.rows) {
      float* y = p.y + (row + slot) * p.y_stride + b * kLanes + lane;
      float total = p.accumulate ? *y : 0.0F;
      for (int s = 0; s < kSlots; ++s) total += partial[(s * R + slot) * kLanes + lane];
      *y = total;
    }
    __syncthreads();  // before partial is overwritten
  }
}

template <bool kInt4, int R>
__global__ void float_activations_product(ProductArgs p) {
  float_activations_block<kInt4, R>(p, blockIdx.x);
}
template <bool kInt4, int R>
__global__ void float_activations_routed(RoutedProductArgs a) {
  const Settled s = settle(a);
  if (s.used) float_activations_block<kInt4, R>(s.product, s.block);
}

template <bool kInt4>
cudaError_t launch_rows(const ProductArgs& args, int64_t blocks, cudaStream_t stream) {
  if (args.rows == 1) return launch(float_activations_product<kInt4, 1>, blocks, stream, args);
  return launch(float_activations_product<kInt4, kRowsPerPass>, blocks, stream, args);
}

template <bool kInt4>
cudaError_t launch_routed_rows(const RoutedProductArgs& args, cudaStream_t stream) {
  const int64_t blocks = blocks_of(args.product) * args.most;
  if (args.product.rows == 1) {
    return launch(float_activations_routed<kInt4, 1>, blocks, stream, args);
  }
  return launch(float_activations_routed<kInt4, kRowsPerPass>, blocks, stream, args);
}

}  // namespace

cudaError_t launch_w4a16_product(const ProductArgs& args, cudaStream_t stream) {
  const int64_t blocks = blocks_of(args);
  return args.w.dtype == DType::kInt4 ? launch_rows<true>(args, blocks, stream)
                                      : launch_rows<false>(args, blocks, stream);
}

cudaError_t launch_routed_w4a16_product(const RoutedProductArgs& args, cudaStream_t stream) {
  return args.product.w.dtype == DType::kInt4 ? launch_routed_rows<true>(args, stream)
                                              : launch_routed_rows<false>(args, stream);
}

}  // namespace adapmoe::cuda
