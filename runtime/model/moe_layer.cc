// SPDX-License-Identifier: Apache-2.0
#include "runtime/model/moe_layer.h"

#include <vector>

#include "runtime/base/stopwatch.h"
#include "runtime/model/routing_plan.h"
#include "runtime/prefetch/whole_layer.h"
#include "runtime/residency/expert_stream.h"

namespace adapmoe {
namespace {

// What the host reads of this layer.
void fetch_rows(const MoeContext& m, int64_t rows, const Step& step) {
  m.backend.fetch(m.work.router_logits.first(rows));
  if (m.prefetch != nullptr || step.capture != nullptr) m.backend.fetch(m.work.normed.first(rows));
  if (step.capture != nullptr) m.backend.fetch(m.work.hidden.first(rows));
}

Result<RoutingPlan> route_rows(const MoeContext& m, const LayerWeights& weights, int32_t layer,
                               Rows normed, Step& step) {
  const SpanTimer span(m.timeline, Lane::kCompute, "router", 0, layer);
  const LinearOp router{&weights.router, m.work.router_logits};
  m.backend.linear(normed, std::span(&router, 1));
  fetch_rows(m, normed.rows, step);
  ADAPMOE_RETURN_IF_ERROR(m.backend.wait());
  std::vector<RoutingDecision> decisions;
  const ResidencyView view =
      m.gating.mode == GatingMode::kResidency ? m.experts.view(layer) : ResidencyView();
  for (int64_t i = 0; i < normed.rows; ++i) {
    const std::span<const float> logits(m.work.router_logits.row(i),
                                        static_cast<size_t>(m.config.num_local_experts));
    decisions.push_back(route(logits, layer, m.config.router, m.gating, view));
  }
  RoutingPlan plan = plan_routing(decisions, m.config.num_local_experts, m.config.router.top_k);
  step.count(decisions);
  m.latest.note(layer, decisions);
  return plan;
}

void record(const MoeContext& m, const RoutingPlan& plan, int32_t layer, int64_t rows,
            const Step& step) {
  if (step.capture != nullptr) {
    Capture& c = *step.capture;
    Capture::append(c.hidden, m.work.hidden.first(rows), m.config.hidden_size);
    Capture::append(c.moe_input, m.work.normed.first(rows), m.config.hidden_size);
    Capture::append(c.router_logits, m.work.router_logits.first(rows), m.config.num_local_experts);
  }
  if (step.trace != nullptr) step.trace->push_back({step.pass, layer, plan.experts});
}

ExpertOp expert_op(const RoutingPlan& plan, int32_t expert, int64_t first_tile,
                   std::span<const std::byte* const> tiles) {
  const size_t at = plan.find(expert);
  return {tiles, first_tile, plan.rows[at], plan.first_output[at]};
}

// All tiles are ready: every gate/up product of all of them, then every down product. Two barriers.
// `meanwhile` runs while a device computes them.
template <typename Meanwhile>
Status run_residents(const MoeContext& m, const RoutingPlan& plan,
                     const std::vector<ExpertHandle>& residents, const Interrupt& interrupt,
                     const Meanwhile& meanwhile) {
  std::vector<std::vector<const std::byte*>> tiles(residents.size());
  std::vector<ExpertOp> ops;
  for (size_t i = 0; i < residents.size(); ++i) {
    for (int64_t t = 0; t < m.tiles; ++t) {
      auto data = residents[i].tile(t, interrupt);
      if (!data.ok()) return data.status();
      tiles[i].push_back(data.value());
    }
    ops.push_back(expert_op(plan, residents[i].id().expert, 0, tiles[i]));
  }
  if (ops.empty()) return {};
  const int32_t layer = residents[0].id().layer;
  {
    const SpanTimer span(m.timeline, Lane::kCompute, "gate_up", 0, layer);
    m.backend.gate_up_proj(ops);
  }
  {
    const SpanTimer span(m.timeline, Lane::kCompute, "down", 0, layer);
    m.backend.down_proj(ops, m.work.expert_out);
  }
  Status beside = meanwhile();
  const SpanTimer span(m.timeline, Lane::kCompute, "down", 0, layer);  // what a device still does
  ADAPMOE_RETURN_IF_ERROR(m.backend.wait());  // before the tiles are released
  return beside;
}

// Tiles are computed as they arrive, so the expert's read overlaps its own computation.
Status run_streamed(const MoeContext& m, const RoutingPlan& plan, const ExpertHandle& handle,
                    const Interrupt& interrupt) {
  for (int64_t t = 0; t < m.tiles; ++t) {
    auto data = handle.tile(t, interrupt);
    if (!data.ok()) {
      (void)m.backend.wait();  // for the tiles before it
      return data.status();
    }
    const std::byte* tile = data.value();
    const ExpertOp op = expert_op(plan, handle.id().expert, t, std::span(&tile, 1));
    {
      const SpanTimer span(m.timeline, Lane::kCompute, "gate_up, streamed", 0, handle.id().layer);
      m.backend.gate_up_proj(std::span(&op, 1));
    }
    const SpanTimer span(m.timeline, Lane::kCompute, "down, streamed", 0, handle.id().layer);
    m.backend.down_proj(std::span(&op, 1), m.work.expert_out);
  }
  return m.backend.wait();  // before the tiles are released
}

// The same by the CPU, beside a device.
Status run_on_cpu(const MoeContext& m, const RoutingPlan& plan, const ExpertHandle& handle,
                  Rows input, const Step& step) {
  Backend& cpu = m.split->cpu();
  cpu.begin_experts(input);
  for (int64_t t = 0; t < m.tiles; ++t) {
    const auto data = handle.tile(t, step.interrupt);
    if (!data.ok()) return data.status();
    const Stopwatch watch;
    const std::byte* tile = data.value();
    const SpanTimer span(m.timeline, Lane::kCompute, "tile on the CPU", 0, handle.id().layer);
    const ExpertOp op = expert_op(plan, handle.id().expert, t, std::span(&tile, 1));
    cpu.gate_up_proj(std::span(&op, 1));
    cpu.down_proj(std::span(&op, 1), m.work.expert_out);
    m.split->measured_cpu(watch.seconds(), 1);
  }
  return {};
}

// Computes the residents and, where that is sooner than after them, the first missing expert on the
// CPU meanwhile.
Status run_first(const MoeContext& m, const RoutingPlan& plan, ExpertStream& stream, Rows input,
                 Step& step) {
  const auto busy = static_cast<int64_t>(stream.residents().size()) * m.tiles;
  const bool may_split = m.split != nullptr && input.rows <= ExpertSplit::kMaxRows && busy > 0;
  const bool splits = may_split && stream.is_reading() && m.split->takes(busy, m.tiles);
  const auto meanwhile = [&]() -> Status {
    if (!splits) return {};
    auto expert = stream.next(step.interrupt);
    if (!expert.ok()) return expert.status();
    ++step.on_cpu;
    return run_on_cpu(m, plan, *expert.value(), input, step);
  };
  const Stopwatch watch;
  ADAPMOE_RETURN_IF_ERROR(run_residents(m, plan, stream.residents(), step.interrupt, meanwhile));
  if (may_split && !splits) m.split->measured_gpu(watch.seconds(), busy);
  stream.release_residents();
  return {};
}

}  // namespace

Status moe_layer(const MoeContext& m, const LayerWeights& weights, int32_t layer, int64_t rows,
                 Step& step) {
  const Rows normed = m.work.normed.first(rows);
  {
    const SpanTimer span(m.timeline, Lane::kCompute, "norm", 0, layer);
    m.backend.rms_norm(weights.post_attention_layernorm, m.work.hidden.first(rows), normed);
  }
  auto planned = route_rows(m, weights, layer, normed, step);
  if (!planned.ok()) return planned.status();
  const RoutingPlan& plan = planned.value();
  record(m, plan, layer, rows, step);

  m.experts.cancel_hints(layer, plan.experts);  // of the prefetcher, or of a long prompt
  if (m.prefetch != nullptr) m.prefetch->resolve(layer, plan.experts);
  auto stream = ExpertStream::begin(m.experts, layer, plan.experts, step.interrupt);
  if (!stream.ok()) return stream.status();
  if (m.prefetch != nullptr) {
    const SpanTimer span(m.timeline, Lane::kCompute, "look_ahead", 0, layer);
    m.prefetch->look_ahead({Activations::kMoeInput, layer, normed.data, rows, normed.stride});
  }
  const bool is_last = layer + 1 == m.config.num_hidden_layers;
  const bool read_on = needs_whole_layers(m.config, is_last ? step.rows_after : rows);
  const auto read_ahead = [&] {  // once this layer's own reads are under way
    if (read_on && stream.value().all_begun()) hint_next_layer(m.experts, m.config, layer);
  };

  read_ahead();
  {
    const SpanTimer span(m.timeline, Lane::kCompute, "gate_up", 0, layer);
    m.backend.begin_experts(normed);
  }
  ADAPMOE_RETURN_IF_ERROR(run_first(m, plan, stream.value(), normed, step));
  while (true) {
    read_ahead();
    auto expert = stream.value().next(step.interrupt);
    if (!expert.ok()) return expert.status();
    if (!expert.value().has_value()) break;
    ADAPMOE_RETURN_IF_ERROR(run_streamed(m, plan, *expert.value(), step.interrupt));
  }
  const SpanTimer span(m.timeline, Lane::kCompute, "combine", 0, layer);
  m.backend.combine({plan.outputs, plan.weights, m.work.expert_out, m.work.hidden.first(rows)});
  ++m.progress;
  return {};
}

}  // namespace adapmoe
