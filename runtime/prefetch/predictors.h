// SPDX-License-Identifier: Apache-2.0
// The three predictors: later layers by their own routers, the first layer by a learned gate and
// then by its own router.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/prefetch/expert_predictor.h"

namespace adapmoe {

// `routers`: one per layer; the weights outlive the predictor.
std::unique_ptr<ExpertPredictor> make_lookahead_predictor(std::vector<ScoreMap> routers,
                                                          int64_t top_k);

// `router`: of layer 0; its weights outlive the predictor.
std::unique_ptr<ExpertPredictor> make_embedding_predictor(ScoreMap router, int64_t top_k);

// `gate`: a score map's weights, [blocks of 16 experts][cols][16].
std::unique_ptr<ExpertPredictor> make_first_layer_predictor(std::vector<float> gate,
                                                            int64_t experts, int64_t cols,
                                                            int64_t top_k);

}  // namespace adapmoe
