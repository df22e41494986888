// SPDX-License-Identifier: Apache-2.0
// The decisions of all token rows of a chunk, turned around: for each expert, its rows. Every
// expert is then visited once.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/gate/gate.h"  // RoutingDecision

namespace adapmoe {

struct RoutingPlan {
  std::vector<int32_t> experts;            // those used, ascending
  std::vector<std::vector<int32_t>> rows;  // per entry of experts: its token rows, ascending
  std::vector<int64_t> first_output;  // per entry of experts: output row of its first token row
  std::vector<int32_t> outputs;       // [token rows][top_k] output rows, ascending expert, then -1
  std::vector<float> weights;         // [token rows][top_k]
  int64_t activations = 0;            // (row, expert) pairs

  // Index of `expert` in experts. REQUIRES: it is there.
  size_t find(int32_t expert) const;
};

RoutingPlan plan_routing(std::span<const RoutingDecision> decisions, int64_t num_experts,
                         int64_t top_k);

}  // namespace adapmoe
