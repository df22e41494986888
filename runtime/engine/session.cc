// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/fp_environment.h"
#include "runtime/base/strings.h"
#include "runtime/engine/session_parts.h"

namespace adapmoe {
namespace {

// Measures one step: wall time, and what the expert cache did meanwhile.
class StepMeter {
 public:
  explicit StepMeter(const ExpertCache& experts) : experts_(experts), before_(experts.stats()) {}

  StepStats finish(int64_t tokens, int64_t activations) const {
    const ResidencyStats after = experts_.stats();
    StepStats s;
    s.tokens = tokens;
    s.experts_used = after.visits - before_.visits;
    s.experts_activated = activations;
    s.expert_hits = after.hits - before_.hits;
    s.bytes_read = after.bytes_read - before_.bytes_read;
    s.stall_s = static_cast<double>(after.stall_ns - before_.stall_ns) * 1e-9;
    s.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    s.compute_s = s.wall_s - s.stall_s;
    return s;
  }

 private:
  const ExpertCache& experts_;
  ResidencyStats before_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

Status closed_error() {
  return invalid_argument("the sequence is closed; make another with new_sequence()");
}

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
  bytes_read += o.bytes_read;
  stall_s += o.stall_s;
  compute_s += o.compute_s;
  wall_s += o.wall_s;
  return *this;
}

Session::Session(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Session::~Session() = default;

Result<std::unique_ptr<Session>> Session::open(const std::string& pack_dir, SessionConfig config,
                                               const Interrupt& interrupt) {
  auto parts = Parts::build(pack_dir, std::move(config), interrupt);
  if (!parts.ok()) return parts.status();
  return std::unique_ptr<Session>(new Session(std::move(parts).value()));
}

Result<Sequence> Session::new_sequence() {
  const std::lock_guard lock(kv_mutex_);
  for (size_t i = 0; i < parts_->kv_in_use.size(); ++i) {
    if (parts_->kv_in_use[i]) continue;
    parts_->kv_in_use[i] = true;
    return Sequence{.kv_index = static_cast<int64_t>(i), .length = 0};
  }
  return invalid_argument(str_cat("all max_sequences=", parts_->config.max_sequences,
                                  " sequences are open; close one or open the model with more"));
}

void Session::close_sequence(Sequence& sequence) {
  const std::lock_guard lock(kv_mutex_);
  if (sequence.kv_index < 0) return;
  parts_->kv_in_use[static_cast<size_t>(sequence.kv_index)] = false;
  sequence = Sequence();
}

Status Session::truncate(Sequence& sequence, int64_t length) {
  const std::lock_guard lock(step_);
  if (sequence.kv_index < 0) return closed_error();
  if (length < 0 || length > sequence.length) {
    return invalid_argument(
        str_cat("cannot truncate to ", length, " tokens: the sequence holds ", sequence.length));
  }
  sequence.length = length;
  return {};
}

Result<Sequence> Session::fork(const Sequence& sequence) {
  const std::lock_guard lock(step_);
  if (sequence.kv_index < 0) return closed_error();
  auto made = new_sequence();
  if (!made.ok()) return made.status();
  Sequence copy = made.value();
  copy.length = sequence.length;
  parts_->kv[static_cast<size_t>(copy.kv_index)].copy_from(
      parts_->kv[static_cast<size_t>(sequence.kv_index)], sequence.length);
  return copy;
}

Result<MemorySplit> Session::set_memory(int64_t memory_bytes) {
  const std::lock_guard lock(step_);
  auto split = split_memory(parts_->needs, memory_bytes);
  if (!split.ok()) return split.status();
  const int64_t growth = split.value().reserved_bytes() - parts_->split.reserved_bytes();
  const int64_t available = available_memory("/proc", "/sys/fs/cgroup");
  if (growth > available) return not_available(growth, available);
  ADAPMOE_RETURN_IF_ERROR(parts_->experts->resize(static_cast<int32_t>(split.value().frames)));
  const std::lock_guard facts_lock(facts_mutex_);
  parts_->split = split.value();
  return parts_->split;
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
  ADAPMOE_RETURN_IF_ERROR(check_ids(ids));
  const std::lock_guard lock(step_);
  if (sequence.kv_index < 0) return closed_error();
  const auto count = static_cast<int64_t>(ids.size());
  if (sequence.length + count > parts_->config.max_context) {
    return overflow_error(sequence.length, count, parts_->config.max_context);
  }
  const size_t vocab = static_cast<size_t>(model().vocab_size);
  ADAPMOE_CHECK(logits.size() == (all_logits ? ids.size() : 1) * vocab);
  const FpEnvironment canonical;
  const StepMeter meter(*parts_->experts);
  const KVCache* kv = &parts_->kv[static_cast<size_t>(sequence.kv_index)];
  const auto chunk = static_cast<size_t>(parts_->config.prefill_chunk);
  int64_t activations = 0;
  for (size_t begin = 0; begin < ids.size(); begin += chunk) {
    const size_t n = std::min(chunk, ids.size() - begin);
    const bool is_last = begin + n == ids.size();
    std::vector<TokenRow> rows;
    std::vector<int32_t> logit_rows;
    for (size_t i = 0; i < n; ++i) {
      rows.push_back({ids[begin + i], sequence.length + static_cast<int64_t>(begin + i), kv});
      if (all_logits || (is_last && i + 1 == n)) logit_rows.push_back(static_cast<int32_t>(i));
    }
    float* out = logits.data() + (all_logits ? begin * vocab : 0);
    ADAPMOE_RETURN_IF_ERROR(
        parts_->decoder->forward(rows, logit_rows, out, interrupt, &activations));
  }
  sequence.length += count;
  const StepStats stats = meter.finish(count, activations);
  const std::lock_guard facts_lock(facts_mutex_);
  totals_ += stats;
  return stats;
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
    if (s.kv_index < 0) return closed_error();
    if (s.length + 1 > parts_->config.max_context) {
      return overflow_error(s.length, 1, parts_->config.max_context);
    }
    if (std::find(sequences.begin(), sequences.begin() + static_cast<std::ptrdiff_t>(i),
                  sequences[i]) != sequences.begin() + static_cast<std::ptrdiff_t>(i)) {
      return invalid_argument("a sequence stands twice in one decode batch");
    }
    rows.push_back({ids[i], s.length, &parts_->kv[static_cast<size_t>(s.kv_index)]});
    logit_rows.push_back(static_cast<int32_t>(i));
  }
  ADAPMOE_CHECK(logits.size() == ids.size() * static_cast<size_t>(model().vocab_size));
  const FpEnvironment canonical;
  const StepMeter meter(*parts_->experts);
  int64_t activations = 0;
  ADAPMOE_RETURN_IF_ERROR(
      parts_->decoder->forward(rows, logit_rows, logits.data(), interrupt, &activations));
  for (Sequence* s : sequences) ++s->length;
  const StepStats stats = meter.finish(static_cast<int64_t>(ids.size()), activations);
  const std::lock_guard facts_lock(facts_mutex_);
  totals_ += stats;
  return stats;
}

MemorySplit Session::memory_split() const {
  const std::lock_guard lock(facts_mutex_);
  return parts_->split;
}
const ModelConfig& Session::model() const { return parts_->pack->config(); }
const SessionConfig& Session::config() const { return parts_->config; }
std::string Session::backend() const { return std::string(parts_->backend->name()); }
const std::vector<std::string>& Session::notes() const { return parts_->notes; }

StepStats Session::totals() const {
  const std::lock_guard lock(facts_mutex_);
  return totals_;
}

}  // namespace adapmoe
