// SPDX-License-Identifier: Apache-2.0
// Attention on the GPU, of as many rows at once as there is room for what their blocks give.
#include <algorithm>
#include <cmath>
#include <vector>

#include "runtime/backend/attention_block.h"
#include "runtime/backend/cuda/cuda_backend.h"

namespace adapmoe::cuda {
namespace {

// Blocks of positions that one row attends to at most, whatever its position.
int64_t most_blocks(int64_t max_context, int64_t sliding_window) {
  const int64_t all = (max_context + kAttentionBlock - 1) / kAttentionBlock;
  if (sliding_window == 0) return all;
  return std::min(all, (sliding_window + kAttentionBlock - 2) / kAttentionBlock + 1);
}

// Of these rows.
int64_t blocks_of(std::span<const KVRow> rows, int64_t sliding_window) {
  int64_t last = 0;
  for (const KVRow& kv : rows) last = std::max(last, kv.position);
  return most_blocks(last + 1, sliding_window);
}

}  // namespace

// A few rows with all positions, or more with fewer.
int64_t CudaBackend::attention_places() const {
  constexpr int64_t kRows = 4;
  return std::min(shape_.max_rows, kRows) * most_blocks(shape_.max_context, 0);
}

AttentionParts CudaBackend::layout_attention(Bump& bump) const {
  const ModelConfig& c = shape_.config;
  const int64_t places = attention_places() * c.num_attention_heads;
  return {.largest = bump.take<float>(places),
          .total = bump.take<float>(places),
          .values = bump.take<float>(places * c.head_dim_padded())};
}

const KVPlace* CudaBackend::places_of(std::span<const KVRow> rows) {
  std::vector<KVPlace> places;
  places.reserve(rows.size());
  for (const KVRow& kv : rows) places.push_back({device(kv.k), device(kv.v), kv.position});
  make_room(ParameterRing::bytes_of<KVPlace>(places.size()));
  return parameter(std::span<const KVPlace>(places));
}

void CudaBackend::attention(const AttentionOp& op) {
  const ModelConfig& c = shape_.config;
  const AttentionParts& parts = scratch_.attention;
  AttentionArgs args{
      .q = device(op.q.data),
      .k = device(op.k.data),
      .v = device(op.v.data),
      .q_stride = op.q.stride,
      .k_stride = op.k.stride,
      .v_stride = op.v.stride,
      .kv = resident_ ? shared(scratch_.step.kv + op.layer * op.q.rows) : places_of(op.kv),
      .inv_freq = device(op.inv_freq),
      .kv_f16 = shape_.kv_f16,
      .rows = op.q.rows,
      .heads = c.num_attention_heads,
      .kv_heads = c.num_key_value_heads,
      .head_dim = c.head_dim,
      .head_dim_padded = c.head_dim_padded(),
      .sliding_window = op.sliding_window,
      .scale = 1.0F / std::sqrt(static_cast<float>(c.head_dim)),
      .parts = {device(parts.largest), device(parts.total), device(parts.values)},
      .out = device(op.out.data),
      .out_stride = op.out.stride};
  note(launch_rope(args, stream_));
  // A recorded step finds other positions when it is repeated.
  args.blocks = resident_ ? most_blocks(shape_.max_context, op.sliding_window)
                          : blocks_of(op.kv, op.sliding_window);
  ADAPMOE_CHECK(args.blocks <= attention_places());
  const int64_t at_once = attention_places() / args.blocks;
  for (int64_t left = op.q.rows; left > 0; left -= args.rows) {
    args.rows = std::min(left, at_once);
    note(launch_attention(args, stream_));
    args.kv += args.rows;
    args.out += args.rows * args.out_stride;
  }
}

}  // namespace adapmoe::cuda
