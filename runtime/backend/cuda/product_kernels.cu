// SPDX-License-Identifier: Apache-2.0
// Packed matrices times activation rows. One thread block computes 16 output rows, one packed
// block of every piece. Quantized: thread (lane, slot) sums whole groups of one output row as
// integers; then one thread per output carries the chain over the groups, ascending.
#include "runtime/backend/cuda/packed_place.h"

namespace adapmoe::cuda {
namespace {

constexpr int64_t kStageBytes = 16 * 1024;  // of weights at a time
constexpr int64_t kChunkGroups = 64;        // the same in the smallest groups, 32 int4 columns
constexpr int kRowsPerPass = 4;             // activation rows that share one unpacking
constexpr int kFloatRows = kSlots;

// The integer sums of `count` groups into sums[r][group][lane], as floats.
template <bool kInt4, int R>
__device__ void sum_groups(const ProductArgs& p, const uint32_t* w, int64_t count, int64_t row,
                           int64_t column, float* sums) {
  constexpr int kCols = kInt4 ? 8 : 4;  // of one word
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t words = p.w.group_size / kCols * kLanes;  // of a group
  for (int64_t g = threadIdx.x / kLanes; g < count; g += kSlots) {
    const int32_t* x[R];
    int32_t total[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int64_t from = source_row(p, row + r);
      const int64_t at = column + g * p.w.group_size;
      x[r] = reinterpret_cast<const int32_t*>(p.act.q + from * p.act.q_stride + at);
      total[r] = kInt4 ? -8 * p.act.sum[from * p.act.group_stride + at / p.w.group_size] : 0;
    }
    const uint32_t* word = w + g * words + lane;
#pragma unroll 4
    for (int64_t k = 0; k < words / kLanes; ++k, word += kLanes) {
      const uint32_t bits = *word;
#pragma unroll
      for (int r = 0; r < R; ++r) {
        if (kInt4) {
          total[r] = __dp4a(static_cast<int>(bits & 0x0f0f0f0fU), x[r][2 * k], total[r]);
          total[r] = __dp4a(static_cast<int>((bits >> 4) & 0x0f0f0f0fU), x[r][2 * k + 1], total[r]);
        } else {
          total[r] = __dp4a(static_cast<int>(bits), x[r][k], total[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      sums[(r * kChunkGroups + g) * kLanes + lane] = static_cast<float>(total[r]);
    }
  }
}

// acc = fma(sum, scale_w * scale_x, acc) over `count` groups.
__device__ float chain(const ProductArgs& p, const uint16_t* scales, int64_t count, int64_t row,
                       int64_t group, const float* sums, float acc) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t slot = threadIdx.x / kLanes;
  const float* x_scale = p.act.scale + source_row(p, row + slot) * p.act.group_stride + group;
  const float* sum = sums + slot * kChunkGroups * kLanes + lane;
#pragma unroll 4
  for (int64_t g = 0; g < count; ++g) {
    const float scale = from_half(scales[g * kLanes + lane]) * x_scale[g];
    acc = fmaf(sum[g * kLanes], scale, acc);
  }
  return acc;
}

// R rows at a time. kMany: there may be more, so sums rest in y between passes. kStaged: the
// weights are copied to shared memory first, and each chunk of them is read once for all rows.
template <bool kInt4, int R, bool kMany, bool kStaged>
__global__ void quantized_product(ProductArgs p) {
  __shared__ float sums[R * kChunkGroups * kLanes];
  __shared__ uint4 staged[kStaged ? kStageBytes / sizeof(uint4) : 1];
  const Place at = place(p, blockIdx.x);
  const int64_t lane = threadIdx.x % kLanes;
  const int64_t slot = threadIdx.x / kLanes;
  const int64_t group_bytes = p.w.group_size * (kInt4 ? 8 : 16);
  const int64_t groups = p.w.cols / p.w.group_size;
  const int64_t chunk = kStageBytes / group_bytes;
  float acc = 0.0F;
  for (int64_t piece = at.begin; piece < at.end; ++piece) {
    const std::byte* block = block_of(p, at, piece);
    const auto* scales = reinterpret_cast<const uint16_t*>(block);
    const int64_t before = p.chained ? piece * groups : 0;  // groups of act
    for (int64_t first = 0; first < groups; first += chunk) {
      const int64_t count = groups - first < chunk ? groups - first : chunk;
      const std::byte* w = block + p.w.scale_bytes + first * group_bytes;
      if (kStaged) {
        for (int64_t i = threadIdx.x; i < count * group_bytes / 16; i += kThreads) {
          staged[i] = reinterpret_cast<const uint4*>(w)[i];
        }
        w = reinterpret_cast<const std::byte*>(staged);
        __syncthreads();
      }
      for (int64_t row = 0; row < p.rows; row += R) {
        const int64_t column = (before + first) * p.w.group_size;
        sum_groups<kInt4, R>(p, reinterpret_cast<const uint32_t*>(w), count, row, column, sums);
        __syncthreads();
        if (slot < R && row + slot < p.rows) {
          const int64_t out = int64_t{blockIdx.x} * kLanes + lane;
          float* y = p.y + (row + slot) * p.y_stride + out;
          const bool begins = piece == at.begin && first == 0;
          if (begins) acc = p.accumulate ? *y : 0.0F;
          if (kMany && !begins) acc = *y;
          acc = chain(p, scales + first * kLanes, count, row, before + first, sums, acc);
          const bool ends = piece + 1 == at.end && first + count == groups;
          if (kMany || ends) *y = acc;
        }
        __syncthreads();  // before sums and staged are overwritten
      }
    }
  }
}

__device__ float weight(const float* w) { return *w; }
__device__ float weight(const uint16_t* w) { return from_half(*w); }

// acc = fma(w, x, acc), one per column, ascending: one thread per output.
template <typename W>
__global__ void float_product(ProductArgs p) {
  const Place at = place(p, blockIdx.x);
  const int64_t lane = threadIdx.x % kLanes;
  for (int64_t row = threadIdx.x / kLanes; row < p.rows; row += kFloatRows) {
    const int64_t out = int64_t{blockIdx.x} * kLanes + lane;
    float* y = p.y + row * p.y_stride + out;
    float acc = p.accumulate ? *y : 0.0F;
    for (int64_t piece = at.begin; piece < at.end; ++piece) {
      const W* w = reinterpret_cast<const W*>(block_of(p, at, piece)) + lane;
      const float* x =
          p.act.x + source_row(p, row) * p.act.x_stride + (p.chained ? piece * p.w.cols : 0);
#pragma unroll 8
      for (int64_t k = 0; k < p.w.cols; ++k) acc = fmaf(weight(w + k * kLanes), x[k], acc);
    }
    *y = acc;
  }
}

template <bool kInt4>
cudaError_t launch_quantized(const ProductArgs& args, int64_t blocks, cudaStream_t stream) {
  const bool many = args.rows > kRowsPerPass;
  if (args.reads == WeightReads::kStaged || (args.reads == WeightReads::kByRows && many)) {
    return launch(quantized_product<kInt4, kRowsPerPass, true, true>, blocks, stream, args);
  }
  if (args.rows == 1) {
    return launch(quantized_product<kInt4, 1, false, false>, blocks, stream, args);
  }
  if (!many) {
    return launch(quantized_product<kInt4, kRowsPerPass, false, false>, blocks, stream, args);
  }
  return launch(quantized_product<kInt4, kRowsPerPass, true, false>, blocks, stream, args);
}

}  // namespace

cudaError_t launch_product(const ProductArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  if (is_quantized(args.w.dtype) && args.act.q == nullptr) {
    return launch_w4a16_product(args, stream);
  }
  const int64_t blocks = args.w.blocks * (args.chained ? 1 : args.w.count);
  switch (args.w.dtype) {
    case DType::kInt4: return launch_quantized<true>(args, blocks, stream);
    case DType::kInt8: return launch_quantized<false>(args, blocks, stream);
    case DType::kF16: return launch(float_product<uint16_t>, blocks, stream, args);
    case DType::kF32: return launch(float_product<float>, blocks, stream, args);
  }
  return cudaErrorInvalidValue;
}

}  // namespace adapmoe::cuda
