// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cuda/bench_kernels.h"

#include "runtime/backend/cuda/launch.h"

namespace adapmoe::cuda {
namespace {

// A mixing function of 32 bits: any two indices give unlike words.
__device__ uint32_t mix(int64_t index) {
  auto z = static_cast<uint32_t>(index) * 0x9e3779b9U + 0x7f4a7c15U;
  z = (z ^ (z >> 16)) * 0x85ebca6bU;
  z = (z ^ (z >> 13)) * 0xc2b2ae35U;
  return z ^ (z >> 16);
}

__global__ void fill(FillArgs a) {
  const int64_t i = item();
  if (i >= a.words) return;
  const bool scale = i % a.block_words < a.scale_words;
  a.to[i] = scale ? (mix(i) & 0x03ff03ffU) | 0x2c002c00U : mix(i);
}

__global__ void fill_floats(FillFloatsArgs a) {
  const int64_t i = item();
  if (i < a.count) a.to[i] = static_cast<float>(static_cast<int32_t>(mix(i))) * 0x1p-31F;
}

static_assert(kReadThreads % kThreads == 0);
__global__ void read(ReadArgs a) {
  uint32_t sum = 0;
#pragma unroll 8
  for (int64_t i = item(); i < a.count; i += kReadThreads) {
    const uint4 part = a.from[i];
    sum += part.x ^ part.y ^ part.z ^ part.w;
  }
  a.sums[item()] = sum;
}

__global__ void copy_words(CopyWordsArgs a) {
  const int64_t i = item();
  if (i < a.words) a.to[i] = a.from[i];
}

}  // namespace

cudaError_t launch_fill(const FillArgs& args, cudaStream_t stream) {
  return launch_items(fill, args.words, stream, args);
}

cudaError_t launch_fill_floats(const FillFloatsArgs& args, cudaStream_t stream) {
  return launch_items(fill_floats, args.count, stream, args);
}

cudaError_t launch_read(const ReadArgs& args, cudaStream_t stream) {
  return launch_items(read, kReadThreads, stream, args);
}

cudaError_t launch_copy_words(const CopyWordsArgs& args, cudaStream_t stream) {
  return launch_items(copy_words, args.words, stream, args);
}

}  // namespace adapmoe::cuda
