// SPDX-License-Identifier: Apache-2.0
// What travels with one step through the layers.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/backend/backend.h"  // Rows
#include "runtime/base/interrupt.h"
#include "runtime/base/status.h"
#include "runtime/model/routing_plan.h"
#include "runtime/residency/replay.h"  // TraceVisit

namespace adapmoe {

// What routing and gating did for some token rows.
struct RoutingCounts {
  int64_t activated = 0;          // (token, layer, expert) triples computed
  int64_t dropped = 0;            // (token, layer) pairs with experts dropped by the gate
  double dropped_share_sq = 0.0;  // sum over them of the squared share of the weight dropped

  void add(const RoutingDecision& decision) {
    const auto share = static_cast<double>(decision.dropped_share);
    dropped += share > 0.0 ? 1 : 0;
    dropped_share_sq += share * share;
    activated += std::ssize(decision.experts);
  }
  RoutingCounts& operator+=(const RoutingCounts& other) {
    activated += other.activated;
    dropped += other.dropped;
    dropped_share_sq += other.dropped_share_sq;
    return *this;
  }
};

// Activations recorded for calibration, [layers][rows][width] each, or [rows][width].
struct Capture {
  std::vector<float> hidden;     // the residual stream before the MoE block's norm
  std::vector<float> moe_input;  // after it
  std::vector<float> router_logits;
  std::vector<float> final_hidden;  // after the last norm; only of rows whose logits are wanted

  static void append(std::vector<float>& to, Rows rows, int64_t width) {
    for (int64_t i = 0; i < rows.rows; ++i) to.insert(to.end(), rows.row(i), rows.row(i) + width);
  }
};

class FiniteCheck;

struct Step {
  const Interrupt& interrupt;
  std::vector<RoutingCounts> counts = {};       // per item of the step
  std::function<Status()> between_layers = {};  // called where nothing is held; may be empty
  std::span<const int32_t> item_of_row = {};    // of the rows of this pass
  int64_t on_cpu = 0;                           // experts computed by the CPU beside a GPU
  Capture* capture = nullptr;                   // null: nothing is recorded
  std::vector<TraceVisit>* trace = nullptr;     // null: routing is not recorded
  FiniteCheck* check = nullptr;                 // null: values are not looked at
  int64_t pass = 0;                  // number of this pass over the layers, for the trace
  bool recurs = false;               // a decode step: many more like it will follow
  int64_t rows_after = 0;            // of the next pass, as far as known
  int64_t first_layer_stall_ns = 0;  // layer 0 waiting for its experts

  // The decisions for the rows of this pass, in one layer.
  void count(std::span<const RoutingDecision> decisions) {
    for (size_t i = 0; i < decisions.size(); ++i) {
      counts[static_cast<size_t>(item_of_row[i])].add(decisions[i]);
    }
  }
};

}  // namespace adapmoe
