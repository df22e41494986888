// SPDX-License-Identifier: Apache-2.0
// For .cu files: how a kernel of one argument is queued.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace adapmoe::cuda {

inline constexpr unsigned kThreads = 128;  // of a block, where the kernel says nothing else

template <typename Args>
cudaError_t launch(void (*kernel)(Args), int64_t blocks, cudaStream_t stream, const Args& args,
                   unsigned threads = kThreads) {
  if (blocks == 0) return cudaSuccess;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(threads);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args);
}

// One thread per item.
template <typename Args>
cudaError_t launch_items(void (*kernel)(Args), int64_t items, cudaStream_t stream,
                         const Args& args) {
  return launch(kernel, (items + kThreads - 1) / kThreads, stream, args);
}

__device__ inline int64_t item() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

}  // namespace adapmoe::cuda
