// SPDX-License-Identifier: Apache-2.0
// Every setting of a session, with its default and unit.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/gate/gate.h"               // GatingConfig
#include "runtime/residency/expert_cache.h"  // VerifyTiles

namespace adapmoe {

struct SessionConfig {
  int64_t memory = 0;  // bytes; 0: 80 % of the smaller of the cgroup's room and MemAvailable
  double experts_resident = 0.0;  // > 0: what holds this share of the experts, instead of memory
  int threads = 0;                // 0: one per core that the process may use
  int64_t max_context = 0;        // tokens per sequence; 0: min(max_position_embeddings, 4096)
  int64_t max_sequences = 1;      // KV caches reserved
  bool kv_f16 = true;
  int64_t prefill_chunk = 128;  // token rows per step
  std::string backend = "auto";
  std::string kernels = "auto";
  std::string arithmetic =
      "auto";         // see choose_expert_path(), or "tensorrt": one engine per expert
  bool exact = true;  // only paths that give the bits of the CPU
  std::string policy = "next-use";
  std::string reader = "auto";    // auto | io_uring | pread
  int read_depth = 4;             // reads at the same time
  int64_t request_bytes = 0;      // of one read at most, a multiple of 4 KiB; 0: a whole tile
  bool register_buffers = false;  // with io_uring, as far as RLIMIT_MEMLOCK allows
  bool direct_io = true;
  VerifyTiles verify = VerifyTiles::kAlways;
  bool evict_tiles = true;  // only as many tiles as needed; false: whole experts
  std::vector<int64_t>
      layer_floors;             // experts each layer should keep (soft), one per layer; empty: none
  bool timeline = false;        // record who was busy when
  int prefetch = 1;             // layers looked ahead at most, 0 (off) to 3
  bool prefetch_trials = true;  // try by step times whether fewer layers are better
  bool first_layer_embedding = true;    // foresee layer 0's experts by the embedding
  std::vector<float> first_layer_gate;  // [num_local_experts, hidden_size] row-major, from
                                        // calibration; empty: none
  GatingConfig gating;
};

}  // namespace adapmoe
