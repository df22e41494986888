// SPDX-License-Identifier: Apache-2.0
// Packed int4 and int8 matrices times activations that stay floats (W4A16): the weights are widened
// where they are used. Not the canonical arithmetic: what it misses is the rounding of activations
// to int8, so it is nearer to the exact product, but not the CPU's bits.
#include "runtime/backend/cuda/packed_place.h"

namespace adapmoe::cuda {
namespace {

constexpr int kRowsPerPass = 4;  // activation rows that share one reading of the weights

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
__device__ void sum_group(const uint32_t* word, int64_t words, const float* const (&x)[R],
                          float (&sum)[R]) {
  constexpr int kVectors = Word<kInt4>::kCols / 4;
#pragma unroll 4
  for (int64_t k = 0; k < words; ++k) {
    const Word<kInt4> weights(word[k * kLanes]);
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const float4 part = reinterpret_cast<const float4*>(x[r])[k * kVectors + v];
        sum[r] = fmaf(weights.w[4 * v], part.x, sum[r]);
        sum[r] = fmaf(weights.w[4 * v + 1], part.y, sum[r]);
        sum[r] = fmaf(weights.w[4 * v + 2], part.z, sum[r]);
        sum[r] = fmaf(weights.w[4 * v + 3], part.w, sum[r]);
      }
    }
  }
}

// Slot s sums groups s, s + 8, ... of all pieces for R rows at a time; then one thread per output
// adds the slots, in a fixed order. The weights are read again for every R rows.
template <bool kInt4, int R>
__global__ void float_activations_product(ProductArgs p) {
  __shared__ float partial[kSlots * R * kLanes];
  const Place at = place(p, blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int slot = static_cast<int>(threadIdx.x) / kLanes;
  const int64_t groups = p.w.cols / p.w.group_size;
  const int64_t words = p.w.group_size / Word<kInt4>::kCols;
  for (int64_t row = 0; row < p.rows; row += R) {
    float acc[R] = {};
    for (int64_t piece = at.begin; piece < at.end; ++piece) {
      const std::byte* block = block_of(p, at, piece);
      const auto* scales = reinterpret_cast<const uint16_t*>(block) + lane;
      const auto* data = reinterpret_cast<const uint32_t*>(block + p.w.scale_bytes) + lane;
      const int64_t column = p.chained ? piece * p.w.cols : 0;
      for (int64_t g = slot; g < groups; g += kSlots) {
        const float* x[R];
        float sum[R] = {};
#pragma unroll
        for (int r = 0; r < R; ++r) {
          x[r] = p.act.x + source_row(p, row + r) * p.act.x_stride + column + g * p.w.group_size;
        }
        sum_group<kInt4, R>(data + g * words * kLanes, words, x, sum);
        const float scale = from_half(scales[g * kLanes]);
#pragma unroll
        for (int r = 0; r < R; ++r) acc[r] = fmaf(sum[r], scale, acc[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) partial[(slot * R + r) * kLanes + lane] = acc[r];
    __syncthreads();
    if (slot < R && row + slot < p.rows) {
      float* y = p.y + (row + slot) * p.y_stride + int64_t{blockIdx.x} * kLanes + lane;
      float total = p.accumulate ? *y : 0.0F;
      for (int s = 0; s < kSlots; ++s) total += partial[(s * R + slot) * kLanes + lane];
      *y = total;
    }
    __syncthreads();  // before partial is overwritten
  }
}

template <bool kInt4>
cudaError_t launch_rows(const ProductArgs& args, int64_t blocks, cudaStream_t stream) {
  if (args.rows == 1) return launch(float_activations_product<kInt4, 1>, blocks, stream, args);
  return launch(float_activations_product<kInt4, kRowsPerPass>, blocks, stream, args);
}

}  // namespace

cudaError_t launch_w4a16_product(const ProductArgs& args, cudaStream_t stream) {
  const int64_t blocks = args.w.blocks * (args.chained ? 1 : args.w.count);
  return args.w.dtype == DType::kInt4 ? launch_rows<true>(args, blocks, stream)
                                      : launch_rows<false>(args, blocks, stream);
}

}  // namespace adapmoe::cuda
