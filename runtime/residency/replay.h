// SPDX-License-Identifier: Apache-2.0
// Recorded routing run again through the eviction policies, without a model or a disk; and Belady's
// optimum as the bound.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/residency/eviction_policy.h"

namespace adapmoe {

// The experts that one layer needed at once, in one pass over the layers.
struct TraceVisit {
  int64_t pass = 0;
  int32_t layer = 0;
  std::vector<int32_t> experts;  // ascending
};

struct ReplayResult {
  int64_t visits = 0;  // experts needed
  int64_t hits = 0;    // of them, resident
};

// Replays with room for `capacity` experts. As the runtime does: residents first, then the missing
// ones, ascending; experts needed at once are held together. REQUIRES: capacity >= 1; layers and
// experts of the trace lie inside the given counts.
ReplayResult replay(std::span<const TraceVisit> trace, int64_t num_layers, int64_t num_experts,
                    int64_t capacity, const EvictionPolicy& policy,
                    std::span<const int64_t> floors);

// The same with the future known: evicts the expert needed again last (Belady 1966), and passes by
// an expert that would be needed again later than everything resident. Passes before `count_from`
// are replayed, but not counted.
ReplayResult replay_belady(std::span<const TraceVisit> trace, int64_t num_layers,
                           int64_t num_experts, int64_t capacity, int64_t count_from = 0);

}  // namespace adapmoe
