// SPDX-License-Identifier: Apache-2.0
// How a ceiling is split; pure functions.
#pragma once
#include <cstdint>

#include "runtime/base/status.h"

namespace adapmoe {

// What the model needs, before the user's ceiling is known. All in bytes unless named otherwise.
struct MemoryNeeds {
  int64_t dense_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t scratch_bytes = 0;
  int64_t tile_bytes = 0;
  int64_t tiles_per_expert = 0;
  int64_t top_k = 0;
  int64_t num_layers = 0;
  int64_t num_experts = 0;  // of all layers together
};

struct MemorySplit {
  int64_t memory_bytes = 0;  // the ceiling
  int64_t dense_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t scratch_bytes = 0;
  int64_t expert_bytes = 0;  // frames * tile_bytes
  int64_t tile_bytes = 0;
  int64_t frames = 0;
  int64_t frames_total = 0;  // tiles of all experts
  int64_t floor_bytes = 0;   // dense + KV + scratch + top_k experts + one staging tile
  int64_t cycle_bytes = 0;   // layers * top_k experts
  int64_t host_bytes = 0;    // beside the ceiling, where that is of a GPU's own memory: staging

  int64_t reserved_bytes() const { return dense_bytes + kv_bytes + scratch_bytes + expert_bytes; }
  bool everything_fits() const { return frames == frames_total; }
  bool below_one_cycle() const { return expert_bytes < cycle_bytes; }
};

// Gives experts what dense, KV and scratch leave of `memory_bytes`, at most all experts.
// Errors: kBudgetError below the floor, naming the bytes needed.
Result<MemorySplit> split_memory(const MemoryNeeds& needs, int64_t memory_bytes);

// The ceiling at which `fraction` (0..1] of the experts is resident, at least the floor.
int64_t memory_for_fraction(const MemoryNeeds& needs, double fraction);

}  // namespace adapmoe
