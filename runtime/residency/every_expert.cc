// SPDX-License-Identifier: Apache-2.0
#include "runtime/residency/every_expert.h"

#include "runtime/base/check.h"
#include "runtime/residency/expert_cache.h"

namespace adapmoe {

EveryExpert::~EveryExpert() {
  if (cache_ != nullptr) cache_->release_every();
}

std::optional<EveryExpert> ExpertCache::hold_every() {
  const std::lock_guard lock(mutex_);
  if (ready_ < frame_of_.size()) return std::nullopt;
  if (addresses_of_ != placement_) {
    addresses_.clear();
    for (const FrameIndex frame : frame_of_) addresses_.push_back(frames_.data(frame));
    addresses_of_ = placement_;
  }
  ++holds_of_all_;
  return EveryExpert(this, addresses_, placement_);
}

void ExpertCache::release_every() {
  const std::lock_guard lock(mutex_);
  ADAPMOE_CHECK(holds_of_all_ > 0);
  --holds_of_all_;
}

}  // namespace adapmoe
