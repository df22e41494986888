// SPDX-License-Identifier: Apache-2.0
#include "runtime/backend/cuda/copy_lane.h"

namespace adapmoe::cuda {

CopyLane::~CopyLane() {
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

cudaError_t CopyLane::open(int device) {
  device_ = device;
  return cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
}

cudaError_t CopyLane::run(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) const {
  cudaError_t error = cudaSetDevice(device_);  // the thread may be a reader's
  if (error != cudaSuccess) return error;
  cudaEvent_t done = nullptr;
  // Blocking: a thread that waits leaves its core to those that compute.
  error = cudaEventCreateWithFlags(&done, cudaEventDisableTiming | cudaEventBlockingSync);
  if (error != cudaSuccess) return error;
  error = cudaMemcpyAsync(to, from, bytes, kind, stream_);
  if (error == cudaSuccess) error = cudaEventRecord(done, stream_);
  if (error == cudaSuccess) error = cudaEventSynchronize(done);
  (void)cudaEventDestroy(done);
  return error;
}

}  // namespace adapmoe::cuda
