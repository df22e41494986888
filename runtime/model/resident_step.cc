// SPDX-License-Identifier: Apache-2.0
#include "runtime/model/resident_step.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace adapmoe {
namespace {

// Of one layer.
RoutedRows decided_in(const MoeContext& m, int64_t layer) {
  const int64_t first = layer * kHeadRows;
  const int64_t top_k = m.config.router.top_k;
  const RoutedRows& all = m.work.routed;
  return {all.experts + first * top_k, all.weights + first * top_k, all.dropped_share + first};
}

void queue_layer(const MoeContext& m, const DenseWeights& weights, int64_t layer,
                 std::span<const TokenRow> rows) {
  const auto n = static_cast<int64_t>(rows.size());
  const LayerWeights& w = weights.layers[static_cast<size_t>(layer)];
  const Rows hidden = m.work.hidden.first(n);
  const Rows normed = m.work.normed.first(n);
  attention_layer(m.config, m.backend, m.work, w, weights.rope_inv_freq,
                  static_cast<int32_t>(layer), rows, nullptr);  // the step is one span
  m.backend.rms_norm(w.post_attention_layernorm, hidden, normed);
  const LinearOp router{&w.router, m.work.router_logits};
  m.backend.linear(normed, std::span(&router, 1));
  m.backend.routed_experts({.layer = layer,
                            .input = normed,
                            .router_logits = m.work.router_logits.first(n),
                            .decided = decided_in(m, layer),
                            .expert_out = m.work.expert_out,
                            .hidden = hidden});
}

void queue_head(const MoeContext& m, const DenseWeights& weights, int64_t rows) {
  m.backend.rms_norm(weights.norm, m.work.hidden.first(rows), m.work.normed.first(rows));
  const LinearOp op{&weights.lm_head, m.work.logits};
  m.backend.linear(m.work.normed.first(rows), std::span(&op, 1));
  m.backend.fetch(m.work.logits.first(rows));
}

// What the device has decided, in all layers.
void fetch_decisions(const MoeContext& m) {
  const RoutedRows& all = m.work.routed;
  const int64_t rows = m.config.num_hidden_layers * kHeadRows;
  const int64_t pairs = rows * m.config.router.top_k;
  m.backend.fetch_bytes(all.experts, pairs * static_cast<int64_t>(sizeof(int32_t)));
  m.backend.fetch_bytes(all.weights, pairs * static_cast<int64_t>(sizeof(float)));
  m.backend.fetch_bytes(all.dropped_share, rows * static_cast<int64_t>(sizeof(float)));
}

std::vector<RoutingDecision> decisions_of(const MoeContext& m, int64_t layer, int64_t rows) {
  const RoutedRows decided = decided_in(m, layer);
  const int64_t top_k = m.config.router.top_k;
  std::vector<RoutingDecision> decisions(static_cast<size_t>(rows));
  for (int64_t i = 0; i < rows; ++i) {
    RoutingDecision& d = decisions[static_cast<size_t>(i)];
    for (int64_t j = i * top_k; j < (i + 1) * top_k; ++j) {
      const int32_t expert = decided.experts[j];
      if (expert < 0) {
        d.left_out.push_back(~expert);
        continue;
      }
      d.experts.push_back(expert);
      d.weights.push_back(decided.weights[j]);
    }
    d.dropped_share = decided.dropped_share[i];
  }
  return decisions;
}

// What a step that asks for its experts leaves behind: counts, trace, scores, uses.
Status record(const MoeContext& m, int64_t rows, Step& step) {
  for (int32_t layer = 0; layer < static_cast<int32_t>(m.config.num_hidden_layers); ++layer) {
    const std::vector<RoutingDecision> decisions = decisions_of(m, layer, rows);
    const RoutingPlan plan =
        plan_routing(decisions, m.config.num_local_experts, m.config.router.top_k);
    step.count(decisions);
    m.latest.note(layer, decisions);
    ++m.progress;
    if (step.trace != nullptr) step.trace->push_back({step.pass, layer, plan.experts});
    if (m.prefetch != nullptr) m.prefetch->resolve(layer, plan.experts);
    for (const int32_t expert : plan.experts) {
      const auto used = m.experts.acquire({layer, expert}, step.interrupt);
      if (!used.ok()) return used.status();
    }
  }
  return {};
}

}  // namespace

bool can_be_resident(const MoeContext& m, int64_t rows, const Step& step) {
  return step.recurs && rows <= std::min(kHeadRows, m.backend.max_resident_rows()) &&
         m.gating.mode != GatingMode::kResidency && step.capture == nullptr;
}

Status resident_step(const MoeContext& m, const DenseWeights& weights,
                     std::span<const TokenRow> rows, const EveryExpert& experts, float* logits,
                     Step& step) {
  const auto n = static_cast<int64_t>(rows.size());
  if (step.interrupt && step.interrupt()) return cancelled("interrupted before a step");
  const SpanTimer span(m.timeline, Lane::kCompute, "resident step");
  std::vector<KVRow> kv;
  kv.reserve(weights.layers.size() * rows.size());
  for (int64_t layer = 0; layer < m.config.num_hidden_layers; ++layer) {
    append_kv_rows(rows, layer, kv);
  }
  const bool gated = m.gating.mode == GatingMode::kSensitivity;
  const ResidentStep resident{.rows = n,
                              .kv = kv,
                              .tiles = experts.tiles(),
                              .placement = experts.placement(),
                              .sensitivity = gated ? std::span<const float>(m.gating.sensitivity)
                                                   : std::span<const float>(),
                              .threshold = m.gating.threshold};
  m.backend.run_resident(resident, [&] {
    for (int64_t layer = 0; layer < m.config.num_hidden_layers; ++layer) {
      queue_layer(m, weights, layer, rows);
    }
    queue_head(m, weights, n);
    fetch_decisions(m);
  });
  ADAPMOE_RETURN_IF_ERROR(m.backend.wait());
  const auto vocab = static_cast<size_t>(m.config.vocab_size);
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(logits + static_cast<size_t>(i) * vocab, m.work.logits.row(i),
                vocab * sizeof(float));
  }
  return record(m, n, step);
}

}  // namespace adapmoe
