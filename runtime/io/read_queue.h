// SPDX-License-Identifier: Apache-2.0
// Which read begins next: demand before prefetch, and prefetch in at most half of the lanes, so
// that a demand read never waits behind a full set of them. Thread-compatible: a reader guards it.
#pragma once
#include <deque>
#include <optional>

#include "runtime/io/async_reader.h"

namespace adapmoe {

class ReadQueue {
 public:
  // `lanes`: reads at the same time. REQUIRES: lanes > 0.
  explicit ReadQueue(int lanes);

  void push(const ReadRequest& request);
  // See AsyncReader: both return whether the prefetch read was still queued.
  bool cancel(uint64_t tag);
  bool promote(uint64_t tag);

  bool has_next() const { return !demand_.empty() || may_prefetch(); }
  // Takes the next read out; its caller has a free lane and tells when the lane is free again.
  std::optional<ReadRequest> next();
  void finished(const ReadRequest& request);

 private:
  bool may_prefetch() const { return !prefetch_.empty() && prefetching_ < prefetch_lanes_; }
  std::optional<ReadRequest> take_prefetch(uint64_t tag);

  std::deque<ReadRequest> demand_;
  std::deque<ReadRequest> prefetch_;
  const int prefetch_lanes_;
  int prefetching_ = 0;
};

}  // namespace adapmoe
