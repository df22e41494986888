// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/staged_reader.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "runtime/base/check.h"

namespace adapmoe {
namespace {

std::optional<ReadRequest> take(std::deque<ReadRequest>& queue, uint64_t tag) {
  const auto it = std::find_if(queue.begin(), queue.end(),
                               [&](const ReadRequest& request) { return request.tag == tag; });
  if (it == queue.end()) return std::nullopt;
  const ReadRequest request = *it;
  queue.erase(it);
  return request;
}

}  // namespace

StagedReader::StagedReader(std::unique_ptr<AsyncReader> reader,
                           std::vector<std::span<std::byte>> places)
    : free_(std::move(places)),
      prefetch_places_(std::max<size_t>(1, free_.size() / 2)),
      reader_(std::move(reader)) {
  ADAPMOE_CHECK(!free_.empty());
}

StagedReader::~StagedReader() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
}

void StagedReader::set_completion(Completion completion) {
  completion_ = std::move(completion);
  reader_->set_completion([this](uint64_t tag, const Status& status, std::span<const std::byte>) {
    arrived(tag, status);
  });
}

void StagedReader::submit(const ReadRequest& request) {
  const std::lock_guard lock(mutex_);
  (request.priority == ReadPriority::kDemand ? demand_ : prefetch_).push_back(request);
  begin_locked();
}

bool StagedReader::cancel(uint64_t tag) {
  const std::lock_guard lock(mutex_);
  if (take(prefetch_, tag)) return true;
  const auto it = begun_.find(tag);
  if (it == begun_.end() || !reader_->cancel(tag)) return false;
  const Begun begun = it->second;
  begun_.erase(it);
  end_locked(begun);
  return true;
}

bool StagedReader::promote(uint64_t tag) {
  const std::lock_guard lock(mutex_);
  if (std::optional<ReadRequest> request = take(prefetch_, tag)) {
    request->priority = ReadPriority::kDemand;
    demand_.push_back(*request);
    begin_locked();
    return true;
  }
  return begun_.contains(tag) && reader_->promote(tag);
}

// Hands reads on while there are places for them.
void StagedReader::begin_locked() {
  while (!stopping_ && !free_.empty()) {
    const bool prefetch = demand_.empty();
    if (prefetch && (prefetch_.empty() || prefetching_ == prefetch_places_)) return;
    std::deque<ReadRequest>& queue = prefetch ? prefetch_ : demand_;
    const Begun begun{queue.front(), free_.back()};
    queue.pop_front();
    free_.pop_back();
    prefetching_ += prefetch ? 1 : 0;
    ADAPMOE_CHECK(begun.request.into.size() <= begun.place.size());
    begun_[begun.request.tag] = begun;
    ReadRequest staged = begun.request;
    staged.into = begun.place.first(begun.request.into.size());
    reader_->submit(staged);
  }
}

void StagedReader::end_locked(const Begun& begun) {
  free_.push_back(begun.place);
  prefetching_ -= begun.request.priority == ReadPriority::kPrefetch ? 1 : 0;
  begin_locked();
}

void StagedReader::arrived(uint64_t tag, const Status& status) {
  Begun begun;
  {
    const std::lock_guard lock(mutex_);
    // Out before the completion, after which the same tag may be submitted again.
    const auto it = begun_.find(tag);
    ADAPMOE_CHECK(it != begun_.end());
    begun = it->second;
    begun_.erase(it);
  }
  completion_(tag, status, begun.place.first(begun.request.into.size()));
  const std::lock_guard lock(mutex_);
  end_locked(begun);
}

}  // namespace adapmoe
