// SPDX-License-Identifier: Apache-2.0
// What happens to activation rows between the products.
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/backend/cuda/tree_sum.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe::cuda {
namespace {

constexpr int kQuad = 4;  // neighbouring values of a row that one thread holds
constexpr int kQuads = kQuad * static_cast<int>(kThreads);

// Which values are a thread's. A group never reaches into another thread block.
struct Place {
  int64_t row, column;
  bool inside;
};

__device__ Place place(int64_t cols) {
  const auto blocks = static_cast<unsigned>((cols + kQuads - 1) / kQuads);  // per row
  const int64_t column = blockIdx.x % blocks * kQuads + int64_t{threadIdx.x} * kQuad;
  return {blockIdx.x / blocks, column, column < cols};
}

__device__ float4 load(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ void store(float* p, float4 value) { *reinterpret_cast<float4*>(p) = value; }
// Of values that are not negative. NaN is larger than all, as its bits are: it must not be lost.
__device__ float larger(float value, float than) {
  const uint32_t a = __float_as_uint(value);
  const uint32_t b = __float_as_uint(than);
  return __uint_as_float(a > b ? a : b);
}

__device__ float largest_of(float4 v) {
  return larger(fabsf(v.w), larger(fabsf(v.z), larger(fabsf(v.y), larger(fabsf(v.x), 0.0F))));
}

__device__ int32_t rounded(float value) {
  value = value < 127.0F ? value : 127.0F;
  value = value > -127.0F ? value : -127.0F;
  return static_cast<int32_t>(nearbyintf(value));
}

// What the threads of a block tell those of their group.
struct Parts {
  alignas(16) float largest[kThreads];
  alignas(16) uint32_t sums[kThreads];
};

// One group of one row: q = round(x * 127 / amax), scale = amax / 127, sum of q. Neither the
// largest value nor the sum depends on the order. All threads of the block.
__device__ void quantize_quad(float4 x, const QuantizeArgs& a, const Place& at) {
  __shared__ Parts s;
  const unsigned me = threadIdx.x;
  const unsigned threads = static_cast<unsigned>(a.group) / kQuad;
  const unsigned first = me & ~(threads - 1);
  s.largest[me] = largest_of(x);
  __syncthreads();
  float amax = 0.0F;
  for (unsigned i = first; i < first + threads; i += kQuad) {
    amax = larger(largest_of(load(s.largest + i)), amax);
  }
  const bool tiny = amax <= 1e-30F;  // its scale would be subnormal and its inverse infinite
  const float inverse = tiny ? 0.0F : 127.0F / amax;
  const int32_t q[] = {rounded(x.x * inverse), rounded(x.y * inverse), rounded(x.z * inverse),
                       rounded(x.w * inverse)};
  s.sums[me] = static_cast<uint32_t>(q[0] + q[1] + q[2] + q[3]);
  __syncthreads();
  if (!at.inside) return;
  uint32_t bytes = 0;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) bytes |= (static_cast<uint32_t>(q[i]) & 255U) << (8 * i);
  *reinterpret_cast<uint32_t*>(a.q + at.row * a.q_stride + at.column) = bytes;
  if (me != first) return;
  uint32_t total = 0;
  for (unsigned i = first; i < first + threads; i += kQuad) {
    const uint4 sums = *reinterpret_cast<const uint4*>(s.sums + i);
    total += sums.x + sums.y + sums.z + sums.w;
  }
  const int64_t group = at.row * a.group_stride + at.column / a.group;
  a.scale[group] = tiny ? 0.0F : amax / 127.0F;
  a.sum[group] = static_cast<int32_t>(total);
}

__global__ void quantize(QuantizeArgs a) {
  const Place at = place(a.groups * a.group);
  float4 x{};
  if (at.inside) x = load(a.x + at.row * a.stride + at.column);
  quantize_quad(x, a, at);
}

__device__ float gated(float gate, float up) {
  const float silu = gate / (1.0F + canonical_exp(0.0F - gate));
  return silu * up;
}

__global__ void swiglu(SwigluArgs a) {
  const Place at = place(a.out.groups * a.out.group);
  float4 x{};
  if (at.inside) {
    const float4 gate = load(a.gate + at.row * a.stride + at.column);
    const float4 up = load(a.up + at.row * a.stride + at.column);
    x = {gated(gate.x, up.x), gated(gate.y, up.y), gated(gate.z, up.z), gated(gate.w, up.w)};
  }
  if (a.x == nullptr) {
    quantize_quad(x, a.out, at);
  } else if (at.inside) {
    store(a.x + at.row * a.x_stride + at.column, x);
  }
}

constexpr int kEach = 8;                // quads of a row that a thread loads at once
constexpr int kChunk = kEach * kQuads;  // values of a row that lie in shared memory at once

struct NormParts {
  alignas(16) float x[kChunk];
  float lanes[kLanes];
};

__device__ int column(int i) {
  return (i * static_cast<int>(kThreads) + static_cast<int>(threadIdx.x)) * kQuad;
}

// This thread's part of `count` values. Nothing promises the compiler that these are not what is
// stored next, and so it leaves all loads before the first store or barrier that follows.
__device__ void load_chunk(const float* x, int count, float4 (&values)[kEach]) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) values[i] = column(i) < count ? load(x + column(i)) : float4{};
}

__device__ int chunk_at(int64_t begin, int64_t end) {
  return static_cast<int>(end - begin < kChunk ? end - begin : kChunk);
}

// 16 chains over the squares, then the fixed tree. The last chunk stays in s.x.
__device__ float sum_of_squares(const float* x, int64_t padded, NormParts& s) {
  float squares = 0.0F;
  for (int64_t begin = 0; begin < padded; begin += kChunk) {
    const int count = chunk_at(begin, padded);
    float4 values[kEach];
    load_chunk(x + begin, count, values);
    __syncthreads();  // the chunk before has been read
#pragma unroll
    for (int i = 0; i < kEach; ++i) store(s.x + column(i), values[i]);
    __syncthreads();
    if (threadIdx.x >= kLanes) continue;
#pragma unroll 16
    for (int k = static_cast<int>(threadIdx.x); k < count; k += kLanes) {
      squares = fmaf(s.x[k], s.x[k], squares);
    }
  }
  if (threadIdx.x < kLanes) s.lanes[threadIdx.x] = squares;
  __syncthreads();
  float sums[kLanes];
#pragma unroll
  for (int i = 0; i < kLanes; ++i) sums[i] = s.lanes[i];
  return tree_sum(sums);
}

// One thread block per row.
__global__ void rms_norm(RmsNormArgs a) {
  __shared__ NormParts s;
  const float* x = a.x + blockIdx.x * a.x_stride;
  float* y = a.y + blockIdx.x * a.y_stride;
  const float mean = sum_of_squares(x, a.padded, s) / static_cast<float>(a.n);
  const float inverse = 1.0F / sqrtf(mean + a.eps);
  for (int64_t begin = 0; begin < a.padded; begin += kChunk) {
    const int count = chunk_at(begin, a.padded);
    float4 values[kEach];
    float4 weights[kEach];
    load_chunk(a.padded > kChunk ? x + begin : s.x, count, values);
    load_chunk(a.weight + begin, count, weights);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float4 v = values[i];
      const float4 w = weights[i];
      if (column(i) >= count) break;
      store(y + begin + column(i),
            {v.x * inverse * w.x, v.y * inverse * w.y, v.z * inverse * w.z, v.w * inverse * w.w});
    }
  }
}

__global__ void add(AddArgs a) {
  const int64_t i = item();
  if (i >= a.rows * a.n) return;
  const int64_t row = i / a.n;
  const int64_t k = i % a.n;
  a.into[row * a.into_stride + k] += a.x[row * a.x_stride + k];
}

__global__ void combine(CombineArgs a) {
  const int64_t i = item();
  if (i >= a.hidden.rows * a.hidden.n) return;
  const int64_t row = i / a.hidden.n;
  const int64_t k = i % a.hidden.n;
  const int32_t* outputs = a.outputs + row * a.top_k;
  const float* weights = a.weights + row * a.top_k;
  float sum = a.expert_out[outputs[0] * a.out_stride + k] * weights[0];
  for (int64_t j = 1; j < a.top_k && outputs[j] >= 0; ++j) {
    sum += weights[j] * a.expert_out[outputs[j] * a.out_stride + k];
  }
  a.hidden.into[row * a.hidden.into_stride + k] += sum;
}

// Thread blocks per row.
int64_t blocks_of(const QuantizeArgs& args) {
  return (args.groups * args.group + kQuads - 1) / kQuads;
}

}  // namespace

cudaError_t check_kernels() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, add);
}

cudaError_t launch_quantize(const QuantizeArgs& args, cudaStream_t stream) {
  return launch(quantize, args.rows * blocks_of(args), stream, args);
}

cudaError_t launch_swiglu(const SwigluArgs& args, cudaStream_t stream) {
  return launch(swiglu, args.out.rows * blocks_of(args.out), stream, args);
}

cudaError_t launch_rms_norm(const RmsNormArgs& args, cudaStream_t stream) {
  return launch(rms_norm, args.rows, stream, args);
}

cudaError_t launch_add(const AddArgs& args, cudaStream_t stream) {
  return launch_items(add, args.rows * args.n, stream, args);
}

cudaError_t launch_combine(const CombineArgs& args, cudaStream_t stream) {
  return launch_items(combine, args.hidden.rows * args.hidden.n, stream, args);
}

}  // namespace adapmoe::cuda
