// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory/unified_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

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

Status not_protected(int64_t bytes) {
  return unavailable(str_cat("cannot change the protection of ", format_bytes(bytes),
                             " of memory: ", std::generic_category().message(errno)));
}

intptr_t distance(const void* from, const void* to) {
  return reinterpret_cast<intptr_t>(to) - reinterpret_cast<intptr_t>(from);
}

}  // namespace

cudaError_t UnifiedArena::pin(std::byte* at, int64_t bytes) {
  const cudaError_t error = cudaHostRegister(at, static_cast<size_t>(bytes),
                                             cudaHostRegisterMapped | cudaHostRegisterPortable);
  if (error != cudaSuccess) return error;
  pinned_.emplace_back(at, static_cast<size_t>(bytes));
  // After a fork the device would keep these pages and a write would give this process others.
  (void)madvise(at, static_cast<size_t>(bytes), MADV_DONTFORK);
  return error;
}

Result<UnifiedArena> UnifiedArena::map(std::span<std::byte> memory) {
  int device = 0;
  int same_address = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error =
        cudaDeviceGetAttribute(&same_address, cudaDevAttrCanUseHostPointerForRegisteredMem, device);
  }
  const auto bytes = static_cast<int64_t>(memory.size());
  // Pieces may get device addresses that do not adjoin; only one piece is then safe.
  const int64_t piece = same_address != 0 ? kPiece : bytes;
  UnifiedArena arena;
  for (int64_t at = 0; error == cudaSuccess && at < bytes; at += piece) {
    error = arena.pin(memory.data() + at, std::min(piece, bytes - at));
  }
  if (error == cudaSuccess && same_address == 0 && bytes > 0) {
    void* at = nullptr;
    error = cudaHostGetDevicePointer(&at, memory.data(), 0);
    arena.shift_ = distance(memory.data(), at);
  }
  if (error != cudaSuccess) return refused(error, bytes);
  return arena;
}

Result<UnifiedArena> UnifiedArena::mirror(std::span<std::byte> memory, cudaStream_t stream) {
  UnifiedArena arena;
  cudaError_t error = cudaMalloc(&arena.mirror_, memory.size());
  if (error == cudaSuccess) error = cudaMemsetAsync(arena.mirror_, 0, memory.size(), stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  if (error != cudaSuccess) {
    return budget_error(str_cat("the GPU cannot give ",
                                format_bytes(static_cast<int64_t>(memory.size())),
                                " of its memory: ", cudaGetErrorString(error),
                                "; lower memory=, or end what else uses the GPU"));
  }
  arena.shift_ = distance(memory.data(), arena.mirror_);
  // A touch by the host is then a fault and not a wrong value.
  if (mprotect(memory.data(), memory.size(), PROT_NONE) != 0) {
    return not_protected(static_cast<int64_t>(memory.size()));
  }
  return arena;
}

Result<std::byte*> UnifiedArena::share(std::span<std::byte> part) {
  if (!mirrored()) return device(part.data());
  const auto bytes = static_cast<int64_t>(part.size());
  if (mprotect(part.data(), part.size(), PROT_READ | PROT_WRITE) != 0) return not_protected(bytes);
  cudaError_t error = pin(part.data(), bytes);
  void* at = nullptr;
  if (error == cudaSuccess) error = cudaHostGetDevicePointer(&at, part.data(), 0);
  if (error != cudaSuccess) return refused(error, bytes);
  return static_cast<std::byte*>(at);
}

UnifiedArena::~UnifiedArena() {
  for (const std::span<std::byte> part : pinned_) {
    (void)cudaHostUnregister(part.data());
    (void)madvise(part.data(), part.size(), MADV_DOFORK);
  }
  if (mirror_ != nullptr) (void)cudaFree(mirror_);
}

}  // namespace adapmoe
