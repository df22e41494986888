// SPDX-License-Identifier: Apache-2.0
// The session's arena made visible to the GPU: on a Jetson both processors then read the same
// bytes where the disk put them. Compiled only with CUDA. The mapped pages are pinned, and take
// memory at once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>

#include "runtime/base/status.h"

namespace adapmoe {

class UnifiedArena {
 public:
  // Registers `memory` (page-aligned, outliving this). Errors: kUnavailable with CUDA's reason.
  static Result<UnifiedArena> map(std::span<std::byte> memory);
  UnifiedArena() = default;
  UnifiedArena(UnifiedArena&& other) noexcept { *this = std::move(other); }
  UnifiedArena& operator=(UnifiedArena&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(registered_, other.registered_);
    std::swap(piece_, other.piece_);
    std::swap(shift_, other.shift_);
    return *this;
  }
  ~UnifiedArena();

  // Where the device finds what the host has at `p`, a pointer into the memory.
  template <typename T>
  T* device(T* p) const {
    using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
    return reinterpret_cast<T*>(reinterpret_cast<Byte*>(p) + shift_);
  }

 private:
  std::span<std::byte> memory_;
  int64_t registered_ = 0;  // bytes, from the front
  int64_t piece_ = 0;       // bytes registered in one call
  intptr_t shift_ = 0;      // device address less host address
};

}  // namespace adapmoe
