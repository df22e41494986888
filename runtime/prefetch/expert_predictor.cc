// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefetch/expert_predictor.h"

#include <algorithm>
#include <numeric>

#include "runtime/base/packed_layout.h"  // kBlockRows

namespace adapmoe {
namespace {

void scores_of(const ScoreMap& map, const float* x, std::vector<float>& scores) {
  for (int64_t first = 0; first < map.experts; first += kBlockRows) {
    const float* w = map.weights + first * map.cols;
    float acc[kBlockRows] = {};
    for (int64_t k = 0; k < map.cols; ++k) {
      for (int64_t lane = 0; lane < kBlockRows; ++lane)
        acc[lane] += w[k * kBlockRows + lane] * x[k];
    }
    const int64_t count = std::min(kBlockRows, map.experts - first);
    std::copy(acc, acc + count, scores.begin() + first);
  }
}

}  // namespace

std::vector<int32_t> rank_experts(const ScoreMap& map, const PredictorInput& input, int64_t top_k) {
  struct Votes {
    int64_t rows = 0;
    float best = 0.0F;
  };
  std::vector<Votes> votes(static_cast<size_t>(map.experts));
  std::vector<float> scores(static_cast<size_t>(map.experts));
  std::vector<int32_t> order(static_cast<size_t>(map.experts));
  for (int64_t row = 0; row < input.rows; ++row) {
    scores_of(map, input.data + row * input.stride, scores);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
    });
    for (int64_t j = 0; j < top_k; ++j) {
      const auto expert = static_cast<size_t>(order[static_cast<size_t>(j)]);
      Votes& v = votes[expert];
      v.best = v.rows++ == 0 ? scores[expert] : std::max(v.best, scores[expert]);
    }
  }
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const Votes& va = votes[static_cast<size_t>(a)];
    const Votes& vb = votes[static_cast<size_t>(b)];
    return va.rows != vb.rows ? va.rows > vb.rows : va.best > vb.best;
  });
  std::erase_if(order, [&](int32_t e) { return votes[static_cast<size_t>(e)].rows == 0; });
  return order;
}

}  // namespace adapmoe
