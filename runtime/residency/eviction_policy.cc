// SPDX-License-Identifier: Apache-2.0
#include "runtime/residency/eviction_policy.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

// The candidate with the smallest key; the first of equals.
template <typename Key>
size_t smallest(std::span<const EvictionCandidate> candidates, const Key& key) {
  size_t victim = 0;
  auto least = key(candidates[0]);
  for (size_t i = 1; i < candidates.size(); ++i) {
    auto other = key(candidates[i]);
    if (!(other < least)) continue;
    least = std::move(other);
    victim = i;
  }
  return victim;
}

class LruPolicy final : public EvictionPolicy {
 public:
  size_t choose(std::span<const EvictionCandidate> candidates,
                const EvictionContext& /*context*/) const override {
    return smallest(candidates, [](const EvictionCandidate& c) { return c.last_use; });
  }
};

class FarthestLayerPolicy final : public EvictionPolicy {
 public:
  explicit FarthestLayerPolicy(int64_t num_layers) : num_layers_(num_layers) {}

  size_t choose(std::span<const EvictionCandidate> candidates,
                const EvictionContext& context) const override {
    return smallest(candidates, [&](const EvictionCandidate& c) {
      return std::tuple(-layers_until(c.id.layer, context.layer, num_layers_), c.last_use);
    });
  }

 private:
  int64_t num_layers_;
};

class LfruPolicy final : public EvictionPolicy {
 public:
  size_t choose(std::span<const EvictionCandidate> candidates,
                const EvictionContext& context) const override {
    return smallest(candidates, [&](const EvictionCandidate& c) {
      const auto age = static_cast<double>(context.now - c.last_use);
      return std::tuple(static_cast<double>(c.uses) / (age + 1.0), c.last_use);
    });
  }
};

class LeastStalePolicy final : public EvictionPolicy {
 public:
  size_t choose(std::span<const EvictionCandidate> candidates,
                const EvictionContext& context) const override {
    return smallest(candidates, [&](const EvictionCandidate& c) {
      return std::tuple(c.last_use > context.pass_start, c.loaded_at);
    });
  }
};

class NextUsePolicy final : public EvictionPolicy {
 public:
  explicit NextUsePolicy(int64_t num_layers) : num_layers_(num_layers) {}

  size_t choose(std::span<const EvictionCandidate> candidates,
                const EvictionContext& context) const override {
    return smallest(candidates, [&](const EvictionCandidate& c) {
      const uint64_t seen = context.pass - (c.id.layer > context.layer ? 1 : 0);  // by its layer
      const double passes = 1.0 / std::clamp(c.rate.at(seen), kLeastRate, 1.0) - 1.0;
      const auto layers = static_cast<double>(layers_until(c.id.layer, context.layer, num_layers_));
      return std::tuple(-(layers + static_cast<double>(num_layers_) * passes), c.last_use);
    });
  }

 private:
  static constexpr double kLeastRate = 0.01;  // below it, which layer comes first no longer counts

  int64_t num_layers_;
};

}  // namespace

int64_t layers_until(int32_t layer, int32_t current, int64_t num_layers) {
  return (layer - current - 1 + num_layers) % num_layers;
}

Result<std::unique_ptr<EvictionPolicy>> make_eviction_policy(const std::string& name,
                                                             int64_t num_layers) {
  std::unique_ptr<EvictionPolicy> policy;
  if (name == "farthest-layer") policy = std::make_unique<FarthestLayerPolicy>(num_layers);
  if (name == "lru") policy = std::make_unique<LruPolicy>();
  if (name == "lfru") policy = std::make_unique<LfruPolicy>();
  if (name == "least-stale") policy = std::make_unique<LeastStalePolicy>();
  if (name == "next-use") policy = std::make_unique<NextUsePolicy>(num_layers);
  if (policy == nullptr) {
    return invalid_argument(str_cat(
        "policy=\"", name, "\": expected next-use, farthest-layer, lru, lfru or least-stale"));
  }
  return policy;
}

size_t choose_victim(const EvictionPolicy& policy, std::span<const EvictionCandidate> candidates,
                     const EvictionContext& context, std::span<const int64_t> floors,
                     std::span<const int64_t> resident) {
  if (floors.empty()) return policy.choose(candidates, context);
  std::vector<EvictionCandidate> above;
  std::vector<size_t> index;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const auto layer = static_cast<size_t>(candidates[i].id.layer);
    if (resident[layer] <= floors[layer]) continue;
    above.push_back(candidates[i]);
    index.push_back(i);
  }
  return above.empty() ? policy.choose(candidates, context) : index[policy.choose(above, context)];
}

}  // namespace adapmoe
