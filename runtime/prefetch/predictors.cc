// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "runtime/prefetch/predictors.h"

namespace adapmoe {
namespace {

// AdapMoE (arXiv 2408.10284, adaptive prefetching): the residual stream changes slowly, so a later
// layer's own router, fed with this layer's MoE input as it is, mostly chooses what it will choose.
class LookaheadPredictor final : public ExpertPredictor {
 public:
  LookaheadPredictor(std::vector<ScoreMap> routers, int64_t top_k)
      : routers_(std::move(routers)), top_k_(top_k) {}

  std::vector<int32_t> predict(const PredictorInput& input, int32_t target_layer) const override {
    if (input.kind != Activations::kMoeInput || target_layer <= input.layer) return {};
    return rank_experts(routers_[static_cast<size_t>(target_layer)], input, top_k_);
  }

 private:
  std::vector<ScoreMap> routers_;
  int64_t top_k_;
};

// The first layer's own router, fed with the embedding as if there were no attention before it:
// attention changes little that early.
class EmbeddingPredictor final : public ExpertPredictor {
 public:
  EmbeddingPredictor(ScoreMap router, int64_t top_k) : router_(router), top_k_(top_k) {}

  std::vector<int32_t> predict(const PredictorInput& input, int32_t target_layer) const override {
    if (input.kind != Activations::kEmbedding || target_layer != 0) return {};
    return rank_experts(router_, input, top_k_);
  }

 private:
  ScoreMap router_;
  int64_t top_k_;
};

// The learned gate of the first layer: from the final hidden state of the previous token, while
// Python still samples.
class FirstLayerPredictor final : public ExpertPredictor {
 public:
  FirstLayerPredictor(std::vector<float> gate, int64_t experts, int64_t cols, int64_t top_k)
      : gate_(std::move(gate)), map_{gate_.data(), experts, cols}, top_k_(top_k) {}

  std::vector<int32_t> predict(const PredictorInput& input, int32_t target_layer) const override {
    if (input.kind != Activations::kLastHidden || target_layer != 0) return {};
    return rank_experts(map_, input, top_k_);
  }

 private:
  std::vector<float> gate_;
  ScoreMap map_;
  int64_t top_k_;
};

}  // namespace

std::unique_ptr<ExpertPredictor> make_lookahead_predictor(std::vector<ScoreMap> routers,
                                                          int64_t top_k) {
  return std::make_unique<LookaheadPredictor>(std::move(routers), top_k);
}

std::unique_ptr<ExpertPredictor> make_embedding_predictor(ScoreMap router, int64_t top_k) {
  return std::make_unique<EmbeddingPredictor>(router, top_k);
}

std::unique_ptr<ExpertPredictor> make_first_layer_predictor(std::vector<float> gate,
                                                            int64_t experts, int64_t cols,
                                                            int64_t top_k) {
  return std::make_unique<FirstLayerPredictor>(std::move(gate), experts, cols, top_k);
}

}  // namespace adapmoe
