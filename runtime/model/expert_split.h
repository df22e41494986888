// SPDX-License-Identifier: Apache-2.0
// Where a GPU and the CPU use the same memory, a few token rows' expert whose tiles still arrive
// may be computed by the CPU while the GPU computes the resident ones. The bits are the same; who
// does it is decided by what a tile has cost either of them.
#pragma once
#include <cstdint>
#include <memory>
#include <utility>

#include "runtime/backend/backend.h"

namespace adapmoe {

// Seconds per tile of an expert; 0: not measured yet.
struct TileCosts {
  double cpu = 0.0;
  double gpu = 0.0;
};

// Whether the CPU computes `tiles` tiles sooner than a GPU that has `busy` others to compute first.
// What has not been measured is tried: the GPU, then the CPU.
bool cpu_is_sooner(const TileCosts& costs, int64_t busy, int64_t tiles);

class ExpertSplit {
 public:
  static constexpr int64_t kMaxRows = 4;  // more are work for a GPU

  // `cpu` takes steps of up to kMaxRows rows.
  explicit ExpertSplit(std::unique_ptr<Backend> cpu) : cpu_(std::move(cpu)) {}

  Backend& cpu() const { return *cpu_; }
  // Whether the CPU is to compute an expert of `tiles` tiles now. Every 64th time the other way
  // round, so that no figure grows old.
  bool takes(int64_t busy, int64_t tiles);
  void measured_cpu(double seconds, int64_t tiles) { learn(costs_.cpu, seconds, tiles); }
  void measured_gpu(double seconds, int64_t tiles) { learn(costs_.gpu, seconds, tiles); }

 private:
  static void learn(double& cost, double seconds, int64_t tiles);

  std::unique_ptr<Backend> cpu_;
  TileCosts costs_;
  uint64_t asked_ = 0;
};

}  // namespace adapmoe
