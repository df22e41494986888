// SPDX-License-Identifier: Apache-2.0
// The session's arena as the GPU sees it. A GPU that shares the CPU's memory (a Jetson) reads the
// bytes where the disk put them. A GPU with memory of its own has a mirror of the arena there: host
// addresses then only stand for addresses in it, except for pages that share() gives to the host.
// Compiled only with CUDA.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "runtime/base/status.h"

namespace adapmoe {

class UnifiedArena {
 public:
  // Both: `memory` is page-aligned and outlives this.

  // Pins and maps the host's pages, which take memory at once; a process that forks keeps them, and
  // its child has none there, as long as this lives. Errors: kUnavailable with CUDA's
  // reason.
  static Result<UnifiedArena> map(std::span<std::byte> memory);
  // Allocates as much on the device, at once and zeroed, in one piece: a GPU with memory of its own
  // pages it, so no piece is too large. The host must not touch `memory` any more. Errors:
  // kBudgetError where the device has not that much left.
  static Result<UnifiedArena> mirror(std::span<std::byte> memory, cudaStream_t stream);

  // Lets the host use `part` (page-aligned), for copies from and to the device: pinned pages,
  // zeroed, beside the device's where the arena is a mirror. Returns where the device finds the
  // host's bytes. Errors: kUnavailable.
  Result<std::byte*> share(std::span<std::byte> part);

  UnifiedArena() = default;
  UnifiedArena(UnifiedArena&& other) noexcept { *this = std::move(other); }
  UnifiedArena& operator=(UnifiedArena&& other) noexcept {
    std::swap(pinned_, other.pinned_);
    std::swap(mirror_, other.mirror_);
    std::swap(shift_, other.shift_);
    return *this;
  }
  ~UnifiedArena();

  // Whether the device has its own copy of everything.
  bool mirrored() const { return mirror_ != nullptr; }

  // Where the device finds what `p`, a pointer into the memory, names.
  template <typename T>
  T* device(T* p) const {
    using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
    return reinterpret_cast<T*>(reinterpret_cast<Byte*>(p) + shift_);
  }

 private:
  cudaError_t pin(std::byte* at, int64_t bytes);

  std::vector<std::span<std::byte>> pinned_;  // registered with CUDA
  void* mirror_ = nullptr;                    // on the device
  intptr_t shift_ = 0;                        // device address less host address
};

}  // namespace adapmoe
