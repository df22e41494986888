// SPDX-License-Identifier: Apache-2.0
// Which resident expert goes when a frame is needed. Policies are pure: the same candidates give
// the same victim, so that a recorded trace can be replayed through the very same code.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/status.h"
#include "runtime/base/types.h"
#include "runtime/residency/use_rate.h"

namespace adapmoe {

// An expert that nobody holds and that has no read under way. Times count acquires.
struct EvictionCandidate {
  ExpertId id;
  uint64_t last_use = 0;
  uint64_t loaded_at = 0;
  uint64_t uses = 0;  // acquires since the session was opened
  UseRate rate;
};

struct EvictionContext {
  int32_t layer = 0;        // being computed
  uint64_t now = 0;         // acquires so far
  uint64_t pass_start = 0;  // `now` when this pass over the layers began
  uint64_t pass = 1;        // its number
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  // Index of the victim. REQUIRES: candidates is not empty.
  virtual size_t choose(std::span<const EvictionCandidate> candidates,
                        const EvictionContext& context) const = 0;
};

// Ties go to the older use, then to the first candidate.
// - "farthest-layer": the expert whose layer comes up last.
// - "lru": the one used longest ago.
// - "lfru": least uses / (age + 1), age in acquires since the last use.
// - "least-stale": first those not used in this pass, oldest read first (SpecMD, arXiv 2602.03921).
// - "next-use": the one expected to be needed last: layers until its own, and a round of all layers
//   for each pass that its use rate lets expect in between. Belady's rule with the future
//   estimated.
// Errors: kInvalidArgument for an unknown name.
Result<std::unique_ptr<EvictionPolicy>> make_eviction_policy(const std::string& name,
                                                             int64_t num_layers);

// Layers until `layer` is computed again when `current` is being computed now; the current one
// comes up last.
int64_t layers_until(int32_t layer, int32_t current, int64_t num_layers);

// The policy's choice among the candidates of layers that keep more than their soft floor, or among
// all where there is none. `floors` [layers]: experts each layer should keep; empty: no floors.
// `resident` [layers]: experts with any frame.
size_t choose_victim(const EvictionPolicy& policy, std::span<const EvictionCandidate> candidates,
                     const EvictionContext& context, std::span<const int64_t> floors,
                     std::span<const int64_t> resident);

}  // namespace adapmoe
