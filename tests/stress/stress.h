// SPDX-License-Identifier: Apache-2.0
// The parts of adapmoe_stress. Each runs one round with the round's random numbers and ends the
// process at the first violation.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "runtime/model/step.h"  // Capture
#include "runtime/store/pack.h"
#include "tests/stress/round.h"

namespace adapmoe::stress {

// ExpertCache and ExpertStream over readers that are slow, fail, and damage tiles; steps that are
// cancelled or abandoned; budgets from the floor up, changed between steps. `truth` is the content
// of the pack's expert file.
void residency_round(const Pack& pack, const std::vector<std::byte>& truth, Round& round);

// ThreadPool: every item of every job computed exactly once.
void thread_pool_round(Round& round);

// What sequence a thread of the session round runs, and the logits it must see, bit for bit.
struct Script {
  std::vector<int32_t> ids;
  std::vector<std::vector<float>> logits;  // [ids][vocab_size], after each id
  Capture captured;                        // of the first ids, kCaptured
};

inline constexpr size_t kCaptured = 4;

// Scripts with the logits of one thread that has every expert resident.
std::vector<Script> make_scripts(const std::string& pack_dir, Round& round);

// One Session: threads with a sequence each, interrupted, forked and truncated at random, while
// another thread moves the memory ceiling. `backend`: "cpu" or "cuda".
void session_round(const std::string& pack_dir, const std::string& backend,
                   const std::vector<Script>& scripts, Round& round);

}  // namespace adapmoe::stress
