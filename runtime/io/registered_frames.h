// SPDX-License-Identifier: Apache-2.0
// Which frames of the arena an io_uring has registered as buffers. A frame is registered when it is
// first read into, not at open, where pinning would touch all memory at once; and only as many as
// RLIMIT_MEMLOCK allows. Registered memory is pinned: giving it back to the system takes forget().
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/io/async_reader.h"
#include "runtime/io/uring_ring.h"

namespace adapmoe {

class RegisteredFrames {
 public:
  // For `frames` of `ring`, which outlives this; also registers the file. Without `wanted`, nothing
  // is ever registered.
  RegisteredFrames(Ring& ring, int fd, const FrameRegion& frames, bool wanted);

  // For the thread of the ring: the buffer to read `into`, registered now if need be, or
  // Ring::kNoBuffer.
  int buffer_of(std::span<std::byte> into);
  // Thread-safe, for memory that no read is using.
  void forget(std::span<std::byte> memory);
  // Thread-safe.
  Registration state() const;

 private:
  int index_of(const std::byte* at) const;

  Ring& ring_;
  FrameRegion frames_;
  int places_ = 0;  // 0: nothing is registered any more
  bool file_ = false;
  std::string refusal_;                              // at open
  std::unique_ptr<std::atomic<bool>[]> registered_;  // [places]
  std::atomic<int64_t> count_ = 0;
  std::atomic<int> error_ = 0;  // errno of the frame that was refused
};

}  // namespace adapmoe
