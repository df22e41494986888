// SPDX-License-Identifier: Apache-2.0
// Packed f16 and f32 matrices times rows of floats: acc = fma(w, x, acc), one per column,
// ascending. Some threads of a block fetch what later steps need, the others carry one output each.
#include "runtime/backend/cuda/packed_steps.h"

namespace adapmoe::cuda {
namespace {

constexpr int kManyRows = 16;
constexpr int kFetchers = 96;  // threads that fetch

// What a block with kRows activation rows at a time has in shared memory.
template <typename W, int kRows>
struct Block {
  static constexpr int kColumns =
      (kRows == 1 ? 12288 : 4096) / kLanes / static_cast<int>(sizeof(W));
  static constexpr int kChainThreads = kRows == 1 ? 32 : kRows * kLanes;  // whole warps
  static constexpr int kThreads = kChainThreads + kFetchers;

  alignas(16) W weights[kColumns][kLanes];
  alignas(16) float x[kRows][kColumns + 4];  // two rows are in different banks
};

// Queues the copies of a step, of groups of 16 columns.
template <typename W, int R>
__device__ void fetch(const ProductArgs& p, int64_t block, const Steps<R>& steps, const Step& s,
                      const Source& from, Block<W, R>& to) {
  const int columns = steps.count(s) * kLanes;
  const int64_t first = int64_t{s.first} * kLanes;
  const int thread = static_cast<int>(threadIdx.x) - Block<W, R>::kChainThreads;
  const auto* w =
      reinterpret_cast<const W*>(from.data + p.w.offset + block * p.w.block_bytes) + first * kLanes;
  copy<16, 4>(to.weights[0], w, columns * kLanes, thread, kFetchers);
  constexpr int kTeam = kFetchers / R;  // threads for one row
  const int r = thread / kTeam;
  const float* x = p.act.x + from.row * p.act.x_stride + (p.chained ? s.piece * p.w.cols : 0);
  if (s.row + r < p.rows) copy<16>(to.x[r], x + first, columns, thread % kTeam, kTeam);
}

__device__ float weight(float w) { return w; }
__device__ float weight(uint16_t w) { return from_half(w); }

// 16 columns in registers, so that the next ones are read while these are summed.
struct Columns {
  float w[kLanes];
  float4 x[kLanes / 4];

  template <typename W>
  __device__ Columns(const W* weights, const float* row) {
#pragma unroll
    for (int k = 0; k < kLanes; ++k) w[k] = weight(weights[k * kLanes]);
#pragma unroll
    for (int k = 0; k < kLanes / 4; ++k) x[k] = reinterpret_cast<const float4*>(row)[k];
  }
  __device__ float add_to(float acc) const {
#pragma unroll
    for (int k = 0; k < kLanes / 4; ++k) {
      acc = fmaf(w[4 * k], x[k].x, acc);
      acc = fmaf(w[4 * k + 1], x[k].y, acc);
      acc = fmaf(w[4 * k + 2], x[k].z, acc);
      acc = fmaf(w[4 * k + 3], x[k].w, acc);
    }
    return acc;
  }
};

template <typename W, int R>
__device__ float chain(const Block<W, R>& from, int groups, int r, int lane, float acc) {
  const W* w = from.weights[0] + lane;
  const float* x = from.x[r];
  Columns now(w, x);
#pragma unroll 2
  for (int k = kLanes; k < groups * kLanes; k += kLanes) {
    const Columns next(w + k * kLanes, x + k);
    acc = now.add_to(acc);
    now = next;
  }
  return now.add_to(acc);
}

// What block `b` of the product computes, R rows at a time.
template <typename W, int R>
__device__ void float_block(const ProductArgs& p, int64_t b) {
  using Shared = Block<W, R>;
  __shared__ Shared buffers[kBuffers];
  const Place at = place(p, b);
  const Steps<R> steps{
      static_cast<int>(at.begin), static_cast<int>(at.end), static_cast<int>(p.w.cols) / kLanes,
      Shared::kColumns / kLanes,  static_cast<int>(p.rows), true};
  const bool fetching = threadIdx.x >= Shared::kChainThreads;
  const int team_row = (static_cast<int>(threadIdx.x) - Shared::kChainThreads) / (kFetchers / R);
  Step ahead = steps.first();
  Source source;
  if (fetching) source = find(p, ahead.piece, ahead.row + team_row);
  const auto fetch_ahead = [&] {
    if (steps.more(ahead)) {
      fetch<W, R>(p, at.block, steps, ahead, source, buffers[ahead.weights]);
      steps.advance(ahead);
      if (steps.more(ahead)) source = find(p, ahead.piece, ahead.row + team_row);
    }
    __pipeline_commit();
  };
  if (fetching) {
    for (int i = 0; i < kBuffers - 1; ++i) fetch_ahead();
  }
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int r = static_cast<int>(threadIdx.x) / kLanes;
  float acc = 0.0F;
  for (Step now = steps.first(); steps.more(now); steps.advance(now)) {
    __pipeline_wait_prior(kBuffers - 2);
    __syncthreads();  // `now` is there, the buffer of the step before is free
    if (fetching) {
      fetch_ahead();
    } else if (r < R && now.row + r < p.rows) {
      float* y = p.y + (now.row + r) * p.y_stride + b * kLanes + lane;
      if (steps.begins(now)) acc = p.accumulate ? *y : 0.0F;
      acc = chain(buffers[now.weights], steps.count(now), r, lane, acc);
      if (steps.ends(now)) *y = acc;
    }
  }
}

template <typename W, int R>
__global__ void __launch_bounds__(Block<W, R>::kThreads) float_product(ProductArgs p) {
  float_block<W, R>(p, blockIdx.x);
}
template <typename W, int R>
__global__ void __launch_bounds__(Block<W, R>::kThreads) float_routed(RoutedProductArgs a) {
  const Settled s = settle(a);
  if (s.used) float_block<W, R>(s.product, s.block);
}

template <typename W>
cudaError_t launch_rows(const ProductArgs& args, cudaStream_t stream) {
  const int64_t blocks = blocks_of(args);
  return args.rows == 1 ? launch(float_product<W, 1>, blocks, stream, args, Block<W, 1>::kThreads)
                        : launch(float_product<W, kManyRows>, blocks, stream, args,
                                 Block<W, kManyRows>::kThreads);
}

template <typename W>
cudaError_t launch_routed_rows(const RoutedProductArgs& args, cudaStream_t stream) {
  const int64_t blocks = blocks_of(args.product) * args.most;
  return args.product.rows == 1
             ? launch(float_routed<W, 1>, blocks, stream, args, Block<W, 1>::kThreads)
             : launch(float_routed<W, kManyRows>, blocks, stream, args,
                      Block<W, kManyRows>::kThreads);
}

}  // namespace

cudaError_t launch_float_product(const ProductArgs& args, cudaStream_t stream) {
  return args.w.dtype == DType::kF16 ? launch_rows<uint16_t>(args, stream)
                                     : launch_rows<float>(args, stream);
}

cudaError_t launch_routed_float_product(const RoutedProductArgs& args, cudaStream_t stream) {
  return args.product.w.dtype == DType::kF16 ? launch_routed_rows<uint16_t>(args, stream)
                                             : launch_routed_rows<float>(args, stream);
}

}  // namespace adapmoe::cuda
