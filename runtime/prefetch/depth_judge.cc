// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefetch/depth_judge.h"

#include <algorithm>
#include <cmath>

namespace adapmoe {
namespace {

constexpr size_t kStretch = 4;    // steps
constexpr size_t kFewest = 6;     // pairs of stretches before anything is decided
constexpr size_t kMost = 16;      // pairs after which the depth in use stays
constexpr double kErrors = 2.0;   // standard errors that make a difference clear
constexpr double kMargin = 0.01;  // shorter steps by less than this are not worth a change
constexpr int64_t kSettle = 16;   // steps before the first trial, while residency settles
constexpr int64_t kRest = 256;    // steps between trials at first
constexpr int64_t kLongRest = 2048;

double median(std::vector<double>& values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

}  // namespace

DepthJudge::DepthJudge(int32_t most) : most_(most), used_(most), rest_(kRest), resting_(kSettle) {}

void DepthJudge::observe(double seconds, int64_t rows) {
  if (most_ == 0 || !(seconds > 0.0)) return;
  if (resting_ > 0) {
    if (--resting_ == 0) begin_trial();
    return;
  }
  if (rows != rows_) {  // the pair begins again, with the next step
    rows_ = rows;
    stretch_ = 0;
    stretches_.clear();
    return;
  }
  stretches_.push_back(seconds);
  if (stretches_.size() == kStretch) end_stretch();
}

void DepthJudge::end_stretch() {
  of_pair_[trying() ? 1 : 0] = median(stretches_);
  stretches_.clear();
  if (++stretch_ < 2) return;
  gains_.push_back(std::log(of_pair_[0] / of_pair_[1]));
  stretch_ = 0;
  ++pair_;
  if (gains_.size() >= kFewest) judge();
}

void DepthJudge::judge() {
  const auto n = static_cast<double>(gains_.size());
  double mean = 0.0;
  for (const double gain : gains_) mean += gain / n;
  double squares = 0.0;
  for (const double gain : gains_) squares += (gain - mean) * (gain - mean);
  const double unsure = kErrors * std::sqrt(squares / (n - 1.0) / n);
  if (mean - unsure > 0.0 && mean > kMargin) {
    used_ = challenger_;
    end_trial(/*changed=*/true);
  } else if (mean + unsure < 0.0 || gains_.size() == kMost) {
    end_trial(/*changed=*/false);
  }
}

void DepthJudge::begin_trial() {
  direction_ = -direction_;  // the neighbours in turn, where both exist
  if (used_ + direction_ < 0 || used_ + direction_ > most_) direction_ = -direction_;
  challenger_ = used_ + direction_;
  gains_.clear();
  stretches_.clear();
  pair_ = 0;
  stretch_ = 0;
}

void DepthJudge::end_trial(bool changed) {
  rest_ = changed ? kRest : std::min(2 * rest_, kLongRest);
  resting_ = rest_;
}

}  // namespace adapmoe
