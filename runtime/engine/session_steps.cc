// SPDX-License-Identifier: Apache-2.0
// One step: from sequences and token ids to token rows in passes over the layers, and what it did.
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

  // But for what each item has of its own; see of_item().
  StepStats finish(const Step& step) const {
    const ResidencyStats after = experts_.stats();
    const BackendCounts device = backend_.counts();
    StepStats s;
    s.experts_used = after.visits - before_.visits;
    s.expert_hits = after.hits - before_.hits;
    s.experts_on_cpu = step.on_cpu + device.on_cpu - counts_before_.on_cpu;
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

StepStats of_item(StepStats stats, int64_t tokens, const RoutingCounts& counts) {
  stats.tokens = tokens;
  stats.experts_activated = counts.activated;
  stats.gated = counts.dropped;
  stats.dropped_share_sq = counts.dropped_share_sq;
  return stats;
}

// The token rows of several items, one item after the other, and what each row belongs to.
struct StepRows {
  std::vector<TokenRow> rows;
  std::vector<int32_t> item;
  std::vector<bool> wants_logits;

  void add(const StepItem& item_of, int32_t index, const KVCache& kv) {
    const int64_t first_wanted = std::ssize(item_of.ids) - item_of.logit_rows();
    for (int64_t i = 0; i < std::ssize(item_of.ids); ++i) {
      rows.push_back({item_of.ids[static_cast<size_t>(i)], item_of.sequence->length + i, &kv});
      item.push_back(index);
      wants_logits.push_back(i >= first_wanted);
    }
  }

  // Which of the `count` rows from `begin` on want logits, counted from `begin`.
  std::vector<int32_t> logit_rows(size_t begin, size_t count) const {
    std::vector<int32_t> wanted;
    for (size_t i = 0; i < count; ++i) {
      if (wants_logits[begin + i]) wanted.push_back(static_cast<int32_t>(i));
    }
    return wanted;
  }
};

// Many more steps like it will follow: each item brings the token that was sampled for it.
bool is_decode(std::span<const StepItem> items) {
  return std::all_of(items.begin(), items.end(), [](const StepItem& item) {
    return item.ids.size() == 1 && item.logits != LogitsOf::kNone;
  });
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

Status Session::check_items(std::span<const StepItem> items) const {
  if (items.empty()) return invalid_argument("a step needs at least one sequence");
  std::vector<const Sequence*> sequences;
  for (const auto& [sequence, ids, logits] : items) {
    ADAPMOE_RETURN_IF_ERROR(check_open(*sequence));
    if (ids.empty()) return invalid_argument("no token ids given; at least one is needed");
    for (const int32_t id : ids) {
      if (id < 0 || id >= model().vocab_size) {
        return invalid_argument(
            str_cat("token id ", id, " is outside the vocabulary of ", model().vocab_size));
      }
    }
    if (sequence->length + std::ssize(ids) > parts_->config.max_context) {
      return context_overflow(str_cat("the sequence holds ", sequence->length, " tokens and ",
                                      ids.size(),
                                      " more exceed max_context=", parts_->config.max_context,
                                      "; shorten the prompt or open with a larger max_context"));
    }
    sequences.push_back(sequence);
  }
  std::sort(sequences.begin(), sequences.end());
  if (std::adjacent_find(sequences.begin(), sequences.end()) != sequences.end()) {
    return invalid_argument("a sequence stands twice in one step");
  }
  return {};
}

Result<std::vector<StepStats>> Session::step(std::span<const StepItem> items,
                                             std::span<float> logits, const Interrupt& interrupt) {
  const std::lock_guard lock(step_);
  return run(items, logits, nullptr, interrupt);
}

Result<StepStats> Session::capture(Sequence& sequence, std::span<const int32_t> ids,
                                   std::span<float> logits, Capture* into,
                                   const Interrupt& interrupt) {
  if (std::ssize(ids) > parts_->config.prefill_chunk) {
    return invalid_argument(str_cat(
        "capture takes at most prefill_chunk=", parts_->config.prefill_chunk, " tokens at once"));
  }
  const StepItem item{&sequence, ids, LogitsOf::kAll};
  const std::lock_guard lock(step_);
  auto stats = run(std::span(&item, 1), logits, into, interrupt);
  if (!stats.ok()) return stats.status();
  return stats.value()[0];
}

Result<std::vector<StepStats>> Session::run(std::span<const StepItem> items,
                                            std::span<float> logits, Capture* capture,
                                            const Interrupt& interrupt) {
  ADAPMOE_RETURN_IF_ERROR(check_items(items));
  StepRows all;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto kv = static_cast<size_t>(items[i].sequence->kv_index);
    all.add(items[i], static_cast<int32_t>(i), parts_->kv[kv]);
  }
  const auto vocab = static_cast<size_t>(model().vocab_size);
  const size_t count = all.rows.size();
  ADAPMOE_CHECK(logits.size() == all.logit_rows(0, count).size() * vocab);
  const FpEnvironment canonical;
  const StepMeter meter(*parts_->experts, *parts_->backend);
  const auto most = static_cast<size_t>(parts_->work.hidden.rows);
  const auto forward = [&](Step& step) -> Status {
    step.counts.assign(items.size(), {});
    float* out = logits.data();
    for (size_t begin = 0; begin < count; begin += most) {
      const size_t n = std::min(most, count - begin);
      const std::vector<int32_t> logit_rows = all.logit_rows(begin, n);
      step.item_of_row = std::span(all.item).subspan(begin, n);
      step.rows_after = static_cast<int64_t>(std::min(most, count - begin - n));
      ADAPMOE_RETURN_IF_ERROR(
          parts_->decoder->forward(std::span(all.rows).subspan(begin, n), logit_rows, out, step));
      out += logit_rows.size() * vocab;
    }
    return {};
  };
  Step step = parts_->make_step(interrupt);
  step.capture = capture;
  step.between_layers = [&] { return shrink_if_asked(interrupt); };
  step.recurs = is_decode(items);
  ADAPMOE_RETURN_IF_ERROR(forward(step));
  if (!all_finite(logits)) return why_not_finite(forward, logits, interrupt);
  if (step.recurs) parts_->read_the_rest();
  for (const StepItem& item : items) item.sequence->length += std::ssize(item.ids);

  StepStats whole = meter.finish(step);
  std::vector<StepStats> of_items;
  RoutingCounts counts;
  for (size_t i = 0; i < items.size(); ++i) {
    of_items.push_back(of_item(whole, std::ssize(items[i].ids), step.counts[i]));
    counts += step.counts[i];
  }
  whole = of_item(whole, static_cast<int64_t>(count), counts);
  if (step.recurs && parts_->prefetcher != nullptr) {
    parts_->prefetcher->end_decode(whole.wall_s, whole.tokens);
  }
  note(whole, step);
  return of_items;
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
void Session::note(const StepStats& stats, const Step& step) {
  parts_->passes = step.pass;
  const std::lock_guard lock(facts_mutex_);
  std::string fact = parts_->backend->take_note();
  if (!fact.empty()) parts_->notes.push_back(std::move(fact));
  totals_ += stats;
}

}  // namespace adapmoe
