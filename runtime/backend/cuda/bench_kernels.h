// SPDX-License-Identifier: Apache-2.0
// Kernels that only the benchmarks of device_bench.h need.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace adapmoe::cuda {

// Writes pseudo-random words, or, in the first `scale_words` of every `block_words`, pairs of
// halves in [2^-4, 2^-3).
struct FillArgs {
  uint32_t* to = nullptr;
  int64_t words = 0;
  int64_t block_words = 0;
  int64_t scale_words = 0;
};

// Writes floats in [-1, 1).
struct FillFloatsArgs {
  float* to = nullptr;
  int64_t count = 0;
};

// Reads everything; `sums` keeps the compiler from leaving it out.
struct ReadArgs {
  const uint4* from = nullptr;
  int64_t count = 0;
  uint32_t* sums = nullptr;  // [kReadThreads]
};
inline constexpr int64_t kReadThreads = int64_t{2048} * 128;

struct CopyWordsArgs {
  const uint32_t* from = nullptr;
  uint32_t* to = nullptr;
  int64_t words = 0;
};

cudaError_t launch_fill(const FillArgs& args, cudaStream_t stream);
cudaError_t launch_fill_floats(const FillFloatsArgs& args, cudaStream_t stream);
cudaError_t launch_read(const ReadArgs& args, cudaStream_t stream);
cudaError_t launch_copy_words(const CopyWordsArgs& args, cudaStream_t stream);

}  // namespace adapmoe::cuda
