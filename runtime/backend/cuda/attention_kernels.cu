// SPDX-License-Identifier: Apache-2.0
// RoPE, the KV cache and grouped-query attention. Attention runs over blocks of positions that
// start at absolute multiples; each has its own maximum, sum and weighted values, merged ascending.
#include <cuda_fp16.h>

#include "runtime/backend/attention_block.h"
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe::cuda {
namespace {

constexpr int kLanes = 16;
constexpr int kValues = kMaxHeadDim / kThreads;  // of the output, per thread
static_assert(kAttentionBlock == kThreads, "one thread per position of a block");

__device__ float load(const uint16_t* p) { return __half2float(__ushort_as_half(*p)); }
__device__ float load(const float* p) { return *p; }
__device__ void store(uint16_t* p, float value) { *p = __half_as_ushort(__float2half_rn(value)); }
__device__ void store(float* p, float value) { *p = value; }

// Value d of a head rotated to `position`: pairs (i, i + head_dim / 2), as Hugging Face has it.
__device__ float rotated(const float* x, const AttentionArgs& a, int64_t position, int64_t d) {
  if (d >= a.head_dim) return 0.0F;
  const int64_t half = a.head_dim / 2;
  const int64_t i = d < half ? d : d - half;
  float sine = 0.0F;
  float cosine = 0.0F;
  canonical_sincos(static_cast<float>(position) * a.inv_freq[i], &sine, &cosine);
  return d < half ? x[i] * cosine - x[i + half] * sine : x[i + half] * cosine + x[i] * sine;
}

// One thread per value of a row's keys and values.
template <typename T>
__global__ void store_kv(AttentionArgs a) {
  const int64_t width = a.kv_heads * a.head_dim_padded;
  const int64_t i = item();
  if (i >= a.rows * width) return;
  const int64_t row = i / width;
  const int64_t head = i % width / a.head_dim_padded;
  const int64_t d = i % a.head_dim_padded;
  const KVPlace& kv = a.kv[row];
  const int64_t at = kv.position * width + i % width;
  const float* k = a.k + row * a.k_stride + head * a.head_dim;
  const float* v = a.v + row * a.v_stride + head * a.head_dim;
  store(reinterpret_cast<T*>(kv.k) + at, rotated(k, a, kv.position, d));
  store(reinterpret_cast<T*>(kv.v) + at, d < a.head_dim ? v[d] : 0.0F);
}

// The fixed tree: lane i + lane i+8, then i+4, i+2, i+1.
__device__ float tree_sum(float* lanes) {
#pragma unroll
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma unroll
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// q . key: 16 chains, then the tree.
template <typename T>
__device__ float score(const float* q, const T* key, int64_t dim) {
  float acc[kLanes] = {};
  for (int64_t d = 0; d < dim; d += kLanes) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) acc[i] = fmaf(q[d + i], load(key + d + i), acc[i]);
  }
  return tree_sum(acc);
}

// What the threads of one query head share.
struct Shared {
  float q[kMaxHeadDim];
  float scores[kAttentionBlock];
  float lanes[kLanes];
  float largest, total;
};

// scores becomes exp(score - largest) inside [low, high) and 0 outside; also their sum.
__device__ void softmax_block(Shared& s, int64_t low, int64_t high) {
  const int64_t j = threadIdx.x;
  if (j == 0) {
    float m = s.scores[low];
    for (int64_t i = low + 1; i < high; ++i) m = m > s.scores[i] ? m : s.scores[i];
    s.largest = m;
  }
  __syncthreads();
  s.scores[j] = j >= low && j < high ? canonical_exp(s.scores[j] - s.largest) : 0.0F;
  __syncthreads();
  if (j < kLanes) {
    float acc = 0.0F;
    for (int64_t i = j; i < kAttentionBlock; i += kLanes) acc += s.scores[i];
    s.lanes[j] = acc;
  }
  __syncthreads();
  if (j == 0) s.total = tree_sum(s.lanes);
  __syncthreads();
}

// One thread block per row and query head. Thread d carries output values d, d + 128, ...
template <typename T>
__global__ void attend(AttentionArgs a) {
  __shared__ Shared s;
  const int64_t row = blockIdx.x / a.heads;
  const int64_t head = blockIdx.x % a.heads;
  const KVPlace& kv = a.kv[row];
  const int64_t dim = a.head_dim_padded;
  const int64_t stride = a.kv_heads * dim;
  const int64_t offset = head / (a.heads / a.kv_heads) * dim;
  const T* keys = reinterpret_cast<const T*>(kv.k) + offset;
  const T* values = reinterpret_cast<const T*>(kv.v) + offset;
  const float* q = a.q + row * a.q_stride + head * a.head_dim;
  for (int64_t d = threadIdx.x; d < dim; d += kThreads) s.q[d] = rotated(q, a, kv.position, d);
  __syncthreads();

  float out[kValues] = {};  // in registers: every index is a constant once unrolled
  float largest = 0.0F;
  float total = 0.0F;
  const int64_t window_start = kv.position - a.sliding_window + 1;
  const int64_t first = a.sliding_window == 0 || window_start < 0 ? 0 : window_start;
  const int64_t first_block = first / kAttentionBlock;
  for (int64_t b = first_block; b <= kv.position / kAttentionBlock; ++b) {
    const int64_t begin = b * kAttentionBlock;
    const int64_t low = first > begin ? first - begin : 0;
    const int64_t left = kv.position + 1 - begin;
    const int64_t high = left < kAttentionBlock ? left : kAttentionBlock;
    const int64_t j = threadIdx.x;
    if (j >= low && j < high) s.scores[j] = score(s.q, keys + (begin + j) * stride, dim) * a.scale;
    __syncthreads();
    softmax_block(s, low, high);
    const float m = b == first_block || !(largest > s.largest) ? s.largest : largest;
    const float old_part = b == first_block ? 0.0F : canonical_exp(largest - m);
    const float new_part = b == first_block ? 1.0F : canonical_exp(s.largest - m);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
      const int64_t d = threadIdx.x + int64_t{i} * kThreads;
      if (d >= dim) break;
      float acc = 0.0F;
#pragma unroll 4
      for (int64_t p = low; p < high; ++p) {
        acc = fmaf(s.scores[p], load(values + (begin + p) * stride + d), acc);
      }
      out[i] = b == first_block ? acc : fmaf(out[i], old_part, acc * new_part);
    }
    total = b == first_block ? s.total : fmaf(total, old_part, s.total * new_part);
    largest = m;
    __syncthreads();  // before the next block's scores
  }
  float* to = a.out + row * a.out_stride + head * a.head_dim;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    const int64_t d = threadIdx.x + int64_t{i} * kThreads;
    if (d < a.head_dim) to[d] = out[i] / total;
  }
}

template <typename T>
cudaError_t launch_as(const AttentionArgs& args, cudaStream_t stream) {
  const int64_t written = args.rows * args.kv_heads * args.head_dim_padded;
  const cudaError_t stored = launch_items(store_kv<T>, written, stream, args);
  if (stored != cudaSuccess) return stored;
  return launch(attend<T>, args.rows * args.heads, stream, args);
}

}  // namespace

cudaError_t launch_attention(const AttentionArgs& args, cudaStream_t stream) {
  return args.kv_f16 ? launch_as<uint16_t>(args, stream) : launch_as<float>(args, stream);
}

}  // namespace adapmoe::cuda
