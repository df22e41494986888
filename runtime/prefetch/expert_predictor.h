// SPDX-License-Identifier: Apache-2.0
// Guesses which experts later layers will need. Guesses only steer reads ahead of time: they never
// change a result (gate G3).
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/types.h"

namespace adapmoe {

enum class Activations : uint8_t {
  kMoeInput,    // of a layer
  kLastHidden,  // of the step before, after the last norm
  kEmbedding,   // of the tokens, after the norm of layer 0's MoE block
};

// Activations of the token rows of a step, row-major: row i begins at data + i * stride.
struct PredictorInput {
  Activations kind = Activations::kMoeInput;
  int32_t layer = 0;  // that is done when they are known; -1: none
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t stride = 0;
};

class ExpertPredictor {
 public:
  virtual ~ExpertPredictor() = default;
  // Experts of one later layer, most wanted first; empty when this predictor has nothing to say
  // about it.
  virtual std::vector<int32_t> predict(const PredictorInput& input, int32_t target_layer) const = 0;
};

// A linear map from activations to expert scores, stored as a router is: blocks of 16 rows,
// [cols][16] floats each.
struct ScoreMap {
  const float* weights = nullptr;
  int64_t experts = 0;
  int64_t cols = 0;  // padded
};

// The top_k experts of each row by score (ties: lower index), merged over rows: most rows first,
// then best score.
std::vector<int32_t> rank_experts(const ScoreMap& map, const PredictorInput& input, int64_t top_k);

}  // namespace adapmoe
