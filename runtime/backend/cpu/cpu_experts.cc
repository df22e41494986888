// SPDX-License-Identifier: Apache-2.0
// The expert FFN on the CPU, tile by tile.
#include <algorithm>
#include <cstring>

#include "runtime/backend/cpu/cpu_backend.h"
#include "runtime/base/check.h"

namespace adapmoe {
namespace {

constexpr int64_t kBlocksAtOnce = 2;  // of down_proj; more of them would crowd y out of the cache

}  // namespace

void CpuBackend::begin_experts(Rows x) {
  const PackedShape& w = shape_.tile.gate_proj;
  if (is_quantized(w.dtype)) {
    quantize(x, w.cols_padded(), w.group_size, scratch_.expert_input);
    return;
  }
  scratch_.expert_input.group = 0;
  for (int64_t i = 0; i < x.rows; ++i) {
    std::memcpy(scratch_.expert_input.x + i * scratch_.expert_input.cols, x.row(i),
                static_cast<size_t>(shape_.config.hidden_size) * 4);
  }
}

void CpuBackend::gate_up_group(const ExpertOp& op, int64_t tile, int64_t group, float* scratch) {
  const PackedShape& w = shape_.tile.gate_proj;
  const auto rows = static_cast<int64_t>(op.rows.size());
  const int64_t width = w.group_size;
  float* gate = scratch;
  float* up = gate + rows * width;
  const int64_t blocks = width / kBlockRows;
  const std::byte* block = op.tiles[static_cast<size_t>(tile)] + group * blocks * w.block_bytes();
  BlockArgs args{.block = block,
                 .blocks = blocks,
                 .cols = w.cols_padded(),
                 .group_size = w.group_size,
                 .scale_bytes = w.scale_bytes(),
                 .act = scratch_.expert_input.view(0, 0),
                 .index = op.rows.data(),
                 .rows = rows,
                 .y = gate,
                 .y_stride = width};
  run_blocks(w.dtype, args);
  args.block = block + shape_.tile.up_offset();
  args.y = up;
  run_blocks(w.dtype, args);
  ActBuffer& act = scratch_.expert_act;
  const int64_t col = (op.first_tile + tile) * w.rows + group * width;
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t at = (op.first_output + i) * act.cols + col;
    if (act.group == 0) {
      kernels_.swiglu(gate + i * width, up + i * width, width, act.x + at);
    } else {
      kernels_.swiglu(gate + i * width, up + i * width, width, gate + i * width);
      kernels_.quantize(gate + i * width, width, width, act.q + at, act.scale + at / width,
                        act.sum + at / width);
    }
  }
}

void CpuBackend::gate_up_proj(std::span<const ExpertOp> ops) {
  const int64_t groups = shape_.tile.gate_proj.rows / shape_.tile.gate_proj.group_size;
  int64_t items = 0;
  for (const ExpertOp& op : ops) items += static_cast<int64_t>(op.tiles.size()) * groups;
  pool_.run(items, grain(items), [&](int64_t begin, int64_t end, int thread) {
    int64_t first = 0;
    for (const ExpertOp& op : ops) {
      const int64_t count = static_cast<int64_t>(op.tiles.size()) * groups;
      for (int64_t i = std::max(begin, first); i < std::min(end, first + count); ++i) {
        gate_up_group(op, (i - first) / groups, (i - first) % groups, thread_scratch(thread));
      }
      first += count;
    }
  });
}

void CpuBackend::down_proj(std::span<const ExpertOp> ops, Rows out) {
  const PackedShape& w = shape_.tile.down_proj;
  const int64_t blocks = w.blocks();
  const int64_t chunks = (blocks + kBlocksAtOnce - 1) / kBlocksAtOnce;
  const int64_t items = static_cast<int64_t>(ops.size()) * chunks;
  pool_.run(items, grain(items), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const ExpertOp& op = ops[static_cast<size_t>(i / chunks)];
      const int64_t b = i % chunks * kBlocksAtOnce;
      int64_t tile = op.first_tile;
      for (const std::byte* data : op.tiles) {  // ascending: the accumulator is carried in y
        run_blocks(w.dtype, {.block = data + shape_.tile.down_offset() + b * w.block_bytes(),
                             .blocks = std::min(kBlocksAtOnce, blocks - b),
                             .cols = w.cols_padded(),
                             .group_size = w.group_size,
                             .scale_bytes = w.scale_bytes(),
                             .act = scratch_.expert_act.view(op.first_output, tile * w.cols),
                             .rows = static_cast<int64_t>(op.rows.size()),
                             .y = out.row(op.first_output) + b * kBlockRows,
                             .y_stride = out.stride,
                             .accumulate = tile > 0});
        ++tile;
      }
    }
  });
}

void CpuBackend::combine(const CombineOp& op) {
  const int64_t top_k = shape_.config.router.top_k;
  const int64_t hidden = shape_.config.hidden_size;
  pool_.run(op.hidden.rows, kRowsAtOnce, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int32_t* outputs = op.outputs.data() + row * top_k;
      const float* weights = op.weights.data() + row * top_k;
      float* sum = op.expert_out.row(outputs[0]);  // accumulates in place
      for (int64_t k = 0; k < hidden; ++k) sum[k] *= weights[0];
      for (int64_t j = 1; j < top_k && outputs[j] >= 0; ++j) {
        const float* out = op.expert_out.row(outputs[j]);
        for (int64_t k = 0; k < hidden; ++k) sum[k] += weights[j] * out[k];
      }
      float* h = op.hidden.row(row);
      for (int64_t k = 0; k < hidden; ++k) h[k] += sum[k];
    }
  });
}

}  // namespace adapmoe
