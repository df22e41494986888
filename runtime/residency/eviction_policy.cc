// SPDX-License-Identifier: Apache-2.0
#include "runtime/residency/eviction_policy.h"

#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

class LruPolicy final : public EvictionPolicy {
 public:
  size_t choose(std::span<const EvictionCandidate> candidates, int32_t /*layer*/) const override {
    size_t victim = 0;
    for (size_t i = 1; i < candidates.size(); ++i) {
      if (candidates[i].last_use < candidates[victim].last_use) victim = i;
    }
    return victim;
  }
};

class FarthestLayerPolicy final : public EvictionPolicy {
 public:
  explicit FarthestLayerPolicy(int64_t num_layers) : num_layers_(num_layers) {}

  size_t choose(std::span<const EvictionCandidate> candidates, int32_t layer) const override {
    size_t victim = 0;
    for (size_t i = 1; i < candidates.size(); ++i) {
      const int64_t distance = layers_until(candidates[i].id.layer, layer);
      const int64_t farthest = layers_until(candidates[victim].id.layer, layer);
      if (distance > farthest ||
          (distance == farthest && candidates[i].last_use < candidates[victim].last_use)) {
        victim = i;
      }
    }
    return victim;
  }

 private:
  // Layers until `candidate` is computed again; the layer being computed now comes up last.
  int64_t layers_until(int32_t candidate, int32_t layer) const {
    return (candidate - layer - 1 + num_layers_) % num_layers_;
  }

  int64_t num_layers_;
};

}  // namespace

Result<std::unique_ptr<EvictionPolicy>> make_eviction_policy(const std::string& name,
                                                             int64_t num_layers) {
  std::unique_ptr<EvictionPolicy> policy;
  if (name == "farthest-layer") policy = std::make_unique<FarthestLayerPolicy>(num_layers);
  if (name == "lru") policy = std::make_unique<LruPolicy>();
  if (policy == nullptr) {
    return invalid_argument(str_cat("policy=\"", name, "\": expected farthest-layer or lru"));
  }
  return policy;
}

}  // namespace adapmoe
