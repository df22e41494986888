// SPDX-License-Identifier: Apache-2.0
// Packed int4 and int8 matrices times quantized rows. Three teams of threads share a block. In each
// step the first sums parts of groups as integers; the second, one thread per output, carries the
// chain over the groups of the step before, ascending; the third fetches what a later step needs.
#include "runtime/backend/cuda/packed_steps.h"

namespace adapmoe::cuda {
namespace {

constexpr int kRowsPerPass = 4;  // activation rows that share one unpacking
constexpr int kSummers = 128;    // threads of the first team
constexpr int kFetchers = 32;
constexpr int kUnitWords = 4;  // weight words, of one output row, that a thread sums

// What a block with kRows activation rows at a time has in shared memory.
template <bool kInt4, int kRows>
struct Block {
  static constexpr int kBytes = kRows == 1 ? 8192 : 4096;             // of weights, per step
  static constexpr int kUnits = kBytes / (4 * kUnitWords * kLanes);   // per step
  static constexpr int kGroups = kBytes / (kInt4 ? 256 : 512);        // the smallest ones
  static constexpr int kVectors = kInt4 ? 2 : 1;                      // of q, per unit
  static constexpr int kChainThreads = kRows == 1 ? 32 : kRows * 16;  // whole warps
  static constexpr int kFirstFetcher = kSummers + kChainThreads;
  static constexpr int kThreads = kFirstFetcher + kFetchers;

  struct Weights {
    alignas(16) uint16_t scale[kGroups * kLanes];
    alignas(16) uint32_t words[kBytes / 4];
  };
  struct Act {
    uint4 q[kRows][kUnits * kVectors];
    float scale[kRows][kGroups];
    int32_t sum[kRows][kGroups];
  };
  struct Sums {
    int32_t part[kUnits][kRows][kLanes];
    float scale[kGroups][kRows][kLanes];  // of weights and act
  };
};

// Units of a group: 1 << unit_bits().
template <bool kInt4>
__device__ int unit_bits(const ProductArgs& p) {
  const int units = static_cast<int>(p.w.group_size) / (kInt4 ? 32 : 16);  // 1 to 8
  return (units > 1 ? 1 : 0) + (units > 2 ? 1 : 0) + (units > 4 ? 1 : 0);
}

// Queues the copies of a step to `weights`, where it brings them, and `act`.
template <bool kInt4, int R>
__device__ void fetch(const ProductArgs& p, int64_t block, const Steps<R>& steps, const Step& s,
                      const Source& from, typename Block<kInt4, R>::Weights& weights,
                      typename Block<kInt4, R>::Act& act) {
  const int count = steps.count(s);
  const int group = static_cast<int>(p.w.group_size);
  const int thread = static_cast<int>(threadIdx.x) - Block<kInt4, R>::kFirstFetcher;
  if (steps.brings_weights(s)) {
    const int words = group * (kInt4 ? 2 : 4);  // of a group
    const std::byte* data = from.data + p.w.offset + block * p.w.block_bytes;
    const auto* scales = reinterpret_cast<const uint16_t*>(data) + int64_t{s.first} * kLanes;
    const auto* quants = reinterpret_cast<const uint32_t*>(data + p.w.scale_bytes);
    copy<16, 4>(weights.words, quants + int64_t{s.first} * words, count * words, thread, kFetchers);
    copy<16>(weights.scale, scales, count * kLanes, thread, kFetchers);
  }
  constexpr int kTeam = kFetchers / R;  // threads for one row
  const int r = thread / kTeam;
  const int t = thread % kTeam;
  const int64_t at = s.first + (p.chained ? int64_t{s.piece} * steps.groups : 0);
  const int8_t* q = p.act.q + from.row * p.act.q_stride + at * group;
  const int64_t groups = from.row * p.act.group_stride + at;
  copy<16>(act.q[r], reinterpret_cast<const uint4*>(q), count * group / 16, t, kTeam);
  copy<4>(act.scale[r], p.act.scale + groups, count, t, kTeam);
  if (kInt4) copy<4>(act.sum[r], p.act.sum + groups, count, t, kTeam);
}

// total + the products of four words of weights with one row.
template <bool kInt4>
__device__ int dot(const uint32_t (&w)[kUnitWords], const uint4* x, int total) {
  const uint4 a = x[0];
  const uint32_t first[4] = {a.x, a.y, a.z, a.w};
  if constexpr (!kInt4) {
#pragma unroll
    for (int i = 0; i < kUnitWords; ++i) {
      total = __dp4a(static_cast<int>(w[i]), static_cast<int>(first[i]), total);
    }
  } else {
    const uint4 b = x[1];
    const uint32_t second[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < kUnitWords; ++i) {
      const uint32_t* pair = i < 2 ? first + 2 * i : second + 2 * (i - 2);
      const auto low = static_cast<int>(w[i] & 0x0f0f0f0fU);
      const auto high = static_cast<int>((w[i] >> 4) & 0x0f0f0f0fU);
      total = __dp4a(low, static_cast<int>(pair[0]), total);
      total = __dp4a(high, static_cast<int>(pair[1]), total);
    }
  }
  return total;
}

// The sums of all units of `count` groups; the first unit of a group makes its scale too.
template <bool kInt4, int R>
__device__ void sum_units(const typename Block<kInt4, R>::Weights& w,
                          const typename Block<kInt4, R>::Act& act, int count, int bits,
                          typename Block<kInt4, R>::Sums& sums) {
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int units = count << bits;
  for (int unit = static_cast<int>(threadIdx.x) / kLanes; unit < units; unit += kSummers / kLanes) {
    const int group = unit >> bits;
    const bool leads = group << bits == unit;
    uint32_t words[kUnitWords];
#pragma unroll
    for (int k = 0; k < kUnitWords; ++k)
      words[k] = w.words[(unit * kUnitWords + k) * kLanes + lane];
    const float scale = leads ? from_half(w.scale[group * kLanes + lane]) : 0.0F;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int offset = kInt4 && leads ? -8 * act.sum[r][group] : 0;
      const uint4* x = act.q[r] + unit * Block<kInt4, R>::kVectors;
      sums.part[unit][r][lane] = dot<kInt4>(words, x, offset);
      if (leads) sums.scale[group][r][lane] = scale * act.scale[r][group];
    }
  }
}

// acc = fma(sum, scale_w * scale_x, acc) over `count` groups of 1 << kBits units.
template <int kBits, typename Sums>
__device__ float chain(const Sums& sums, int count, int r, int lane, float acc) {
  constexpr int kUnits = 1 << kBits;
#pragma unroll(16 / kUnits)
  for (int g = 0; g < count; ++g) {
    int total = 0;
#pragma unroll
    for (int i = 0; i < kUnits; ++i) total += sums.part[g * kUnits + i][r][lane];
    acc = fmaf(static_cast<float>(total), sums.scale[g][r][lane], acc);
  }
  return acc;
}

template <bool kInt4, typename Sums>
__device__ float chain_of(const Sums& sums, int count, int bits, int r, int lane, float acc) {
  switch (bits) {
    case 0: return kInt4 ? chain<0>(sums, count, r, lane, acc) : acc;
    case 1: return chain<1>(sums, count, r, lane, acc);
    case 2: return chain<2>(sums, count, r, lane, acc);
    default: return kInt4 ? acc : chain<3>(sums, count, r, lane, acc);
  }
}

// One output per thread, and its sum. kMany: there may be more rows than kRows, so that sums rest
// in y between steps.
template <bool kInt4, int R, bool kMany>
struct Chain {
  const ProductArgs& p;
  const Steps<R>& steps;
  int64_t block;  // of y
  int bits;
  float acc = 0.0F;

  __device__ float* output(const Step& s) const {
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int row = s.row + static_cast<int>(threadIdx.x - kSummers) / kLanes;
    const bool exists = row < s.row + R && row < p.rows;
    return exists ? p.y + row * p.y_stride + block * kLanes + lane : nullptr;
  }
  // Before finish(s), and early: *y may be far away.
  __device__ void start(const Step& s) {
    const bool begins = steps.begins(s);
    if (!kMany && !begins) return;
    const float* y = output(s);
    if (y != nullptr) acc = begins && !p.accumulate ? 0.0F : *y;
  }
  __device__ void finish(const Step& s, const typename Block<kInt4, R>::Sums& sums) {
    float* y = output(s);
    if (y == nullptr) return;
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int r = static_cast<int>(threadIdx.x - kSummers) / kLanes;
    acc = chain_of<kInt4>(sums, steps.count(s), bits, r, lane, acc);
    if (kMany || steps.ends(s)) *y = acc;
  }
};

// What block `b` of the product computes, R rows at a time.
template <bool kInt4, int R, bool kMany>
__device__ void quantized_block(const ProductArgs& p, int64_t b) {
  using Shared = Block<kInt4, R>;
  __shared__ typename Shared::Weights weights[kBuffers];
  __shared__ typename Shared::Act act[kBuffers];
  __shared__ typename Shared::Sums sums[2];
  const Place at = place(p, b);
  const int groups = static_cast<int>(p.w.cols) / static_cast<int>(p.w.group_size);
  const int bits = unit_bits<kInt4>(p);
  const Steps<R> steps{
      static_cast<int>(at.begin), static_cast<int>(at.end), groups,
      Shared::kUnits >> bits,     static_cast<int>(p.rows), p.reads == WeightReads::kAgain};
  const bool sums_units = threadIdx.x < kSummers;
  const bool fetches = threadIdx.x >= Shared::kFirstFetcher;
  const int fetch_row = (static_cast<int>(threadIdx.x) - Shared::kFirstFetcher) / (kFetchers / R);
  Step ahead = steps.first();
  Source source;
  if (fetches) source = find(p, ahead.piece, ahead.row + fetch_row);
  const auto fetch_ahead = [&] {
    if (steps.more(ahead)) {
      fetch<kInt4, R>(p, at.block, steps, ahead, source, weights[ahead.weights], act[ahead.act]);
      steps.advance(ahead);
      if (steps.more(ahead)) source = find(p, ahead.piece, ahead.row + fetch_row);
    }
    __pipeline_commit();
  };
  if (fetches) {
    for (int i = 0; i < kBuffers - 1; ++i) fetch_ahead();
  }
  Chain<kInt4, R, kMany> outputs{p, steps, b, bits};
  Step before;
  int turn = 0;
  for (Step now = steps.first(); steps.more(now); steps.advance(now), ++turn) {
    __pipeline_wait_prior(kBuffers - 2);
    __syncthreads();  // `now` is there, `before` is summed
    if (sums_units) {
      sum_units<kInt4, R>(weights[now.weights], act[now.act], steps.count(now), bits,
                          sums[turn % 2]);
    } else if (fetches) {
      fetch_ahead();
    } else {
      if (turn > 0) outputs.finish(before, sums[(turn + 1) % 2]);
      outputs.start(now);
    }
    before = now;
  }
  __syncthreads();
  if (!sums_units && !fetches) outputs.finish(before, sums[(turn + 1) % 2]);
}

template <bool kInt4, int R, bool kMany>
__global__ void __launch_bounds__(Block<kInt4, R>::kThreads) quantized_product(ProductArgs p) {
  quantized_block<kInt4, R, kMany>(p, blockIdx.x);
}
template <bool kInt4, int R, bool kMany>
__global__ void __launch_bounds__(Block<kInt4, R>::kThreads) quantized_routed(RoutedProductArgs a) {
  const Settled s = settle(a);
  if (s.used) quantized_block<kInt4, R, kMany>(s.product, s.block);
}

template <bool kInt4>
cudaError_t launch_rows(const ProductArgs& args, cudaStream_t stream) {
  constexpr unsigned kFew = Block<kInt4, kRowsPerPass>::kThreads;
  const int64_t blocks = blocks_of(args);
  if (args.rows == 1) {
    return launch(quantized_product<kInt4, 1, false>, blocks, stream, args,
                  Block<kInt4, 1>::kThreads);
  }
  if (args.rows <= kRowsPerPass) {
    return launch(quantized_product<kInt4, kRowsPerPass, false>, blocks, stream, args, kFew);
  }
  return launch(quantized_product<kInt4, kRowsPerPass, true>, blocks, stream, args, kFew);
}

template <bool kInt4>
cudaError_t launch_routed_rows(const RoutedProductArgs& args, cudaStream_t stream) {
  constexpr unsigned kFew = Block<kInt4, kRowsPerPass>::kThreads;
  const int64_t blocks = blocks_of(args.product) * args.most;
  if (args.product.rows == 1) {
    return launch(quantized_routed<kInt4, 1, false>, blocks, stream, args,
                  Block<kInt4, 1>::kThreads);
  }
  if (args.product.rows <= kRowsPerPass) {
    return launch(quantized_routed<kInt4, kRowsPerPass, false>, blocks, stream, args, kFew);
  }
  return launch(quantized_routed<kInt4, kRowsPerPass, true>, blocks, stream, args, kFew);
}

}  // namespace

cudaError_t launch_quantized_product(const ProductArgs& args, cudaStream_t stream) {
  return args.w.dtype == DType::kInt4 ? launch_rows<true>(args, stream)
                                      : launch_rows<false>(args, stream);
}

cudaError_t launch_routed_quantized_product(const RoutedProductArgs& args, cudaStream_t stream) {
  return args.product.w.dtype == DType::kInt4 ? launch_routed_rows<true>(args, stream)
                                              : launch_routed_rows<false>(args, stream);
}

}  // namespace adapmoe::cuda
