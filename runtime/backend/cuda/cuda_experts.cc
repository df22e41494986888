// SPDX-License-Identifier: Apache-2.0
// The expert FFN on the GPU, tile by tile or whole.
#include <algorithm>
#include <vector>

#include "runtime/backend/cuda/cuda_backend.h"

namespace adapmoe::cuda {

void CudaBackend::begin_experts(Rows x) {
  const PackedShape& w = shape_.tile.gate_proj;
  if (quantized_experts()) {
    quantize(x, w.cols_padded(), w.group_size, scratch_.expert_input);
    expert_input_ = device_act(scratch_.expert_input.view(0, 0));
  } else {
    expert_input_ = {.x = device(x.data), .x_stride = x.stride};
  }
}

CudaBackend::ExpertParameters CudaBackend::parameters_of(const ExpertOp& op) {
  std::vector<const std::byte*> tiles;
  tiles.reserve(op.tiles.size());
  for (const std::byte* tile : op.tiles) tiles.push_back(device(tile));
  make_room(ParameterRing::bytes_of<const std::byte*>(tiles.size()) +
            ParameterRing::bytes_of<int32_t>(op.rows.size()));
  return {parameter(std::span<const std::byte* const>(tiles)), parameter(op.rows)};
}

void CudaBackend::gate_up_proj(std::span<const ExpertOp> ops) {
  for (const ExpertOp& op : ops) {
    const ExpertParameters at = parameters_of(op);
    const auto rows = static_cast<int64_t>(op.rows.size());
    for (int64_t first = 0; first < rows; first += kRowsAtOnce) {
      gate_up(op, at, first, std::min(kRowsAtOnce, rows - first));
    }
  }
}

// Rows [first, first + rows) of the expert.
void CudaBackend::gate_up(const ExpertOp& op, const ExpertParameters& at, int64_t first,
                          int64_t rows) {
  const PackedShape& w = shape_.tile.gate_proj;
  const auto tiles = static_cast<int64_t>(op.tiles.size());
  ProductArgs args{.w = pieces(w, 0),
                   .act = expert_input_,
                   .index = at.rows + first,
                   .rows = rows,
                   .y = device(scratch_.gate),
                   .y_stride = intermediate()};
  args.w.data = at.tiles;
  args.w.count = tiles;
  note(launch_product(args, stream_));
  args.w.offset = shape_.tile.up_offset();
  args.y = device(scratch_.up);
  note(launch_product(args, stream_));

  const ActBuffer& act = scratch_.expert_act;
  const int64_t group = act.group == 0 ? kBlockRows : act.group;
  const int64_t at_value = (op.first_output + first) * act.cols + op.first_tile * w.rows;
  SwigluArgs swiglu{.gate = device(scratch_.gate),
                    .up = device(scratch_.up),
                    .stride = intermediate(),
                    .out = {.rows = rows, .groups = tiles * w.rows / group, .group = group}};
  if (act.group == 0) {
    swiglu.x = device(act.x + at_value);
    swiglu.x_stride = act.cols;
  } else {
    swiglu.out.q = device(act.q + at_value);
    swiglu.out.scale = device(act.scale + at_value / group);
    swiglu.out.sum = device(act.sum + at_value / group);
    swiglu.out.q_stride = act.cols;
    swiglu.out.group_stride = act.cols / group;
  }
  note(launch_swiglu(swiglu, stream_));
}

void CudaBackend::down_proj(std::span<const ExpertOp> ops, Rows out) {
  const PackedShape& w = shape_.tile.down_proj;
  for (const ExpertOp& op : ops) {
    ProductArgs args{
        .w = pieces(w, shape_.tile.down_offset()),
        .chained = true,
        .accumulate = op.first_tile > 0,
        .act = device_act(scratch_.expert_act.view(op.first_output, op.first_tile * w.cols)),
        .rows = static_cast<int64_t>(op.rows.size()),
        .y = device(out.row(op.first_output)),
        .y_stride = out.stride};
    args.w.data = parameters_of(op).tiles;
    args.w.count = static_cast<int64_t>(op.tiles.size());
    note(launch_product(args, stream_));
  }
}

}  // namespace adapmoe::cuda
