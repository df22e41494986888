// SPDX-License-Identifier: Apache-2.0
// The experts one layer needs now, in the order to compute them: residents together first, while
// the missing ones are read; then the missing ones, first those that are being read already, each
// ascending, as many held at a time as there are frames.
#pragma once
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "runtime/residency/expert_cache.h"

namespace adapmoe {

class ExpertStream {
 public:
  // Holds the residents and starts reading the rest. `experts` ascending. Errors: kCancelled.
  static Result<ExpertStream> begin(ExpertCache& cache, int32_t layer,
                                    std::span<const int32_t> experts, const Interrupt& interrupt);

  const std::vector<ExpertHandle>& residents() const { return residents_; }
  void release_residents() { residents_.clear(); }
  // Whether no missing expert waits for frames.
  bool all_begun() const { return waiting_.empty(); }
  // Whether the next missing expert is being read already.
  bool is_reading() const { return !under_way_.empty(); }
  // The next missing expert, its reads under way; empty after the last. Destroy the handle before
  // the next call.
  Result<std::optional<ExpertHandle>> next(const Interrupt& interrupt);

 private:
  ExpertStream(ExpertCache& cache, int32_t layer) : cache_(&cache), layer_(layer) {}
  Status start_reads(const Interrupt& interrupt);

  ExpertCache* cache_;
  int32_t layer_;
  std::vector<ExpertHandle> residents_;
  std::deque<int32_t> waiting_;         // no frames yet
  std::deque<ExpertHandle> under_way_;  // held, being read
};

}  // namespace adapmoe
