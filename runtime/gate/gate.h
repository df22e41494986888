// SPDX-License-Identifier: Apache-2.0
// From router logits to the experts used. Pure functions: the same logits and settings give the
// same decision.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/model_config.h"  // RouterSpec
#include "runtime/residency/residency_view.h"

namespace adapmoe {

enum class GatingMode : uint8_t {
  kOff,          // the model's own top-k
  kSensitivity,  // AdapMoE's rule: drop the weakest experts where that hardly moves the loss
  kResidency,    // the same rule, but only for experts that would have to be read
};

struct GatingConfig {
  GatingMode mode = GatingMode::kOff;
  float threshold = 0.0F;          // T
  std::vector<float> sensitivity;  // s_i, one per layer
};

// The experts of one token row, ascending by expert index, and their weights.
struct RoutingDecision {
  std::vector<int32_t> experts;
  std::vector<float> weights;
  std::vector<int32_t> left_out = {};  // by the policy, in any order
  float dropped_share = 0.0F;          // of the weight, by the policy
};

// The model's own selection: score all experts, keep the top_k best (ties: the lower index),
// renormalise if the model does.
RoutingDecision select_top_k(std::span<const float> router_logits, const RouterSpec& spec);

// AdapMoE (arXiv 2408.10284, adaptive sensitivity-based gating), for any top_k: the weakest experts
// are dropped together as long as sensitivity * (their share of the weight)^2 < threshold.
// threshold 0 drops nothing. Where the model renormalises, what is kept keeps the total weight.
RoutingDecision drop_insensitive(const RoutingDecision& decision, bool renormalize,
                                 float sensitivity, float threshold);

// The same bound on what may be lost, spent only where it saves a read: a resident expert is free
// quality and stays. Depends on the state of the cache, so two runs may differ.
RoutingDecision drop_insensitive_misses(const RoutingDecision& decision, bool renormalize,
                                        float sensitivity, float threshold,
                                        const ResidencyView& view);

// The gate: selection, then the policy. `layer` indexes gating.sensitivity; `view` is that layer's.
RoutingDecision route(std::span<const float> router_logits, int64_t layer, const RouterSpec& spec,
                      const GatingConfig& gating, const ResidencyView& view);

}  // namespace adapmoe
