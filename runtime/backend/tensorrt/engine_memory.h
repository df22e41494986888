// SPDX-License-Identifier: Apache-2.0
// Hands out ranges of one place of device memory to the engine that is made there. What is released
// is not handed out again before all is: an engine takes its memory once, and work that is still
// queued may use a range whose release was only announced. Thread-safe.
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

  // For a new engine in `place`. REQUIRES: nothing uses what was handed out.
  void reset(std::span<std::byte> place) {
    const std::lock_guard lock(mutex_);
    place_ = place;
    used_ = wanted_ = 0;
    ranges_ = 0;
  }

  // Null where there is no room.
  void* allocate(uint64_t bytes, uint64_t alignment) {
    const std::lock_guard lock(mutex_);
    const uint64_t at = reinterpret_cast<uintptr_t>(place_.data()) + used_;
    const uint64_t begin = used_ + (alignment - at % alignment) % alignment;
    wanted_ = std::max(wanted_, begin + bytes);
    if (bytes > place_.size() || begin > place_.size() - bytes) return nullptr;
    used_ = begin + bytes;
    ++ranges_;
    return place_.data() + begin;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    if (ranges_ > 0) --ranges_;
    if (ranges_ == 0) used_ = 0;
  }

  // Bytes that the place must have for all that was asked for since reset().
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
            .release = [](void* context,
                          void* /*memory*/) { static_cast<EngineMemory*>(context)->release(); }};
  }

 private:
  mutable std::mutex mutex_;
  std::span<std::byte> place_;
  uint64_t used_ = 0;
  uint64_t wanted_ = 0;
  int64_t ranges_ = 0;
};

}  // namespace adapmoe::tensorrt
