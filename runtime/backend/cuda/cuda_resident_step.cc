// SPDX-License-Identifier: Apache-2.0
// Steps that the device routes by itself. Whatever changes from one to the next stands in tables in
// memory, never in a kernel's arguments, so that a recorded step stays right.
#include <algorithm>

#include "runtime/backend/cuda/cuda_backend.h"
#include "runtime/base/strings.h"

namespace adapmoe::cuda {

int64_t CudaBackend::max_resident_rows() const {
  const ModelConfig& c = shape_.config;
  return std::min({shape_.max_rows, kMostResidentRows, kRowsAtOnce / c.router.top_k,
                   kMostRouted / c.router.top_k, kMostScores / c.num_local_experts});
}

CudaBackend::StepTables CudaBackend::layout_tables(Bump& bump) const {
  const ModelConfig& c = shape_.config;
  const int64_t rows = max_resident_rows();
  if (rows == 0) return {};
  StepTables t;
  t.tiles = bump.take<const std::byte*>(c.num_hidden_layers * c.num_local_experts * shape_.tiles);
  t.kv = bump.take<KVPlace>(c.num_hidden_layers * rows);
  t.rules = bump.take<GateRule>(c.num_hidden_layers);
  return t;
}

int64_t CudaBackend::table_bytes() const {
  Bump count;
  layout_tables(count);
  return align_up(count.used(), kPageBytes);
}

RoutedPlan CudaBackend::layout_plan(Bump& bump) const {
  const int64_t pairs = max_resident_rows() * shape_.config.router.top_k;
  if (pairs == 0) return {};
  return {.used = bump.take<int32_t>(1),
          .experts = bump.take<int32_t>(pairs),
          .first_output = bump.take<int32_t>(pairs + 1),
          .rows = bump.take<int32_t>(pairs),
          .outputs = bump.take<int32_t>(pairs)};
}

void CudaBackend::fill_tables(const ResidentStep& step) {
  const StepTables& t = scratch_.step;
  if (placement_ != step.placement) {
    for (size_t i = 0; i < step.tiles.size(); ++i) t.tiles[i] = device(step.tiles[i]);
    placement_ = step.placement;
  }
  for (size_t i = 0; i < step.kv.size(); ++i) {
    t.kv[i] = {device(step.kv[i].k), device(step.kv[i].v), step.kv[i].position};
  }
  for (int64_t layer = 0; layer < shape_.config.num_hidden_layers; ++layer) {
    t.rules[layer] = step.sensitivity.empty()
                         ? GateRule()
                         : GateRule{.drops = true,
                                    .sensitivity = step.sensitivity[static_cast<size_t>(layer)],
                                    .threshold = step.threshold};
  }
}

void CudaBackend::run_resident(const ResidentStep& step, const std::function<void()>& operators) {
  ADAPMOE_CHECK(step.rows <= max_resident_rows());
  if (tables_in_use_) (void)wait();  // by a step that nobody has waited for
  fill_tables(step);
  tables_in_use_ = true;
  const Status before = error_;
  resident_ = true;
  note(graphs_.run(step.rows, stream_, [&] {
    error_ = before;  // a recording that failed is not an error
    operators();
  }));
  resident_ = false;
}

void CudaBackend::routed_experts(const RoutedOp& op) {
  ADAPMOE_CHECK(resident_);
  const ModelConfig& c = shape_.config;
  const StepTables& t = scratch_.step;
  const RoutedPlan& p = scratch_.plan;
  const RoutedPlan plan = {device(p.used), device(p.experts), device(p.first_output),
                           device(p.rows), device(p.outputs)};
  note(launch_route({.logits = device(op.router_logits.data),
                     .stride = op.router_logits.stride,
                     .rows = op.input.rows,
                     .experts = c.num_local_experts,
                     .top_k = c.router.top_k,
                     .sigmoid = c.router.score == RouterScore::kSigmoid,
                     .renormalize = c.router.renormalize,
                     .scale = c.router.scale,
                     .rule = shared(t.rules + op.layer),
                     .chosen = device(op.decided.experts),
                     .weights = device(op.decided.weights),
                     .dropped_share = device(op.decided.dropped_share),
                     .plan = plan},
                    stream_));
  begin_experts(op.input);
  routed_products(op, plan);
  note(launch_combine({.outputs = plan.outputs,
                       .weights = device(op.decided.weights),
                       .top_k = c.router.top_k,
                       .expert_out = device(op.expert_out.data),
                       .out_stride = op.expert_out.stride,
                       .hidden = {.into = device(op.hidden.data),
                                  .into_stride = op.hidden.stride,
                                  .rows = op.hidden.rows,
                                  .n = c.hidden_size}},
                      stream_));
}

// Gate and up, SwiGLU, down, for all experts that the plan uses.
void CudaBackend::routed_products(const RoutedOp& op, const RoutedPlan& plan) {
  const ModelConfig& c = shape_.config;
  const int64_t pairs = op.input.rows * c.router.top_k;
  const std::byte* const* tiles =
      shared(scratch_.step.tiles + op.layer * c.num_local_experts * shape_.tiles);
  RoutedProductArgs args{.product = gate_up_args(tiles, shape_.tiles, op.input.rows),
                         .plan = plan,
                         .most = std::min(pairs, c.num_local_experts)};
  note(launch_routed_product(args, stream_));
  args.product.w.offset = shape_.tile.up_offset();
  args.product.y = device(scratch_.up);
  note(launch_routed_product(args, stream_));

  // Of all rows that there may be: what stands in one that the gate has dropped is not read.
  note(launch_swiglu(swiglu_args(0, 0, shape_.tiles, pairs), stream_));

  args.product = down_args(tiles, shape_.tiles, 0, 0, op.input.rows, op.expert_out);
  note(launch_routed_product(args, stream_));
}

std::string CudaBackend::take_note() {
  if (graphs_.problem().empty() || told_) return {};
  told_ = true;
  return str_cat(name_, ": a step cannot be recorded as a CUDA graph (", graphs_.problem(),
                 "); its kernels are queued one by one");
}

}  // namespace adapmoe::cuda
