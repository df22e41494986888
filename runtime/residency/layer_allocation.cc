// SPDX-License-Identifier: Apache-2.0
#include "runtime/residency/layer_allocation.h"

#include <algorithm>
#include <limits>

namespace adapmoe {

double expected_loads(const LayerProfile& layer, int64_t cached, int64_t experts) {
  const auto n = static_cast<double>(experts);
  const auto t = static_cast<double>(cached);
  const double a = layer.prefetch_accuracy;
  const double pairs = std::max(1.0, n * (n - 1.0));
  const double both_miss = (n - t) * (n - t - 1.0) / pairs;
  const double one_misses = 2.0 * (n - t) * t / pairs;
  const double one = (1.0 - t / n) * (1.0 - a);
  const double two = 2.0 * both_miss * (1.0 - a) + both_miss * a + one_misses * (1.0 - a);
  return layer.single_ratio * one + (1.0 - layer.single_ratio) * two;
}

std::vector<int64_t> allocate_layers(std::span<const LayerProfile> layers, int64_t experts,
                                     int64_t total) {
  const auto count = static_cast<int64_t>(layers.size());
  total = std::min(total, count * experts);
  if (total < count) return {};
  // best[i][j]: least expected loads of the first i layers with j experts; taken[i][j]: of them,
  // layer i - 1's share.
  const auto width = static_cast<size_t>(total + 1);
  constexpr double kImpossible = std::numeric_limits<double>::infinity();
  std::vector<double> best(width, kImpossible);
  best[0] = 0.0;
  std::vector<std::vector<int64_t>> taken;
  for (const LayerProfile& layer : layers) {
    std::vector<double> next(width, kImpossible);
    std::vector<int64_t> share(width, 0);
    for (int64_t j = 1; j <= total; ++j) {
      for (int64_t k = 1; k <= std::min(j, experts); ++k) {
        const double cost = best[static_cast<size_t>(j - k)] + expected_loads(layer, k, experts);
        if (cost < next[static_cast<size_t>(j)]) {
          next[static_cast<size_t>(j)] = cost;
          share[static_cast<size_t>(j)] = k;
        }
      }
    }
    best = std::move(next);
    taken.push_back(std::move(share));
  }
  std::vector<int64_t> result(layers.size());
  int64_t left = total;
  for (size_t i = layers.size(); i-- > 0;) {
    result[i] = taken[i][static_cast<size_t>(left)];
    left -= result[i];
  }
  return result;
}

std::vector<int64_t> uniform_layers(int64_t num_layers, int64_t experts, int64_t total) {
  std::vector<int64_t> result(static_cast<size_t>(num_layers));
  for (int64_t i = 0; i < num_layers; ++i) {
    const int64_t share = total / num_layers + (i < total % num_layers ? 1 : 0);
    result[static_cast<size_t>(i)] = std::min(share, experts);
  }
  return result;
}

}  // namespace adapmoe
