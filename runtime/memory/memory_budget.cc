// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory/memory_budget.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/packed_layout.h"  // kPageBytes
#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

int64_t fixed_bytes(const MemoryNeeds& n) {
  return align_up(n.dense_bytes, kPageBytes) + align_up(n.kv_bytes, kPageBytes) +
         align_up(n.scratch_bytes, kPageBytes);
}

// top_k experts and one staging tile, but never more than all experts.
int64_t floor_frames(const MemoryNeeds& n) {
  return std::min(n.top_k * n.tiles_per_expert + 1, n.num_experts * n.tiles_per_expert);
}

}  // namespace

Result<MemorySplit> split_memory(const MemoryNeeds& n, int64_t memory_bytes) {
  MemorySplit split;
  split.memory_bytes = memory_bytes;
  split.dense_bytes = align_up(n.dense_bytes, kPageBytes);
  split.kv_bytes = align_up(n.kv_bytes, kPageBytes);
  split.scratch_bytes = align_up(n.scratch_bytes, kPageBytes);
  split.tile_bytes = n.tile_bytes;
  split.frames_total = n.num_experts * n.tiles_per_expert;
  split.floor_bytes = fixed_bytes(n) + floor_frames(n) * n.tile_bytes;
  split.cycle_bytes = n.num_layers * n.top_k * n.tiles_per_expert * n.tile_bytes;
  if (memory_bytes < split.floor_bytes) {
    return budget_error(
        str_cat("memory of ", format_bytes(memory_bytes), " is below the floor: at least ",
                format_bytes(split.floor_bytes), " needed = dense ",
                format_bytes(split.dense_bytes), " + KV ", format_bytes(split.kv_bytes),
                " + scratch ", format_bytes(split.scratch_bytes), " + ", n.top_k,
                " experts and one staging tile ", format_bytes(floor_frames(n) * n.tile_bytes),
                "; raise memory, or lower max_context, max_sequences or prefill_chunk"));
  }
  split.frames = std::min((memory_bytes - fixed_bytes(n)) / n.tile_bytes, split.frames_total);
  split.expert_bytes = split.frames * n.tile_bytes;
  return split;
}

int64_t memory_for_fraction(const MemoryNeeds& n, double fraction) {
  const double total = static_cast<double>(n.num_experts * n.tiles_per_expert);
  const int64_t frames = std::max<int64_t>(std::llround(total * fraction), floor_frames(n));
  return fixed_bytes(n) + frames * n.tile_bytes;
}

}  // namespace adapmoe
