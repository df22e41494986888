// SPDX-License-Identifier: Apache-2.0
// Which resident expert goes when a frame is needed. Policies are pure: the same candidates give
// the same victim, so that a recorded trace can be replayed through the very same code.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/base/status.h"
#include "runtime/base/types.h"

namespace adapmoe {

// An expert that nobody holds and that has no read under way.
struct EvictionCandidate {
  ExpertId id;
  uint64_t last_use = 0;  // acquire count at its last use
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  // Index of the victim. `layer` is the layer being computed. REQUIRES: candidates is not empty.
  virtual size_t choose(std::span<const EvictionCandidate> candidates, int32_t layer) const = 0;
};

// "farthest-layer" evicts the expert whose layer comes up last, "lru" the one used longest ago;
// ties go to the older use. Errors: kInvalidArgument for an unknown name.
Result<std::unique_ptr<EvictionPolicy>> make_eviction_policy(const std::string& name,
                                                             int64_t num_layers);

}  // namespace adapmoe
