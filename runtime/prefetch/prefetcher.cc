// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefetch/prefetcher.h"

#include <algorithm>
#include <utility>

namespace adapmoe {
namespace {

constexpr int64_t kScoredRows = 16;     // a long prompt needs almost every expert anyway
constexpr int64_t kOutcomes = 32;       // prefetched experts used or wasted per judgement
constexpr double kWorth = 0.5;          // share that must be used, or depth goes down
constexpr double kGood = 0.75;          // share from which depth goes up again
constexpr int64_t kQuietLayers = 2048;  // layers after which prefetch tries again

}  // namespace

Prefetcher::Prefetcher(ExpertCache& cache, std::vector<std::unique_ptr<ExpertPredictor>> predictors,
                       PrefetchConfig config, int64_t num_layers)
    : cache_(cache),
      predictors_(std::move(predictors)),
      config_(config),
      depth_(config.depth),
      judged_(cache.stats()),
      predicted_(static_cast<size_t>(num_layers)),
      scores_(static_cast<size_t>(num_layers)) {}

void Prefetcher::look_ahead(const PredictorInput& input) {
  PredictorInput some = input;
  some.rows = std::min(input.rows, kScoredRows);
  const auto layers = static_cast<int32_t>(predicted_.size());
  const int32_t current = input.layer < 0 ? layers - 1 : input.layer;  // -1: the last pass is over
  for (int32_t target = input.layer + 1; target <= std::min(input.layer + depth_, layers - 1);
       ++target) {
    for (const auto& predictor : predictors_) {
      std::vector<int32_t> experts = predictor->predict(some, target);
      if (experts.empty()) continue;
      for (const int32_t expert : experts) cache_.hint({target, expert}, current);
      if (target == input.layer + 1) predicted_[static_cast<size_t>(target)] = std::move(experts);
      break;
    }
  }
}

void Prefetcher::resolve(int32_t layer, std::span<const int32_t> experts) {
  std::vector<int32_t>& predicted = predicted_[static_cast<size_t>(layer)];
  if (!predicted.empty()) {
    PredictionScore& score = scores_[static_cast<size_t>(layer)];
    for (const int32_t e : experts) {
      score.right += std::find(predicted.begin(), predicted.end(), e) != predicted.end() ? 1 : 0;
      ++score.needed;
    }
    predicted.clear();
  }
  cache_.cancel_hints(layer, experts);
  adapt();
}

void Prefetcher::adapt() {
  if (depth_ == 0) {
    if (config_.depth > 0 && ++quiet_ >= kQuietLayers) {
      depth_ = 1;
      judged_ = cache_.stats();
      quiet_ = 0;
    }
    return;
  }
  const ResidencyStats now = cache_.stats();
  const int64_t used = now.prefetch_used - judged_.prefetch_used;
  const int64_t wasted = now.prefetch_wasted - judged_.prefetch_wasted;
  if (used + wasted < kOutcomes) return;
  const double share = static_cast<double>(used) / static_cast<double>(used + wasted);
  if (share < kWorth) --depth_;
  if (share >= kGood) depth_ = std::min(depth_ + 1, config_.depth);
  judged_ = now;
}

}  // namespace adapmoe
