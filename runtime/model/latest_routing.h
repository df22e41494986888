// SPDX-License-Identifier: Apache-2.0
// Which experts the latest pass over each layer used, and which the gate left out. Written by the
// step; any thread may read, and then sees each expert as of this pass or the one before.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/gate/gate.h"

namespace adapmoe {

class LatestRouting {
 public:
  enum Flag : uint8_t { kUsed = 1, kLeftOut = 2 };  // an expert may be both, for different rows

  LatestRouting(int64_t layers, int64_t experts)
      : experts_(static_cast<size_t>(experts)),
        flags_(std::make_unique<std::atomic<uint8_t>[]>(static_cast<size_t>(layers) * experts_)) {}

  // The decisions for all rows of a pass.
  void note(int32_t layer, std::span<const RoutingDecision> decisions) {
    std::vector<uint8_t> flags(experts_);
    for (const RoutingDecision& decision : decisions) {
      for (const int32_t e : decision.experts) flags[static_cast<size_t>(e)] |= kUsed;
      for (const int32_t e : decision.left_out) flags[static_cast<size_t>(e)] |= kLeftOut;
    }
    for (size_t e = 0; e < experts_; ++e) {
      flags_[static_cast<size_t>(layer) * experts_ + e].store(flags[e], std::memory_order_relaxed);
    }
  }

  // Of the expert at layer * experts + expert.
  uint8_t at(size_t index) const { return flags_[index].load(std::memory_order_relaxed); }

 private:
  size_t experts_;
  std::unique_ptr<std::atomic<uint8_t>[]> flags_;
};

}  // namespace adapmoe
