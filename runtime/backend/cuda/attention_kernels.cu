// SPDX-License-Identifier: Apache-2.0
// Grouped-query attention over blocks of positions that start at absolute multiples. Each block has
// its own maximum, sum and weighted values, so that thread blocks compute them side by side; then
// they are merged ascending.
#include "runtime/backend/cuda/attention_tile.h"
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/backend/cuda/tree_sum.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kMostHeads = static_cast<int>(kThreads) / kWarp;
constexpr int64_t kMostSplits = 64;  // thread blocks that share the positions of a row

// Continues the 16 chains of every head, for the thread's position.
template <typename T, int kHeads>
__device__ void multiply(const AttentionShared<kHeads>& s, int dims, float (&acc)[kHeads][kLanes]) {
#pragma unroll 1
  for (int d = 0; d < dims; d += kLanes) {
    float key[kLanes];
    get_values<T>(s, d, key);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int i = 0; i < kLanes; ++i) acc[h][i] = fmaf(s.q[h][d + i], key[i], acc[h][i]);
    }
  }
}

// q . key for every head: 16 chains, then the tree. One thread per position.
template <typename T, int kHeads>
__device__ void score(const Positions<T>& keys, const float* q, const AttentionArgs& a,
                      AttentionShared<kHeads>& s) {
  float acc[kHeads][kLanes] = {};
  for (int first = 0; first < keys.dims; first += kDims<T>) {
    uint4 pieces[kLoads];
    float queries[kQueries<T, kHeads>];
    load_tile(keys, first, pieces);
    load_queries<T, kHeads>(q, a, first, queries);
    __syncthreads();  // nobody reads the tile any more
    put_tile(pieces, s);
    put_queries<T, kHeads>(queries, s);
    __syncthreads();
    const int left = keys.dims - first;
    multiply<T>(s, left < kDims<T> ? left : kDims<T>, acc);
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) s.scores[h][threadIdx.x] = tree_sum(acc[h]) * a.scale;
  __syncthreads();
}

__device__ float larger(float a, float b) { return a > b ? a : b; }

// Scores become exp(score - largest) inside [low, high) and 0 outside. The largest and the sum go
// to `slot` and, for the next heads, multiples of `stride` behind it.
template <int kHeads>
__device__ void softmax(int low, int high, const AttentionParts& parts, int64_t slot,
                        int64_t stride, AttentionShared<kHeads>& s) {
  const int me = static_cast<int>(threadIdx.x);
  const int head = me / kLanes;  // of a thread per head and lane; position modulo 16 is the lane
  const int lane = me % kLanes;
  if (head < kHeads) {
    float m = __uint_as_float(0xff800000U);  // less than any
    for (int p = lane; p < kPositions; p += kLanes) {
      if (p >= low && p < high) m = larger(m, s.scores[head][p]);
    }
    s.lanes[head][lane] = m;
  }
  __syncthreads();
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    float m = s.lanes[h][0];
#pragma unroll
    for (int i = 1; i < kLanes; ++i) m = larger(m, s.lanes[h][i]);
    const float below = s.scores[h][me] - m;
    const float poison = below - below;  // 0 or NaN, which exp would lose
    s.scores[h][me] = me >= low && me < high ? canonical_exp(below) + poison : 0.0F;
    if (me == h) parts.largest[slot + h * stride] = m;
  }
  __syncthreads();
  if (head < kHeads) {
    float sum = 0.0F;
#pragma unroll
    for (int p = 0; p < kPositions; p += kLanes) sum += s.scores[head][p + lane];
    s.lanes[head][lane] = sum;
  }
  __syncthreads();
  if (me < kHeads) parts.total[slot + me * stride] = tree_sum(s.lanes[me]);
}

// The weighted values: one warp per head, one thread per 4 bytes of a position, a chain ascending
// over positions for each value.
template <typename T, int kHeads>
__device__ void weigh(const Positions<T>& rows, int first, float* to, AttentionShared<kHeads>& s) {
  const int head = static_cast<int>(threadIdx.x) / kWarp;
  const int word = static_cast<int>(threadIdx.x) % kWarp;
  const int d = first + word * kPerWord<T>;
  if (head >= kHeads || d >= rows.dims) return;
  float sums[kPerWord<T>] = {};
#pragma unroll 8
  for (int p = rows.low; p < rows.high; ++p) {
    float values[kPerWord<T>];
    unpack(reinterpret_cast<const uint32_t*>(s.tile[p])[word], values);
#pragma unroll
    for (int v = 0; v < kPerWord<T>; ++v) sums[v] = fmaf(s.scores[head][p], values[v], sums[v]);
  }
#pragma unroll
  for (int v = 0; v < kPerWord<T>; ++v) to[d + v] = sums[v];
}

// The blocks that a row attends to.
struct Range {
  int64_t first;  // position
  int64_t first_block, last_block;
};

__device__ Range range_of(const AttentionArgs& a, int64_t position) {
  const int64_t start = position - a.sliding_window + 1;
  const int64_t first = a.sliding_window == 0 || start < 0 ? 0 : start;
  return {first, first / kAttentionBlock, position / kAttentionBlock};
}

struct AttendArgs : AttentionArgs {
  int64_t splits = 0;  // thread blocks that take the blocks of positions in turn
};

// `splits` thread blocks for each row and kHeads query heads.
template <typename T, int kHeads>
__global__ void attend(AttendArgs a) {
  __shared__ AttentionShared<kHeads> s;
  const auto splits = static_cast<unsigned>(a.splits);
  const auto parts = static_cast<unsigned>(a.heads / kHeads);
  const int64_t row = blockIdx.x / splits / parts;
  const int64_t head = int64_t{blockIdx.x / splits % parts} * kHeads;
  const KVPlace kv = a.kv[row];
  const Range range = range_of(a, kv.position);
  const int64_t stride = a.kv_heads * a.head_dim_padded;
  const int64_t offset = head / (a.heads / a.kv_heads) * a.head_dim_padded;
  const float* q = a.out + row * a.out_stride + head * a.head_dim;
  for (int64_t b = range.first_block + blockIdx.x % splits; b <= range.last_block; b += splits) {
    const int64_t begin = b * kAttentionBlock;
    const int64_t left = kv.position + 1 - begin;
    const int low = static_cast<int>(range.first > begin ? range.first - begin : 0);
    const int high = static_cast<int>(left < kAttentionBlock ? left : kAttentionBlock);
    const int dims = static_cast<int>(a.head_dim_padded);
    const int64_t at = begin * stride + offset;
    const Positions<T> keys = {reinterpret_cast<const T*>(kv.k) + at, stride, low, high, dims};
    const Positions<T> values = {reinterpret_cast<const T*>(kv.v) + at, stride, low, high, dims};
    score(keys, q, a, s);
    uint4 pieces[kLoads];
    load_tile(values, 0, pieces);
    const int64_t slot = (row * a.heads + head) * a.blocks + (b - range.first_block);
    softmax(low, high, a.parts, slot, a.blocks, s);
    float* to = a.parts.values + (slot + threadIdx.x / kWarp * a.blocks) * dims;
    for (int first = 0; first < dims; first += kDims<T>) {
      put_tile(pieces, s);
      __syncthreads();
      if (dims - first > kDims<T>) load_tile(values, first + kDims<T>, pieces);
      weigh(values, first, to, s);
      __syncthreads();
    }
  }
}

// One thread per value of a row's heads.
__global__ void merge(AttentionArgs a) {
  const auto values_per_head = static_cast<unsigned>(a.head_dim);
  const unsigned i = blockIdx.x * kThreads + threadIdx.x;
  const unsigned head = i / values_per_head;  // of all rows
  if (head >= a.rows * a.heads) return;
  const unsigned d = i % values_per_head;
  const int64_t row = head / static_cast<unsigned>(a.heads);
  const Range range = range_of(a, a.kv[row].position);
  const auto count = static_cast<int>(range.last_block - range.first_block + 1);
  const float* largest = a.parts.largest + head * a.blocks;
  const float* totals = a.parts.total + head * a.blocks;
  const float* values = a.parts.values + head * a.blocks * a.head_dim_padded + d;
  float m = largest[0];
  float total = totals[0];
  float out = values[0];
#pragma unroll 8
  for (int b = 1; b < count; ++b) {
    const float before = m;
    m = larger(before, largest[b]);
    const float old_part = canonical_exp(before - m);
    const float new_part = canonical_exp(largest[b] - m);
    out = fmaf(out, old_part, values[b * a.head_dim_padded] * new_part);
    total = fmaf(total, old_part, totals[b] * new_part);
  }
  a.out[row * a.out_stride + head % static_cast<unsigned>(a.heads) * a.head_dim + d] = out / total;
}

template <typename T, int kHeads>
cudaError_t launch_attend(const AttentionArgs& args, cudaStream_t stream) {
  static_assert(kHeads <= kMostHeads);
  AttendArgs split{args};
  split.splits = args.blocks < kMostSplits ? args.blocks : kMostSplits;
  return launch(attend<T, kHeads>, args.rows * args.heads / kHeads * split.splits, stream, split);
}

// As many heads as share a KV head, or a part of them.
template <typename T>
cudaError_t launch_as(const AttentionArgs& args, cudaStream_t stream) {
  const int64_t shared_by = args.heads / args.kv_heads;
  if (shared_by % 4 == 0) return launch_attend<T, 4>(args, stream);
  if (shared_by % 2 == 0) return launch_attend<T, 2>(args, stream);
  return launch_attend<T, 1>(args, stream);
}

}  // namespace

cudaError_t launch_attention(const AttentionArgs& args, cudaStream_t stream) {
  const cudaError_t error =
      args.kv_f16 ? launch_as<uint16_t>(args, stream) : launch_as<float>(args, stream);
  if (error != cudaSuccess) return error;
  return launch_items(merge, args.rows * args.heads * args.head_dim, stream, args);
}

}  // namespace adapmoe::cuda
