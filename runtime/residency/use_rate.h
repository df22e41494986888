// SPDX-License-Identifier: Apache-2.0
// How often an expert is needed per pass: the mean of two exponential moving averages, one over the
// last two or three passes and one over the last hundred, for text that changes its subject and for
// habits.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace adapmoe {

class UseRate {
 public:
  // Needed in this pass; passes are counted from 1 and never go back.
  void use(uint64_t pass) {
    if (pass == last_) return;
    const auto gap = static_cast<double>(pass - last_);
    recent_ = recent_ * std::pow(1.0 - kRecent, gap) + kRecent;
    lasting_ = lasting_ * std::pow(1.0 - kLasting, gap) + kLasting;
    last_ = pass;
  }

  // After `pass` passes, 0 to 1; before any, 0. Divided by the weight that all passes so far can
  // have, so that the beginning counts in full.
  double at(uint64_t pass) const {
    if (pass == 0) return 0.0;
    return (average(recent_, kRecent, pass) + average(lasting_, kLasting, pass)) / 2.0;
  }

 private:
  static constexpr double kRecent = 0.5;
  static constexpr double kLasting = 0.02;

  double average(double value, double weight, uint64_t pass) const {
    const double since = std::pow(1.0 - weight, static_cast<double>(pass - std::min(pass, last_)));
    return value * since / (1.0 - std::pow(1.0 - weight, static_cast<double>(pass)));
  }

  double recent_ = 0.0;
  double lasting_ = 0.0;
  uint64_t last_ = 0;  // pass of the latest use
};

}  // namespace adapmoe
