// SPDX-License-Identifier: Apache-2.0
// Copies between pinned memory and the device's own, beside the operators.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

namespace adapmoe::cuda {

class CopyLane {
 public:
  CopyLane() = default;
  CopyLane(CopyLane&& other) noexcept { *this = std::move(other); }
  CopyLane& operator=(CopyLane&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~CopyLane();

  cudaError_t open(int device);
  // Returns when the bytes are there. Thread-safe: each copy has its own event, so several threads
  // keep the lane busy.
  cudaError_t run(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) const;

 private:
  int device_ = 0;
  cudaStream_t stream_ = nullptr;
};

}  // namespace adapmoe::cuda
