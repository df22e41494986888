// SPDX-License-Identifier: Apache-2.0
#include "runtime/residency/replay.h"

#include <algorithm>
#include <limits>

namespace adapmoe {
namespace {

struct Resident {
  bool here = false;
  bool held = false;
  uint64_t last_use = 0;
  uint64_t loaded_at = 0;
  uint64_t uses = 0;
  UseRate rate;
};

}  // namespace

ReplayResult replay(std::span<const TraceVisit> trace, int64_t num_layers, int64_t num_experts,
                    int64_t capacity, const EvictionPolicy& policy,
                    std::span<const int64_t> floors) {
  std::vector<Resident> experts(static_cast<size_t>(num_layers * num_experts));
  std::vector<int64_t> resident(static_cast<size_t>(num_layers), 0);
  ReplayResult result;
  EvictionContext context;
  int64_t used = 0;
  int64_t pass = -1;
  const auto flat = [&](int32_t layer, int32_t expert) {
    return static_cast<size_t>(layer * num_experts + expert);
  };
  const auto evict_one = [&] {
    std::vector<EvictionCandidate> candidates;
    for (size_t i = 0; i < experts.size(); ++i) {
      const Resident& e = experts[i];
      if (!e.here || e.held) continue;
      const ExpertId id{static_cast<int32_t>(static_cast<int64_t>(i) / num_experts),
                        static_cast<int32_t>(static_cast<int64_t>(i) % num_experts)};
      candidates.push_back({id, e.last_use, e.loaded_at, e.uses, e.rate});
    }
    if (candidates.empty()) return false;
    const ExpertId id = candidates[choose_victim(policy, candidates, context, floors, resident)].id;
    experts[flat(id.layer, id.expert)].here = false;
    --resident[static_cast<size_t>(id.layer)];
    --used;
    return true;
  };
  const auto use = [&](Resident& e) {
    e.last_use = ++context.now;
    ++e.uses;
    e.rate.use(context.pass);
  };
  for (const TraceVisit& visit : trace) {
    if (visit.pass != pass) {
      context.pass_start = context.now;
      ++context.pass;
    }
    pass = visit.pass;
    context.layer = visit.layer;
    std::vector<size_t> missing;
    for (const int32_t expert : visit.experts) {
      Resident& e = experts[flat(visit.layer, expert)];
      ++result.visits;
      if (!e.here) {
        missing.push_back(flat(visit.layer, expert));
        continue;
      }
      ++result.hits;
      e.held = true;
      use(e);
    }
    for (const size_t at : missing) {
      if (used == capacity &&
          !evict_one()) {  // all of them held: the first ones are computed and let go
        for (Resident& e : experts) e.held = false;
        evict_one();
      }
      experts[at].here = experts[at].held = true;
      experts[at].loaded_at = context.now;
      use(experts[at]);
      ++resident[static_cast<size_t>(visit.layer)];
      ++used;
    }
    for (const int32_t expert : visit.experts) experts[flat(visit.layer, expert)].held = false;
  }
  return result;
}

ReplayResult replay_belady(std::span<const TraceVisit> trace, int64_t num_layers,
                           int64_t num_experts, int64_t capacity, int64_t count_from) {
  const auto total = static_cast<size_t>(num_layers * num_experts);
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  // One access per expert and visit; next[i]: the access to the same expert after access i.
  std::vector<size_t> accesses;
  size_t first_counted = 0;
  for (const TraceVisit& visit : trace) {
    if (visit.pass < count_from) first_counted += visit.experts.size();
    for (const int32_t expert : visit.experts) {
      accesses.push_back(static_cast<size_t>(visit.layer * num_experts + expert));
    }
  }
  std::vector<int64_t> next(accesses.size(), kNever);
  std::vector<int64_t> upcoming(total, kNever);
  for (size_t i = accesses.size(); i-- > 0;) {
    next[i] = upcoming[accesses[i]];
    upcoming[accesses[i]] = static_cast<int64_t>(i);
  }
  ReplayResult result;
  std::vector<int64_t> next_use(total, -1);  // -1: not resident
  std::vector<size_t> residents;
  for (size_t i = 0; i < accesses.size(); ++i) {
    const size_t expert = accesses[i];
    const bool counted = i >= first_counted;
    result.visits += counted ? 1 : 0;
    if (next_use[expert] >= 0) {
      result.hits += counted ? 1 : 0;
      next_use[expert] = next[i];
      continue;
    }
    if (static_cast<int64_t>(residents.size()) == capacity) {
      const auto farthest =
          std::max_element(residents.begin(), residents.end(),
                           [&](size_t a, size_t b) { return next_use[a] < next_use[b]; });
      if (next_use[*farthest] <= next[i]) continue;  // the newcomer would be the one to go
      next_use[*farthest] = -1;
      residents.erase(farthest);
    }
    residents.push_back(expert);
    next_use[expert] = next[i];
  }
  return result;
}

}  // namespace adapmoe
