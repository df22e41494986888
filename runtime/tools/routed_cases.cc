// SPDX-License-Identifier: Apache-2.0
// Resident steps of MoE blocks alone: what the device routes by itself, the first time kernel by
// kernel and then as a recorded graph, is what the CPU's gate and the other operators give.
#include <algorithm>
#include <functional>

#include "runtime/base/strings.h"
#include "runtime/gate/gate.h"
#include "runtime/model/routing_plan.h"
#include "runtime/tools/operator_cases.h"

namespace adapmoe {
namespace {

constexpr int64_t kLayers = 2;
constexpr int64_t kDifferent = 5;  // experts; a layer of more repeats them
constexpr int64_t kSteps = 3;

// What stays in one place from step to step.
struct Layer {
  RoutedOp op;
  std::span<int32_t> experts;
  std::span<float> weights;
  std::span<float> dropped_share;
};

struct Blocks {
  std::vector<Layer> layers;
  std::vector<KVRow> kv;  // of attention, which does not run
  std::vector<const std::byte*> tiles;
};

// [layers][experts][tiles].
std::vector<const std::byte*> draw_tiles(OperatorBench& bench) {
  const int64_t tiles = bench.shape().tiles;
  const int64_t experts = bench.shape().config.num_local_experts;
  std::vector<const std::byte*> all;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    const auto begin = static_cast<int64_t>(all.size());
    for (int64_t i = 0; i < experts * tiles; ++i) {
      const int64_t same = i - kDifferent * tiles;
      all.push_back(same < 0 ? bench.tile().data() : all[static_cast<size_t>(begin + same)]);
    }
  }
  return all;
}

Layer make_layer(OperatorBench& bench, int64_t layer, int64_t rows) {
  const ModelConfig& c = bench.shape().config;
  Layer made;
  made.experts = bench.take<int32_t>(rows * c.router.top_k);
  made.weights = bench.take<float>(rows * c.router.top_k);
  made.dropped_share = bench.take<float>(rows);
  made.op = {.layer = layer,
             .input = bench.rows(rows, c.hidden_size),
             .router_logits = bench.rows(rows, c.num_local_experts),
             .decided = {made.experts.data(), made.weights.data(), made.dropped_share.data()},
             .expert_out = bench.rows(rows * c.router.top_k, c.hidden_size),
             .hidden = bench.rows(rows, c.hidden_size)};
  return made;
}

// Other inputs where the last ones were. Every other row has experts that score the same.
void renew(OperatorBench& bench, const Layer& layer) {
  for (const Rows& old : {layer.op.input, layer.op.router_logits}) {
    const bool logits = old.data == layer.op.router_logits.data;
    const ModelConfig& c = bench.shape().config;
    const int64_t width = logits ? c.num_local_experts : c.hidden_size;
    const Rows fresh = bench.rows(old.rows, width);
    for (int64_t i = 0; logits && i < fresh.rows; i += 2) {
      for (int64_t e = 1; e < width; e += 2) fresh.row(i)[e] = fresh.row(i)[e - 1];
    }
    bench.backend().copy(fresh.data, old.data, fresh.rows * fresh.stride * 4);
  }
}

// The CPU's gate on the logits of a layer; adds the decisions to the result as routed_experts()
// writes them.
std::vector<RoutingDecision> decide(OperatorBench& bench, const RoutedOp& op,
                                    const GatingConfig& gating) {
  const ModelConfig& c = bench.shape().config;
  const Rows logits = op.router_logits;
  bench.fetch(std::as_writable_bytes(
      std::span(logits.data, static_cast<size_t>(logits.rows * logits.stride))));
  std::vector<RoutingDecision> decisions;
  std::vector<int32_t> experts;
  std::vector<float> weights;
  std::vector<float> shares;
  for (int64_t i = 0; i < logits.rows; ++i) {
    const std::span<const float> row(logits.row(i), static_cast<size_t>(c.num_local_experts));
    const RoutingDecision& d = decisions.emplace_back(route(row, op.layer, c.router, gating, {}));
    experts.insert(experts.end(), d.experts.begin(), d.experts.end());
    weights.insert(weights.end(), d.weights.begin(), d.weights.end());
    std::vector<int32_t> left_out = d.left_out;
    std::sort(left_out.begin(), left_out.end(), std::greater<>());
    for (const int32_t e : left_out) experts.push_back(~e);
    weights.resize(static_cast<size_t>((i + 1) * c.router.top_k), 0.0F);
    shares.push_back(d.dropped_share);
  }
  bench.add(std::span(experts));
  bench.add(std::span(weights));
  bench.add(std::span(shares));
  return decisions;
}

// What routed_experts() is to do, by the CPU's gate and the operators that do not route.
void run_plainly(OperatorBench& bench, const ResidentStep& step, const GatingConfig& gating,
                 const RoutedOp& op) {
  const int64_t experts = bench.shape().config.num_local_experts;
  const RoutingPlan plan =
      plan_routing(decide(bench, op, gating), experts, bench.shape().config.router.top_k);
  const auto tiles = static_cast<size_t>(bench.shape().tiles);
  std::vector<ExpertOp> ops;
  for (size_t i = 0; i < plan.experts.size(); ++i) {
    const auto expert = static_cast<size_t>(op.layer * experts + plan.experts[i]);
    ops.push_back(
        {step.tiles.subspan(expert * tiles, tiles), 0, plan.rows[i], plan.first_output[i]});
  }
  bench.backend().begin_experts(op.input);
  bench.backend().gate_up_proj(ops);
  bench.backend().down_proj(ops, op.expert_out);
  bench.backend().combine({plan.outputs, plan.weights, op.expert_out, op.hidden});
  bench.keep(op.hidden);
}

// `repeats`: with as many rows as a step before, which must show.
void run_step(OperatorBench& bench, const Blocks& blocks, const ResidentStep& step,
              const GatingConfig& gating, bool repeats) {
  if (!bench.routes()) {
    for (const Layer& layer : blocks.layers) run_plainly(bench, step, gating, layer.op);
    return;
  }
  Backend& backend = bench.backend();
  const int64_t before = backend.counts().replays;
  backend.run_resident(step, [&] {
    for (const Layer& layer : blocks.layers) backend.routed_experts(layer.op);
  });
  for (const Layer& layer : blocks.layers) {
    bench.keep(layer.experts);
    bench.keep(layer.weights);
    bench.keep(layer.dropped_share);
    bench.keep(layer.op.hidden);
  }
  if (repeats && backend.counts().replays == before) {
    bench.check(unavailable("a step was not repeated from a graph: " + backend.take_note()));
  }
}

// Steps of one number of rows: the gate off, dropping some experts, dropping many with the experts
// in each other's places.
void run_steps(OperatorBench& bench, Blocks& blocks, int64_t rows) {
  blocks.layers.clear();
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    blocks.layers.push_back(make_layer(bench, layer, rows));
  }
  std::byte* const nothing = bench.take<std::byte>(16).data();
  blocks.kv.assign(static_cast<size_t>(kLayers * rows), {nothing, nothing, 0});
  const std::vector<const std::byte*> first_places = blocks.tiles;
  for (int64_t i = 0; i < kSteps; ++i) {
    if (i + 1 == kSteps) std::reverse(blocks.tiles.begin(), blocks.tiles.end());
    GatingConfig gating{
        i == 0 ? GatingMode::kOff : GatingMode::kSensitivity, i == 1 ? 0.02F : 0.2F, {1.0F, 0.5F}};
    for (const Layer& layer : blocks.layers) renew(bench, layer);
    const ResidentStep step{.rows = rows,
                            .kv = blocks.kv,
                            .tiles = blocks.tiles,
                            .placement = i + 1 == kSteps ? 2U : 1U,
                            .sensitivity = i == 0 ? std::span<const float>() : gating.sensitivity,
                            .threshold = gating.threshold};
    run_step(bench, blocks, step, gating, /*repeats=*/i > 0);
  }
  blocks.tiles = first_places;
}

// One row, up to four, and more take kernels of their own.
void run_routed(OperatorBench& bench) {
  const ModelConfig& c = bench.shape().config;
  const int64_t most =
      std::min({int64_t{16}, 64 / int64_t{c.router.top_k}, 4096 / c.num_local_experts});
  Blocks blocks;
  blocks.tiles = draw_tiles(bench);
  for (const int64_t rows : {int64_t{1}, int64_t{3}, most}) run_steps(bench, blocks, rows);
}

OperatorCase routed_case(const std::string& name, DType type, int64_t group, int64_t experts,
                         const RouterSpec& router) {
  OperatorCase made{"routed_" + name, operator_shape(type, group, true, 24), run_routed};
  made.shape.config.num_hidden_layers = kLayers;
  made.shape.config.num_local_experts = experts;
  made.shape.config.router = router;
  made.shape.config.hidden_size = 48;
  made.shape.tile =
      TileLayout::make(type, group, made.shape.config.hidden_size, align_up(group, 32));
  made.shape.tiles = 2;
  return made;
}

}  // namespace

std::vector<OperatorCase> routed_cases() {
  const RouterSpec two;
  std::vector<OperatorCase> cases = {
      routed_case("f16", DType::kF16, kBlockRows, 6, two),
      routed_case("f32", DType::kF32, kBlockRows, 6, two),
      routed_case("int4_300_experts", DType::kInt4, 32, 300, two),
      routed_case("int4_sigmoid", DType::kInt4, 32, 7,
                  {RouterScore::kSigmoid, /*top_k=*/3, /*renormalize=*/true, /*scale=*/2.5F}),
      routed_case("int8_sigmoid", DType::kInt8, 64, 7,
                  {RouterScore::kSigmoid, /*top_k=*/3, /*renormalize=*/false, /*scale=*/1.0F}),
      routed_case("int4_softmax", DType::kInt4, 128, 5,
                  {RouterScore::kSoftmax, /*top_k=*/5, /*renormalize=*/false, /*scale=*/0.75F}),
  };
  for (const DType type : {DType::kInt4, DType::kInt8}) {
    for (const int64_t group : {32, 64, 128}) {
      const std::string name = str_cat(dtype_name(type), '_', group);
      cases.push_back(routed_case(name, type, group, 6, two));
      cases.push_back(routed_case(name + "_w4a16", type, group, 6, two));
      cases.back().shape.expert_path = ExpertPath::kW4A16;
    }
  }
  return cases;
}

}  // namespace adapmoe
