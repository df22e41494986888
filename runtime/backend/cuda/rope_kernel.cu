// SPDX-License-Identifier: Apache-2.0
// RoPE of queries and keys, and the KV cache.
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/kv_values.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe::cuda {
namespace {

struct Angles {
  float cosine[kMaxHeadDim / 2];
  float sine[kMaxHeadDim / 2];
};

// Pair i of a head rotated: values i and i + head_dim / 2, as Hugging Face has it.
struct Pair {
  float low, high;
};

__device__ Pair rotated(const float* x, const Angles& s, int64_t i, int64_t half) {
  const float low = x[i];
  const float high = x[i + half];
  return {low * s.cosine[i] - high * s.sine[i], high * s.cosine[i] + low * s.sine[i]};
}

// One thread block per row and KV head, for it and the query heads that share it: each angle is
// computed once for all of them.
template <typename T>
__global__ void rope(AttentionArgs a) {
  __shared__ Angles s;
  const int64_t row = blockIdx.x / a.kv_heads;
  const int64_t head = blockIdx.x % a.kv_heads;
  const int64_t half = a.head_dim / 2;
  const KVPlace kv = a.kv[row];
  for (int64_t i = threadIdx.x; i < half; i += kThreads) {
    const float angle = static_cast<float>(kv.position) * a.inv_freq[i];
    canonical_sincos(angle, s.sine + i, s.cosine + i);
  }
  __syncthreads();

  const auto pairs = static_cast<unsigned>(half);
  const auto shared_by = static_cast<unsigned>(a.heads / a.kv_heads);
  for (unsigned item = threadIdx.x; item < shared_by * pairs; item += kThreads) {
    const int64_t i = item % pairs;
    const int64_t at = (head * shared_by + item / pairs) * a.head_dim;
    const Pair q = rotated(a.q + row * a.q_stride + at, s, i, half);
    float* to = a.out + row * a.out_stride + at;
    to[i] = q.low;
    to[i + half] = q.high;
  }

  const int64_t place = (kv.position * a.kv_heads + head) * a.head_dim_padded;
  T* keys = reinterpret_cast<T*>(kv.k) + place;
  T* values = reinterpret_cast<T*>(kv.v) + place;
  for (int64_t i = threadIdx.x; i < half; i += kThreads) {
    const Pair k = rotated(a.k + row * a.k_stride + head * a.head_dim, s, i, half);
    store_kv(keys + i, k.low);
    store_kv(keys + i + half, k.high);
  }
  const float* v = a.v + row * a.v_stride + head * a.head_dim;
  for (int64_t d = threadIdx.x; d < a.head_dim_padded; d += kThreads) {
    store_kv(values + d, d < a.head_dim ? v[d] : 0.0F);
    if (d >= a.head_dim) store_kv(keys + d, 0.0F);
  }
}

}  // namespace

cudaError_t launch_rope(const AttentionArgs& args, cudaStream_t stream) {
  return launch(args.kv_f16 ? rope<uint16_t> : rope<float>, args.rows * args.kv_heads, stream,
                args);
}

}  // namespace adapmoe::cuda
