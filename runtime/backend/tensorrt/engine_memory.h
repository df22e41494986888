// SPDX-License-Identifier: Apache-2.0
// Hands out parts of one piece of device memory to the engine that is created in it. No part is
// handed out twice before reset(), because TensorRT may release one that queued work still uses. An
// engine that releases and allocates again needs more memory, which wanted() counts. Thread-safe.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>

#include "runtime/backend/tensorrt/adapter_abi.h"

namespace adapmoe::tensorrt {

class EngineMemory {
 public:
  EngineMemory() = default;
  explicit EngineMemory(std::span<std::byte> place) : place_(place) {}
  EngineMemory(const EngineMemory&) = delete;
  EngineMemory& operator=(const EngineMemory&) = delete;

  // For a new engine in the memory `place`. REQUIRES: nothing uses what was handed out.
  void reset(std::span<std::byte> place) {
    const std::lock_guard lock(mutex_);
    place_ = place;
    used_ = wanted_ = 0;
  }

  // `alignment`: a power of two, or 0 for any. Null where there is no room.
  void* allocate(uint64_t bytes, uint64_t alignment) {
    const std::lock_guard lock(mutex_);
    alignment = std::max(alignment, uint64_t{1});
    const uint64_t at = reinterpret_cast<uintptr_t>(place_.data()) + used_;
    const uint64_t begin = used_ + (alignment - at % alignment) % alignment;
    wanted_ = std::max(wanted_, begin + bytes);
    if (bytes > place_.size() || begin > place_.size() - bytes) return nullptr;
    used_ = begin + bytes;
    return place_.data() + begin;
  }

  // Bytes of memory needed for everything that was requested since reset().
  int64_t wanted() const {
    const std::lock_guard lock(mutex_);
    return static_cast<int64_t>(wanted_);
  }

  // For an adapter. REQUIRES: this outlives the engine, at the same address.
  TrtAllocator allocator() {
    return {.context = this,
            .allocate =
                [](void* context, uint64_t bytes, uint64_t alignment) {
                  return static_cast<EngineMemory*>(context)->allocate(bytes, alignment);
                },
            .release = [](void* /*context*/, void* /*memory*/) {}};  // reset() takes all back
  }

 private:
  mutable std::mutex mutex_;
  std::span<std::byte> place_;
  uint64_t used_ = 0;
  uint64_t wanted_ = 0;
};

}  // namespace adapmoe::tensorrt
