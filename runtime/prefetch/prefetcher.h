// SPDX-License-Identifier: Apache-2.0
// Turns predictions into hints for the expert cache, keeps score of them, and turns itself down
// when steps are not shorter for it. Thread-compatible: used by the step only.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/prefetch/depth_judge.h"
#include "runtime/prefetch/expert_predictor.h"
#include "runtime/residency/expert_cache.h"

namespace adapmoe {

inline constexpr int32_t kMaxDepth = 3;  // layers looked ahead

struct PrefetchConfig {
  int32_t depth = 0;   // layers looked ahead at most, 0 (off) to kMaxDepth
  bool trials = true;  // try whether fewer make steps shorter; false: always `depth`
};

// Per layer: experts predicted one layer ahead (or for the first layer, before it) that were
// needed, and experts needed.
struct PredictionScore {
  int64_t right = 0;
  int64_t needed = 0;
};

class Prefetcher {
 public:
  // The cache outlives the prefetcher.
  Prefetcher(ExpertCache& cache, std::vector<std::unique_ptr<ExpertPredictor>> predictors,
             PrefetchConfig config, int64_t num_layers);

  // After the demand reads of input.layer are queued: hints for the next layers. Those for the very
  // next one take the place of earlier ones.
  void look_ahead(const PredictorInput& input);
  // The experts that `layer` really needs: scores the prediction.
  void resolve(int32_t layer, std::span<const int32_t> experts);

  // A decode step of `rows` tokens took so long.
  void end_decode(double seconds, int64_t rows);

  int32_t depth() const { return judge_.depth(); }  // in force now; at most the configured one
  const std::vector<PredictionScore>& scores() const { return scores_; }

 private:
  ExpertCache& cache_;
  std::vector<std::unique_ptr<ExpertPredictor>> predictors_;
  bool trials_;
  DepthJudge judge_;
  std::vector<std::vector<int32_t>> predicted_;  // [layers] nearest prediction
  std::vector<PredictionScore> scores_;          // [layers]
};

}  // namespace adapmoe
