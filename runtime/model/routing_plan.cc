// SPDX-License-Identifier: Apache-2.0
#include "runtime/model/routing_plan.h"

#include <algorithm>

#include "runtime/base/check.h"

namespace adapmoe {

size_t RoutingPlan::find(int32_t expert) const {
  const auto it = std::lower_bound(experts.begin(), experts.end(), expert);
  ADAPMOE_CHECK(it != experts.end() && *it == expert);
  return static_cast<size_t>(it - experts.begin());
}

RoutingPlan plan_routing(std::span<const RoutingDecision> decisions, int64_t num_experts,
                         int64_t top_k) {
  std::vector<std::vector<int32_t>> rows_of(static_cast<size_t>(num_experts));
  RoutingPlan plan;
  for (size_t row = 0; row < decisions.size(); ++row) {
    for (const int32_t e : decisions[row].experts) {
      rows_of[static_cast<size_t>(e)].push_back(static_cast<int32_t>(row));
    }
  }
  std::vector<int64_t> next(
      static_cast<size_t>(num_experts));  // output row of the expert's next row
  for (size_t e = 0; e < rows_of.size(); ++e) {
    if (rows_of[e].empty()) continue;
    next[e] = plan.activations;
    plan.experts.push_back(static_cast<int32_t>(e));
    plan.first_output.push_back(plan.activations);
    plan.activations += static_cast<int64_t>(rows_of[e].size());
    plan.rows.push_back(std::move(rows_of[e]));
  }
  plan.outputs.assign(decisions.size() * static_cast<size_t>(top_k), -1);
  plan.weights.assign(decisions.size() * static_cast<size_t>(top_k), 0.0F);
  for (size_t row = 0; row < decisions.size(); ++row) {
    for (size_t j = 0; j < decisions[row].experts.size(); ++j) {
      const size_t at = row * static_cast<size_t>(top_k) + j;
      plan.outputs[at] =
          static_cast<int32_t>(next[static_cast<size_t>(decisions[row].experts[j])]++);
      plan.weights[at] = decisions[row].weights[j];
    }
  }
  return plan;
}

}  // namespace adapmoe
