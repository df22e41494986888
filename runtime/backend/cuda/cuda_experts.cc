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

// The products with gate_proj of `tiles` tiles; the caller chooses the rows, and up_proj.
ProductArgs CudaBackend::gate_up_args(const std::byte* const* tiles, int64_t count,
                                      int64_t rows) const {
  ProductArgs args{.w = pieces(shape_.tile.gate_proj, 0),
                   .act = expert_input_,
                   .rows = rows,
                   .y = device(scratch_.gate),
                   .y_stride = intermediate()};
  args.w.data = tiles;
  args.w.count = count;
  return args;
}

// Into rows of expert_act that begin at `first_output`, columns that begin with `first_tile`.
SwigluArgs CudaBackend::swiglu_args(int64_t first_output, int64_t first_tile, int64_t tiles,
                                    int64_t rows) const {
  const int64_t tile_width = shape_.tile.gate_proj.rows;
  const ActBuffer& act = scratch_.expert_act;
  const int64_t group = act.group == 0 ? kBlockRows : act.group;
  const int64_t at = first_output * act.cols + first_tile * tile_width;
  SwigluArgs args{.gate = device(scratch_.gate),
                  .up = device(scratch_.up),
                  .stride = intermediate(),
                  .out = {.rows = rows, .groups = tiles * tile_width / group, .group = group}};
  if (act.group == 0) {
    args.x = device(act.x + at);
    args.x_stride = act.cols;
  } else {
    args.out.q = device(act.q + at);
    args.out.scale = device(act.scale + at / group);
    args.out.sum = device(act.sum + at / group);
    args.out.q_stride = act.cols;
    args.out.group_stride = act.cols / group;
  }
  return args;
}

ProductArgs CudaBackend::down_args(const std::byte* const* tiles, int64_t count,
                                   int64_t first_output, int64_t first_tile, int64_t rows,
                                   Rows out) const {
  const PackedShape& w = shape_.tile.down_proj;
  ProductArgs args{.w = pieces(w, shape_.tile.down_offset()),
                   .chained = true,
                   .accumulate = first_tile > 0,
                   .act = device_act(scratch_.expert_act.view(first_output, first_tile * w.cols)),
                   .rows = rows,
                   .y = device(out.row(first_output)),
                   .y_stride = out.stride};
  args.w.data = tiles;
  args.w.count = count;
  return args;
}

// Rows [first, first + rows) of the expert.
void CudaBackend::gate_up(const ExpertOp& op, const ExpertParameters& at, int64_t first,
                          int64_t rows) {
  const auto tiles = static_cast<int64_t>(op.tiles.size());
  ProductArgs args = gate_up_args(at.tiles, tiles, rows);
  args.index = at.rows + first;
  note(launch_product(args, stream_));
  args.w.offset = shape_.tile.up_offset();
  args.y = device(scratch_.up);
  note(launch_product(args, stream_));
  note(launch_swiglu(swiglu_args(op.first_output + first, op.first_tile, tiles, rows), stream_));
}

void CudaBackend::down_proj(std::span<const ExpertOp> ops, Rows out) {
  for (const ExpertOp& op : ops) {
    const ExpertParameters at = parameters_of(op);
    note(launch_product(down_args(at.tiles, static_cast<int64_t>(op.tiles.size()), op.first_output,
                                  op.first_tile, static_cast<int64_t>(op.rows.size()), out),
                        stream_));
  }
}

}  // namespace adapmoe::cuda
