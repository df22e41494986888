// SPDX-License-Identifier: Apache-2.0
// An io_uring for reads, and the eventfd that wakes whoever waits on it. uring_ring.cc is the one
// file that knows liburing. For one thread, but for what is said to be thread-safe.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "runtime/base/status.h"

namespace adapmoe {

class Ring {
 public:
  static constexpr uint64_t kWake = UINT64_MAX;       // user data of the poll that ends a wait
  static constexpr int kMostBuffers = 1 << 14;        // the kernel's limit
  static constexpr int64_t kLargestBuffer = 1 << 30;  // likewise, and of one read
  static constexpr int kNoBuffer = -1;

  // Room for `depth` reads and one poll. Errors: kUnavailable with the reason.
  static Result<std::unique_ptr<Ring>> open(int depth);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // From now on reads of `fd` name it by a number that the kernel knows. Returns an errno, or 0.
  int register_file(int fd);
  // Makes `count` places for buffers, all empty. Returns an errno, or 0.
  int reserve_buffers(int count);
  // Pins `memory` as buffer `index`, or lets go of what is there if it is empty. Thread-safe for
  // different buffers. Returns an errno, or 0.
  int set_buffer(int index, std::span<std::byte> memory);

  // `buffer`: a registered one that contains `into`, or kNoBuffer. Of more than kLargestBuffer only
  // so much is read.
  void add_read(int fd, int64_t offset, std::span<std::byte> into, int buffer, uint64_t user_data);
  void add_wake_poll();

  // Thread-safe.
  void wake() const;
  void clear_wake() const;

  // Hands over what was added and waits until something has completed.
  void submit_and_wait();
  struct Event {
    uint64_t user_data = 0;
    int result = 0;  // bytes, or -errno
  };
  // Something that has completed; empty: nothing more.
  std::optional<Event> next_event();

 private:
  struct State;
  explicit Ring(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace adapmoe
