// SPDX-License-Identifier: Apache-2.0
// Prefill and decode: from sequences and token ids to token rows, and what a step did.
#include <algorithm>
#include <chrono>
#include <functional>

#include "runtime/base/check.h"
#include "runtime/base/finite.h"
#include "runtime/base/fp_environment.h"
#include "runtime/base/strings.h"
#include "runtime/engine/session_parts.h"
#include "runtime/model/finite_check.h"

namespace adapmoe {
namespace {

// Measures one step: wall time, and what the expert cache did meanwhile.
class StepMeter {
 public:
  StepMeter(const ExpertCache& experts, const Backend& backend)
      : experts_(experts),
        backend_(backend),
        before_(experts.stats()),
        counts_before_(backend.counts()) {}

  StepStats finish(int64_t tokens, const Step& step) const {
    const ResidencyStats after = experts_.stats();
    const BackendCounts device = backend_.counts();
    const RoutingCounts& counts = step.counts;
    StepStats s;
    s.tokens = tokens;
    s.experts_used = after.visits - before_.visits;
    s.experts_activated = counts.activated;
    s.expert_hits = after.hits - before_.hits;
    s.experts_on_cpu = counts.on_cpu + device.on_cpu - counts_before_.on_cpu;
    s.gated = counts.dropped;
    s.dropped_share_sq = counts.dropped_share_sq;
    s.prefetched = after.prefetched - before_.prefetched;
    s.prefetch_used = after.prefetch_used - before_.prefetch_used;
    s.prefetch_wasted = after.prefetch_wasted - before_.prefetch_wasted;
    s.bytes_read = after.bytes_read - before_.bytes_read;
    s.device_waits = device.waits - counts_before_.waits;
    s.device_replays = device.replays - counts_before_.replays;
    s.stall_s = static_cast<double>(after.stall_ns - before_.stall_ns) * 1e-9;
    s.first_layer_stall_s = static_cast<double>(step.first_layer_stall_ns) * 1e-9;
    s.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    s.compute_s = s.wall_s - s.stall_s;
    return s;
  }

 private:
  const ExpertCache& experts_;
  const Backend& backend_;
  ResidencyStats before_;
  BackendCounts counts_before_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

Status overflow_error(int64_t length, int64_t added, int64_t max_context) {
  return context_overflow(str_cat("the sequence holds ", length, " tokens and ", added,
                                  " more exceed max_context=", max_context,
                                  "; shorten the prompt or open with a larger max_context"));
}

}  // namespace

StepStats& StepStats::operator+=(const StepStats& o) {
  tokens += o.tokens;
  experts_used += o.experts_used;
  experts_activated += o.experts_activated;
  expert_hits += o.expert_hits;
  experts_on_cpu += o.experts_on_cpu;
  gated += o.gated;
  dropped_share_sq += o.dropped_share_sq;
  prefetched += o.prefetched;
  prefetch_used += o.prefetch_used;
  prefetch_wasted += o.prefetch_wasted;
  bytes_read += o.bytes_read;
  device_waits += o.device_waits;
  device_replays += o.device_replays;
  stall_s += o.stall_s;
  first_layer_stall_s += o.first_layer_stall_s;
  compute_s += o.compute_s;
  wall_s += o.wall_s;
  return *this;
}

Status Session::check_ids(std::span<const int32_t> ids) const {
  if (ids.empty()) return invalid_argument("no token ids given; at least one is needed");
  for (const int32_t id : ids) {
    if (id < 0 || id >= model().vocab_size) {
      return invalid_argument(
          str_cat("token id ", id, " is outside the vocabulary of ", model().vocab_size));
    }
  }
  return {};
}

Result<StepStats> Session::prefill(Sequence& sequence, std::span<const int32_t> ids,
                                   bool all_logits, std::span<float> logits,
                                   const Interrupt& interrupt) {
  return append(sequence, ids, all_logits, logits, nullptr, interrupt);
}

Result<StepStats> Session::capture(Sequence& sequence, std::span<const int32_t> ids,
                                   std::span<float> logits, Capture* into,
                                   const Interrupt& interrupt) {
  if (static_cast<int64_t>(ids.size()) > parts_->config.prefill_chunk) {
    return invalid_argument(str_cat(
        "capture takes at most prefill_chunk=", parts_->config.prefill_chunk, " tokens at once"));
  }
  return append(sequence, ids, /*all_logits=*/true, logits, into, interrupt);
}

Result<StepStats> Session::append(Sequence& sequence, std::span<const int32_t> ids, bool all_logits,
                                  std::span<float> logits, Capture* capture,
                                  const Interrupt& interrupt) {
  ADAPMOE_RETURN_IF_ERROR(check_ids(ids));
  const std::lock_guard lock(step_);
  ADAPMOE_RETURN_IF_ERROR(check_open(sequence));
  const auto count = static_cast<int64_t>(ids.size());
  if (sequence.length + count > parts_->config.max_context) {
    return overflow_error(sequence.length, count, parts_->config.max_context);
  }
  const size_t vocab = static_cast<size_t>(model().vocab_size);
  ADAPMOE_CHECK(logits.size() == (all_logits ? ids.size() : 1) * vocab);
  const FpEnvironment canonical;
  const StepMeter meter(*parts_->experts, *parts_->backend);
  const KVCache* kv = &parts_->kv[static_cast<size_t>(sequence.kv_index)];
  const auto chunk = static_cast<size_t>(parts_->config.prefill_chunk);
  const auto forward = [&](Step& step) -> Status {
    for (size_t begin = 0; begin < ids.size(); begin += chunk) {
      const size_t n = std::min(chunk, ids.size() - begin);
      const bool is_last = begin + n == ids.size();
      std::vector<TokenRow> rows;
      std::vector<int32_t> logit_rows;
      for (size_t i = 0; i < n; ++i) {
        rows.push_back({ids[begin + i], sequence.length + static_cast<int64_t>(begin + i), kv});
        if (all_logits || (is_last && i + 1 == n)) logit_rows.push_back(static_cast<int32_t>(i));
      }
      step.rows_after = static_cast<int64_t>(std::min(chunk, ids.size() - begin - n));
      float* out = logits.data() + (all_logits ? begin * vocab : 0);
      ADAPMOE_RETURN_IF_ERROR(parts_->decoder->forward(rows, logit_rows, out, step));
    }
    return {};
  };
  Step step = parts_->make_step(interrupt);
  step.capture = capture;
  ADAPMOE_RETURN_IF_ERROR(forward(step));
  if (!all_finite(logits)) return why_not_finite(forward, logits, interrupt);
  sequence.length += count;
  return note(meter.finish(count, step), step);
}

Result<StepStats> Session::decode(std::span<Sequence* const> sequences,
                                  std::span<const int32_t> ids, std::span<float> logits,
                                  const Interrupt& interrupt) {
  ADAPMOE_RETURN_IF_ERROR(check_ids(ids));
  ADAPMOE_CHECK(sequences.size() == ids.size());
  const std::lock_guard lock(step_);
  std::vector<TokenRow> rows;
  std::vector<int32_t> logit_rows;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& s = *sequences[i];
    ADAPMOE_RETURN_IF_ERROR(check_open(s));
    if (s.length + 1 > parts_->config.max_context) {
      return overflow_error(s.length, 1, parts_->config.max_context);
    }
    const auto before = sequences.first(i);
    if (std::find(before.begin(), before.end(), sequences[i]) != before.end()) {
      return invalid_argument("a sequence stands twice in one decode batch");
    }
    rows.push_back({ids[i], s.length, &parts_->kv[static_cast<size_t>(s.kv_index)]});
    logit_rows.push_back(static_cast<int32_t>(i));
  }
  ADAPMOE_CHECK(logits.size() == ids.size() * static_cast<size_t>(model().vocab_size));
  const FpEnvironment canonical;
  const StepMeter meter(*parts_->experts, *parts_->backend);
  const auto forward = [&](Step& step) {
    return parts_->decoder->forward(rows, logit_rows, logits.data(), step);
  };
  Step step = parts_->make_step(interrupt);
  step.recurs = true;
  ADAPMOE_RETURN_IF_ERROR(forward(step));
  if (!all_finite(logits)) return why_not_finite(forward, logits, interrupt);
  parts_->read_the_rest();
  for (Sequence* s : sequences) ++s->length;
  const auto count = static_cast<int64_t>(ids.size());
  const StepStats stats = meter.finish(count, step);
  if (parts_->prefetcher != nullptr) parts_->prefetcher->end_decode(stats.wall_s, count);
  return note(stats, step);
}

// Runs a step once more and looks at every value on the way.
Status Session::why_not_finite(const std::function<Status(Step&)>& forward,
                               std::span<const float> logits, const Interrupt& interrupt) {
  FiniteCheck check(model(), *parts_->backend, parts_->config.kv_f16);
  Step step = parts_->make_step(interrupt);
  step.trace = nullptr;
  step.check = &check;
  ADAPMOE_RETURN_IF_ERROR(forward(step));
  if (!all_finite(logits)) return FiniteCheck::in_head();
  return non_finite("the model computed NaN or infinity, but not when the step was repeated");
}

// What a finished step leaves behind.
StepStats Session::note(const StepStats& stats, const Step& step) {
  parts_->passes = step.pass;
  const std::lock_guard lock(facts_mutex_);
  std::string fact = parts_->backend->take_note();
  if (!fact.empty()) parts_->notes.push_back(std::move(fact));
  totals_ += stats;
  return stats;
}

}  // namespace adapmoe
