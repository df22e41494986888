// SPDX-License-Identifier: Apache-2.0
// How many experts each layer should keep, from calibration data: AdapMoE's dynamic programme
// (arXiv 2408.10284, cache allocation). Used as soft floors in the one global pool.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace adapmoe {

// What calibration measured about one layer.
struct LayerProfile {
  double prefetch_accuracy = 0.0;  // a_i: share of needed experts that look-ahead predicts
  double single_ratio = 0.0;       // r_i: share of (token, layer) steps that need one expert only
};

// Expected on-demand loads of a layer that keeps `cached` of `experts`, for a top-2 router with
// uniform residency:
//   f1 = (1 - t/N)(1 - a);  P2 = (N-t)(N-t-1) / (N(N-1));  P1 = 2 (N-t) t / (N(N-1))
//   f  = r f1 + (1 - r) [2 P2 (1-a) + P2 a + P1 (1-a)]
double expected_loads(const LayerProfile& layer, int64_t cached, int64_t experts);

// Splits `total` experts over the layers, at least one and at most `experts` each, minimising the
// sum of expected_loads(). Ties: the smaller count for the later layer. Empty when total is below
// one per layer; a larger total than fits gives all.
std::vector<int64_t> allocate_layers(std::span<const LayerProfile> layers, int64_t experts,
                                     int64_t total);

// The same number for every layer, the remainder to the first ones.
std::vector<int64_t> uniform_layers(int64_t num_layers, int64_t experts, int64_t total);

}  // namespace adapmoe
