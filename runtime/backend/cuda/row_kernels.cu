// SPDX-License-Identifier: Apache-2.0
// What happens to activation rows between the products.
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe::cuda {
namespace {

constexpr int kLanes = 16;  // of the canonical sums

// One group of one row: q = round(x * 127 / amax), scale = amax / 127, sum of q.
__device__ void quantize_group(const float* x, const QuantizeArgs& a, int64_t row, int64_t group) {
  float amax = 0.0F;
  for (int64_t k = 0; k < a.group; ++k) {
    const float value = fabsf(x[k]);
    amax = value > amax ? value : amax;
  }
  const bool tiny = !(amax > 1e-30F);  // its scale would be subnormal and its inverse infinite
  const float inverse = tiny ? 0.0F : 127.0F / amax;
  int8_t* q = a.q + row * a.q_stride + group * a.group;
  int32_t total = 0;
  for (int64_t k = 0; k < a.group; ++k) {
    float value = x[k] * inverse;
    value = value < 127.0F ? value : 127.0F;
    value = value > -127.0F ? value : -127.0F;
    const auto rounded = static_cast<int32_t>(nearbyintf(value));
    q[k] = static_cast<int8_t>(rounded);
    total += rounded;
  }
  const int64_t at = row * a.group_stride + group;
  a.scale[at] = tiny ? 0.0F : amax / 127.0F;
  a.sum[at] = total;
}

// One thread per group.
__global__ void quantize(QuantizeArgs a) {
  const int64_t i = item();
  if (i >= a.rows * a.groups) return;
  const int64_t row = i / a.groups;
  const int64_t group = i % a.groups;
  quantize_group(a.x + row * a.stride + group * a.group, a, row, group);
}

__global__ void swiglu(SwigluArgs a) {
  const int64_t i = item();
  if (i >= a.out.rows * a.out.groups) return;
  const int64_t row = i / a.out.groups;
  const int64_t group = i % a.out.groups;
  const int64_t at = row * a.stride + group * a.out.group;
  float* gate = a.gate + at;
  const float* up = a.up + at;
  float* out = a.x != nullptr ? a.x + row * a.x_stride + group * a.out.group : gate;
  for (int64_t k = 0; k < a.out.group; ++k) {
    const float g = gate[k];
    const float silu = g / (1.0F + canonical_exp(0.0F - g));
    out[k] = silu * up[k];
  }
  if (a.x == nullptr) quantize_group(gate, a.out, row, group);
}

// One thread block per row: 16 chains over the squares, then the fixed tree.
__global__ void rms_norm(RmsNormArgs a) {
  __shared__ float lanes[kLanes];
  const float* x = a.x + blockIdx.x * a.x_stride;
  if (threadIdx.x < kLanes) {
    float squares = 0.0F;
#pragma unroll 8
    for (int64_t k = threadIdx.x; k < a.padded; k += kLanes) squares = fmaf(x[k], x[k], squares);
    lanes[threadIdx.x] = squares;
  }
  __syncthreads();
  float sums[kLanes];
  for (int i = 0; i < kLanes; ++i) sums[i] = lanes[i];
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  const float mean = sums[0] / static_cast<float>(a.n);
  const float inverse = 1.0F / sqrtf(mean + a.eps);
  float* y = a.y + blockIdx.x * a.y_stride;
  for (int64_t k = threadIdx.x; k < a.padded; k += kThreads) y[k] = x[k] * inverse * a.weight[k];
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

}  // namespace

cudaError_t check_kernels() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, add);
}

cudaError_t launch_quantize(const QuantizeArgs& args, cudaStream_t stream) {
  return launch_items(quantize, args.rows * args.groups, stream, args);
}

cudaError_t launch_swiglu(const SwigluArgs& args, cudaStream_t stream) {
  return launch_items(swiglu, args.out.rows * args.out.groups, stream, args);
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
