// SPDX-License-Identifier: Apache-2.0
#include "runtime/model/expert_split.h"

namespace adapmoe {

bool cpu_is_sooner(const TileCosts& costs, int64_t busy, int64_t tiles) {
  if (costs.gpu == 0.0) return false;
  return costs.cpu * static_cast<double>(tiles) < costs.gpu * static_cast<double>(busy + tiles);
}

bool ExpertSplit::takes(int64_t busy, int64_t tiles) {
  constexpr uint64_t kPeriod = 64;
  const bool cpu = cpu_is_sooner(costs_, busy, tiles);
  const bool is_known = costs_.cpu > 0.0 && costs_.gpu > 0.0;
  return is_known && ++asked_ % kPeriod == 0 ? !cpu : cpu;
}

// A moving average: a busy moment soon counts for little.
void ExpertSplit::learn(double& cost, double seconds, int64_t tiles) {
  constexpr double kShare = 0.125;
  const double now = seconds / static_cast<double>(tiles);
  cost = cost == 0.0 ? now : cost + kShare * (now - cost);
}

}  // namespace adapmoe
