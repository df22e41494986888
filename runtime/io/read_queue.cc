// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/read_queue.h"

#include <algorithm>

#include "runtime/base/check.h"

namespace adapmoe {

ReadQueue::ReadQueue(int lanes) : prefetch_lanes_(std::max(1, lanes / 2)) {
  ADAPMOE_CHECK(lanes > 0);
}

void ReadQueue::push(const ReadRequest& request) {
  (request.priority == ReadPriority::kDemand ? demand_ : prefetch_).push_back(request);
}

std::optional<ReadRequest> ReadQueue::take_prefetch(uint64_t tag) {
  const auto it = std::find_if(prefetch_.begin(), prefetch_.end(),
                               [&](const ReadRequest& r) { return r.tag == tag; });
  if (it == prefetch_.end()) return std::nullopt;
  const ReadRequest request = *it;
  prefetch_.erase(it);
  return request;
}

bool ReadQueue::cancel(uint64_t tag) { return take_prefetch(tag).has_value(); }

bool ReadQueue::promote(uint64_t tag) {
  std::optional<ReadRequest> request = take_prefetch(tag);
  if (!request) return false;
  request->priority = ReadPriority::kDemand;
  demand_.push_back(*request);
  return true;
}

std::optional<ReadRequest> ReadQueue::next() {
  if (!has_next()) return std::nullopt;
  std::deque<ReadRequest>& queue = demand_.empty() ? prefetch_ : demand_;
  const ReadRequest request = queue.front();
  queue.pop_front();
  prefetching_ += request.priority == ReadPriority::kPrefetch ? 1 : 0;
  return request;
}

void ReadQueue::finished(const ReadRequest& request) {
  prefetching_ -= request.priority == ReadPriority::kPrefetch ? 1 : 0;
}

}  // namespace adapmoe
