// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefetch/prefetcher.h"

#include <algorithm>
#include <utility>

namespace adapmoe {
namespace {

constexpr int64_t kScoredRows = 16;  // a long prompt needs almost every expert anyway

}  // namespace

Prefetcher::Prefetcher(ExpertCache& cache, std::vector<std::unique_ptr<ExpertPredictor>> predictors,
                       PrefetchConfig config, int64_t num_layers)
    : cache_(cache),
      predictors_(std::move(predictors)),
      trials_(config.trials),
      judge_(config.depth),
      predicted_(static_cast<size_t>(num_layers)),
      scores_(static_cast<size_t>(num_layers)) {}

void Prefetcher::look_ahead(const PredictorInput& input) {
  if (depth() == 0 || cache_.nothing_missing()) return;
  PredictorInput some = input;
  some.rows = std::min(input.rows, kScoredRows);
  const auto layers = static_cast<int32_t>(predicted_.size());
  const int32_t current = input.layer < 0 ? layers - 1 : input.layer;  // -1: the last pass is over
  // An eighth of an expert is about what the disk reads until the router has spoken. It lets the
  // expert begin at once, and a wrong guess costs no resident expert more than its last tiles.
  const int64_t most = (cache_.tiles() + 7) / 8;
  for (int32_t target = input.layer + 1; target <= std::min(input.layer + depth(), layers - 1);
       ++target) {
    for (const auto& predictor : predictors_) {
      std::vector<int32_t> experts = predictor->predict(some, target);
      if (experts.empty()) continue;
      const bool nearest = target == input.layer + 1;
      if (nearest) cache_.cancel_hints(target, experts);
      for (const int32_t expert : experts) cache_.hint({target, expert}, current, most);
      if (nearest) predicted_[static_cast<size_t>(target)] = std::move(experts);
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
}

void Prefetcher::end_decode(double seconds, int64_t rows) {
  if (trials_ && !cache_.nothing_missing()) judge_.observe(seconds, rows);
}

}  // namespace adapmoe
