// SPDX-License-Identifier: Apache-2.0
// The composition root: opens a pack under a memory ceiling, builds everything
// that a step needs, and runs steps. Thread-safe: one step at a time, callers
// queue up. Not destroyed while a call runs.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/interrupt.h"
#include "runtime/base/status.h"
#include "runtime/engine/session_config.h"
#include "runtime/memory/memory_budget.h"
#include "runtime/model/step.h"           // Capture
#include "runtime/prefetch/prefetcher.h"  // PredictionScore
#include "runtime/residency/residency_view.h"

namespace adapmoe {

// What one step, or several together, did.
struct StepStats {
  int64_t tokens = 0;             // token rows computed
  int64_t experts_used = 0;       // expert visits: one per layer, expert and chunk
  int64_t experts_activated = 0;  // (token, layer, expert) triples
  int64_t expert_hits = 0;        // visits that found the expert resident
  int64_t experts_on_cpu = 0;     // computed by the CPU though a GPU computes experts
  int64_t gated = 0;              // (token, layer) pairs where the gate dropped experts
  double dropped_share_sq = 0.0;  // sum over them of the squared share of the weight dropped
  int64_t prefetched = 0;         // experts read ahead
  int64_t prefetch_used = 0;
  int64_t prefetch_wasted = 0;
  int64_t bytes_read = 0;
  int64_t device_waits = 0;          // of the host for the GPU
  int64_t device_replays = 0;        // steps that the GPU repeated from a recorded graph
  double stall_s = 0.0;              // waiting for expert tiles
  double first_layer_stall_s = 0.0;  // of it, in layer 0
  double compute_s = 0.0;            // wall minus stall
  double wall_s = 0.0;

  StepStats& operator+=(const StepStats& other);
};

// One token stream: a KV cache and how many tokens it holds. Belongs to the
// session that made it.
struct Sequence {
  int64_t kv_index = -1;  // -1: closed
  int64_t length = 0;
};

// Of which of its new positions an item wants logits.
enum class LogitsOf : uint8_t { kNone, kLast, kAll };

// The part of one sequence in a step.
struct StepItem {
  Sequence* sequence = nullptr;
  std::span<const int32_t> ids;  // to append, at least one
  LogitsOf logits = LogitsOf::kLast;

  int64_t logit_rows() const {
    return logits == LogitsOf::kNone ? 0 : logits == LogitsOf::kLast ? 1 : std::ssize(ids);
  }
};

class Session {
 public:
  // Errors: kPackError, kReadError, kBudgetError (naming the bytes needed),
  // kUnavailable, kInvalidArgument, kCancelled.
  static Result<std::unique_ptr<Session>> open(const std::string& pack_dir, SessionConfig config,
                                               const Interrupt& interrupt = Interrupt());
  ~Session();

  // Neither waits for a running step. Errors: kInvalidArgument when
  // max_sequences are open.
  Result<Sequence> new_sequence();
  // For a sequence that no other thread uses any more.
  void close_sequence(Sequence& sequence);

  // Between steps. Errors: kClosed when the sequence is; kInvalidArgument for a
  // length it does not have, or when all max_sequences are open.
  Status truncate(Sequence& sequence, int64_t length);
  // Only the first `length` tokens are copied; all, if there is none.
  Result<Sequence> fork(const Sequence& sequence, std::optional<int64_t> length = {});

  // Between steps, as all below. Errors: kInvalidArgument.
  Status set_gating(GatingConfig gating);
  // The experts that are resident; reading such a set again in the background, as far as frames are
  // free.
  std::vector<ExpertId> resident_set();
  // Returns how many fit; ids that the model lacks are skipped.
  int64_t warm(std::span<const ExpertId> ids);
  // What a session opened with config.timeline has recorded.
  std::vector<Span> timeline() const;
  Status set_layer_floors(std::vector<int64_t> floors);
  // Records routing from now on, or stops and forgets what was recorded.
  void record_trace(bool on);
  std::vector<TraceVisit> trace();
  // Prefetch accuracy per layer, counted since open; empty when prefetch is off.
  std::vector<PredictionScore> prediction_scores();
  // step() of one sequence that also records activations: for calibration. All logits are computed.
  Result<StepStats> capture(Sequence& sequence, std::span<const int32_t> ids,
                            std::span<float> logits, Capture* into, const Interrupt& interrupt);

  // Changes the ceiling: less memory between two layers of a step that runs, more after it. Errors:
  // kBudgetError; the old ceiling then stays.
  Result<MemorySplit> set_memory(int64_t memory_bytes);
  // Runs `action` when no step runs.
  template <typename Action>
  void between_steps(const Action& action) {
    const std::lock_guard lock(step_);
    action();
  }

  // Appends every item's ids to its sequence, all of them in the same passes over the layers, so
  // that an expert is read once for all. The bits are those of each item alone, in any chunking.
  // `logits` is [sum of logit_rows(), vocab_size], items in order. Returns statistics per item:
  // tokens, activations and gating are its own, the rest is what the whole step did. On error every
  // sequence is as before. Errors: kClosed, kInvalidArgument, kContextOverflow, kReadError,
  // kPackError, kNonFinite, kCancelled.
  Result<std::vector<StepStats>> step(std::span<const StepItem> items, std::span<float> logits,
                                      const Interrupt& interrupt);

  MemorySplit memory_split() const;
  // Whether what it has reserved stays taken, whatever set_memory() says.
  bool pins_memory() const;
  const ModelConfig& model() const;
  const SessionConfig& config() const;
  std::string backend() const;
  std::string reader() const;  // the one in use: "io_uring" or "pread"
  Registration registration() const;
  // Facts the user should see, one line each; steps may add to them.
  std::vector<std::string> notes() const;
  StepStats totals() const;

  // What every expert is doing now, ExpertState bits, [num_hidden_layers * num_local_experts].
  // Neither this nor progress() waits for a step.
  std::vector<uint8_t> expert_states() const;
  // Grows with every read and every layer that is finished.
  uint64_t progress() const;

 private:
  struct Parts;
  explicit Session(std::unique_ptr<Parts> parts);
  Status check_items(std::span<const StepItem> items) const;
  Result<std::vector<StepStats>> run(std::span<const StepItem> items, std::span<float> logits,
                                     Capture* capture, const Interrupt& interrupt);
  Result<MemorySplit> shrink(const MemorySplit& split);
  // Both: the caller has step_, and no expert is held.
  Status shrink_if_asked(const Interrupt& interrupt);
  Status resize(MemorySplit split, const Interrupt& interrupt);
  Status why_not_finite(const std::function<Status(Step&)>& forward, std::span<const float> logits,
                        const Interrupt& interrupt);
  void note(const StepStats& stats, const Step& step);

  std::unique_ptr<Parts> parts_;
  std::mutex step_;                   // held for a whole step
  std::mutex kv_mutex_;               // which KV caches are in use; never waits for a step
  mutable std::mutex facts_mutex_;    // totals_, the split, asked_ and the notes
  std::optional<MemorySplit> asked_;  // less memory, of the step that runs
  std::condition_variable settled_;   // asked_ was done
  StepStats totals_;
};

}  // namespace adapmoe
