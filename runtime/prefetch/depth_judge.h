// SPDX-License-Identifier: Apache-2.0
// Decides by step times how many layers to look ahead: what counts is not how many guesses were
// right but whether steps get shorter. Pure: seconds come in, a depth goes out. Thread-compatible.
#pragma once
#include <cstdint>
#include <vector>

namespace adapmoe {

// Two neighbouring depths take turns in stretches of a few steps, in the order ABBA so that drift
// falls out. The one whose steps are clearly shorter is used until the next trial; trials that
// change nothing become rarer.
class DepthJudge {
 public:
  // Begins with the greatest depth. REQUIRES: most >= 0.
  explicit DepthJudge(int32_t most);

  // For the next step.
  int32_t depth() const { return trying() ? challenger_ : used_; }
  // The step that just ended at depth() took so long. `rows` are its token rows: only steps of the
  // same size are compared.
  void observe(double seconds, int64_t rows);

 private:
  bool trying() const { return resting_ == 0 && stretch_ == (pair_ % 2 == 0 ? 1 : 0); }
  void end_stretch();
  void judge();
  void begin_trial();
  void end_trial(bool changed);

  int32_t most_;
  int32_t used_;
  int32_t challenger_ = 0;
  int32_t direction_ = 1;  // of the latest challenger, seen from used_
  int64_t rest_;           // steps between trials
  int64_t resting_;        // of them, still to come
  int64_t rows_ = 0;       // of the steps of this pair
  int64_t pair_ = 0;
  int stretch_ = 0;                // of the pair
  double of_pair_[2] = {};         // median step of each stretch
  std::vector<double> stretches_;  // steps of the current stretch, seconds
  std::vector<double> gains_;      // log(used / challenger) of each pair
};

}  // namespace adapmoe
