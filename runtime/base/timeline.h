// SPDX-License-Identifier: Apache-2.0
// Spans of work for a picture of who was busy when, and for a profile, which adds up kCompute and
// kStall: in those lanes spans never overlap. Off costs one pointer test. Thread-safe.
#pragma once
#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

namespace adapmoe {

enum class Lane : uint8_t { kCompute, kStall, kDemand, kPrefetch };

struct Span {
  Lane lane = Lane::kCompute;
  const char* name = "";  // a literal
  int32_t thread = 0;     // of the lane
  int32_t layer = -1;     // -1: none
  int64_t begin_ns = 0;   // since the timeline was made
  int64_t end_ns = 0;
};

class Timeline {
 public:
  int64_t now() const {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count();
  }
  void add(const Span& span) {
    const std::lock_guard lock(mutex_);
    spans_.push_back(span);
  }
  std::vector<Span> spans() const {
    const std::lock_guard lock(mutex_);
    return spans_;
  }

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  mutable std::mutex mutex_;
  std::vector<Span> spans_;
};

// Records from construction to destruction; nothing without a timeline.
class SpanTimer {
 public:
  SpanTimer(Timeline* timeline, Lane lane, const char* name, int32_t thread = 0, int32_t layer = -1)
      : timeline_(timeline), span_{lane, name, thread, layer, timeline ? timeline->now() : 0, 0} {}
  ~SpanTimer() {
    if (timeline_ == nullptr) return;
    span_.end_ns = timeline_->now();
    timeline_->add(span_);
  }
  SpanTimer(const SpanTimer&) = delete;
  SpanTimer& operator=(const SpanTimer&) = delete;

 private:
  Timeline* timeline_;
  Span span_;
};

}  // namespace adapmoe
