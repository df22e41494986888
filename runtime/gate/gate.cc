// SPDX-License-Identifier: Apache-2.0
#include "runtime/gate/gate.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "runtime/base/canonical_math.h"

namespace adapmoe {
namespace {

std::vector<float> scores_of(std::span<const float> logits, RouterScore score) {
  std::vector<float> scores(logits.begin(), logits.end());
  if (score == RouterScore::kSigmoid) {
    for (float& s : scores) s = 1.0F / (1.0F + canonical_exp(-s));
    return scores;
  }
  const float largest = *std::max_element(scores.begin(), scores.end());
  float total = 0.0F;
  for (float& s : scores) {
    s = canonical_exp(s - largest);
    total += s;
  }
  for (float& s : scores) s /= total;
  return scores;
}

// Positions of `weights`, strongest first; ties keep the lower position.
std::vector<size_t> strongest_first(std::span<const float> weights) {
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  return order;
}

// Experts ascending, because outputs are combined in ascending expert order.
RoutingDecision keep(std::span<const int32_t> experts, std::span<const float> weights,
                     std::vector<size_t> positions) {
  std::sort(positions.begin(), positions.end());
  RoutingDecision decision;
  for (const size_t p : positions) {
    decision.experts.push_back(experts[p]);
    decision.weights.push_back(weights[p]);
  }
  return decision;
}

float total_of(std::span<const float> weights) {
  return std::accumulate(weights.begin(), weights.end(), 0.0F);
}

}  // namespace

RoutingDecision select_top_k(std::span<const float> router_logits, const RouterSpec& spec) {
  const std::vector<float> scores = scores_of(router_logits, spec.score);
  std::vector<int32_t> all(scores.size());
  std::iota(all.begin(), all.end(), 0);
  std::vector<size_t> order = strongest_first(scores);
  order.resize(static_cast<size_t>(spec.top_k));
  RoutingDecision decision = keep(all, scores, std::move(order));
  const float divisor = spec.renormalize ? total_of(decision.weights) : 1.0F;
  for (float& w : decision.weights) w = w / divisor * spec.scale;
  return decision;
}

namespace {

// Drops the weakest of the experts that `may_drop`, together, while the bound holds; one always
// stays.
template <typename MayDrop>
RoutingDecision drop_weakest(const RoutingDecision& decision, bool renormalize, float sensitivity,
                             float threshold, const MayDrop& may_drop) {
  const float total = total_of(decision.weights);
  std::vector<size_t> kept = strongest_first(decision.weights);
  std::vector<int32_t> left_out;
  float dropped = 0.0F;
  for (size_t i = kept.size(); i-- > 1;) {
    if (!may_drop(decision.experts[kept[i]])) continue;
    const float with_next = dropped + decision.weights[kept[i]];
    const float share = with_next / total;
    if (!(sensitivity * (share * share) < threshold)) break;
    dropped = with_next;
    left_out.push_back(decision.experts[kept[i]]);
    kept.erase(kept.begin() + static_cast<std::ptrdiff_t>(i));
  }
  if (kept.size() == decision.experts.size()) return decision;
  RoutingDecision result = keep(decision.experts, decision.weights, std::move(kept));
  if (renormalize) {
    const float kept_total = total_of(result.weights);
    for (float& w : result.weights) w = w / kept_total * total;
  }
  result.left_out = std::move(left_out);
  result.dropped_share = dropped / total;
  return result;
}

}  // namespace

RoutingDecision drop_insensitive(const RoutingDecision& decision, bool renormalize,
                                 float sensitivity, float threshold) {
  return drop_weakest(decision, renormalize, sensitivity, threshold, [](int32_t) { return true; });
}

RoutingDecision drop_insensitive_misses(const RoutingDecision& decision, bool renormalize,
                                        float sensitivity, float threshold,
                                        const ResidencyView& view) {
  return drop_weakest(decision, renormalize, sensitivity, threshold,
                      [&](int32_t expert) { return !view.is_resident(expert); });
}

RoutingDecision route(std::span<const float> router_logits, int64_t layer, const RouterSpec& spec,
                      const GatingConfig& gating, const ResidencyView& view) {
  RoutingDecision decision = select_top_k(router_logits, spec);
  if (gating.mode == GatingMode::kOff) return decision;
  const float s = gating.sensitivity[static_cast<size_t>(layer)];
  return gating.mode == GatingMode::kSensitivity
             ? drop_insensitive(decision, spec.renormalize, s, gating.threshold)
             : drop_insensitive_misses(decision, spec.renormalize, s, gating.threshold, view);
}

}  // namespace adapmoe
