// SPDX-License-Identifier: Apache-2.0
// How bytes get to the GPU's memory and back, where it has its own.
#include "runtime/backend/cuda/cuda_backend.h"

namespace adapmoe::cuda {

std::optional<int64_t> CudaBackend::own_memory() const {
  size_t free = 0;
  size_t total = 0;
  if (integrated_) return std::nullopt;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return static_cast<int64_t>(free);
}

Status CudaBackend::use_memory(std::span<std::byte> memory) {
  auto arena = integrated_ ? UnifiedArena::map(memory) : UnifiedArena::mirror(memory, stream_);
  if (!arena.ok()) return arena.status();
  memory_ = std::move(arena).value();
  return {};
}

Status CudaBackend::upload(std::span<const std::byte> from, std::byte* to) {
  if (!memory_.mirrored()) return Backend::upload(from, to);
  const cudaError_t error =
      copies_.run(device(to), from.data(), from.size(), cudaMemcpyHostToDevice);
  return error == cudaSuccess ? Status() : failed("a copy to the GPU failed", error);
}

Status CudaBackend::download(const std::byte* from, std::span<std::byte> to) {
  if (!memory_.mirrored()) return Backend::download(from, to);
  const cudaError_t error = copies_.run(to.data(), device(from), to.size(), cudaMemcpyDeviceToHost);
  return error == cudaSuccess ? Status() : failed("a copy from the GPU failed", error);
}

void CudaBackend::fetch_bytes(void* begin, int64_t bytes) {
  if (!memory_.mirrored()) return;
  note(cudaMemcpyAsync(begin, device(begin), static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                       stream_));
}

void CudaBackend::copy(const void* from, void* to, int64_t bytes) {
  const cudaError_t error = cudaSetDevice(device_);  // the caller's thread may be new
  if (error != cudaSuccess) note(error);
  note(launch_copy({.from = static_cast<const uint4*>(device(from)),
                    .to = static_cast<uint4*>(device(to)),
                    .words = bytes / static_cast<int64_t>(sizeof(uint4))},
                   stream_));
}

}  // namespace adapmoe::cuda
