// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory/unified_arena.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

// One piece of many gigabytes is more than some drivers pin at once.
constexpr int64_t kPiece = int64_t{256} << 20;

Status refused(cudaError_t error, int64_t bytes) {
  return unavailable(str_cat("CUDA cannot map ", format_bytes(bytes),
                             " of memory: ", cudaGetErrorString(error),
                             "; lower memory=, raise ulimit -l, or use backend=\"cpu\""));
}

}  // namespace

Result<UnifiedArena> UnifiedArena::map(std::span<std::byte> memory) {
  int device = 0;
  int same_address = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error =
        cudaDeviceGetAttribute(&same_address, cudaDevAttrCanUseHostPointerForRegisteredMem, device);
  }
  const auto bytes = static_cast<int64_t>(memory.size());
  UnifiedArena arena;
  arena.memory_ = memory;
  // Pieces may get device addresses that do not adjoin; only one piece is then safe.
  arena.piece_ = same_address != 0 ? kPiece : bytes;
  while (error == cudaSuccess && arena.registered_ < bytes) {
    const int64_t size = std::min(arena.piece_, bytes - arena.registered_);
    error = cudaHostRegister(memory.data() + arena.registered_, static_cast<size_t>(size),
                             cudaHostRegisterMapped | cudaHostRegisterPortable);
    if (error == cudaSuccess) arena.registered_ += size;
  }
  if (error == cudaSuccess && same_address == 0 && bytes > 0) {
    void* at = nullptr;
    error = cudaHostGetDevicePointer(&at, memory.data(), 0);
    arena.shift_ = reinterpret_cast<intptr_t>(at) - reinterpret_cast<intptr_t>(memory.data());
  }
  if (error != cudaSuccess) return refused(error, bytes);
  return arena;
}

UnifiedArena::~UnifiedArena() {
  for (int64_t at = 0; at < registered_; at += piece_) {
    (void)cudaHostUnregister(memory_.data() + at);
  }
}

}  // namespace adapmoe
