// SPDX-License-Identifier: Apache-2.0
#include "runtime/engine/session.h"

#include <chrono>
#include <utility>

#include "runtime/base/strings.h"
#include "runtime/engine/session_parts.h"
#include "runtime/memory/available_memory.h"

namespace adapmoe {
namespace {

constexpr auto kAskAgain = std::chrono::milliseconds(5);  // whether a step runs that could shrink

}  // namespace

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

namespace {

Status check_prefix(const Sequence& sequence, int64_t length) {
  if (length >= 0 && length <= sequence.length) return {};
  return invalid_argument(
      str_cat("cannot keep ", length, " tokens: the sequence holds ", sequence.length));
}

}  // namespace

Status Session::truncate(Sequence& sequence, int64_t length) {
  const std::lock_guard lock(step_);
  ADAPMOE_RETURN_IF_ERROR(check_open(sequence));
  ADAPMOE_RETURN_IF_ERROR(check_prefix(sequence, length));
  sequence.length = length;
  return {};
}

Result<Sequence> Session::fork(const Sequence& sequence, std::optional<int64_t> length) {
  const std::lock_guard lock(step_);
  ADAPMOE_RETURN_IF_ERROR(check_open(sequence));
  const int64_t copied_length = length.value_or(sequence.length);
  ADAPMOE_RETURN_IF_ERROR(check_prefix(sequence, copied_length));
  auto made = new_sequence();
  if (!made.ok()) return made.status();
  Sequence copy = made.value();
  copy.length = copied_length;
  parts_->kv[static_cast<size_t>(copy.kv_index)].copy_from(
      parts_->kv[static_cast<size_t>(sequence.kv_index)], copied_length, *parts_->backend);
  const Status copied = parts_->backend->wait();
  if (copied.ok()) return copy;
  close_sequence(copy);
  return copied;
}

Result<MemorySplit> Session::set_memory(int64_t memory_bytes) {
  const auto split = split_memory(parts_->needs, memory_bytes);
  if (!split.ok()) return split.status();
  if (split.value().frames < memory_split().frames) return shrink(split.value());
  const std::lock_guard lock(step_);
  const int64_t wanted = split.value().reserved_bytes();
  if (pins_memory()) {  // what it may use, it has
    if (split.value().frames > parts_->frames_mapped) {
      return unavailable(str_cat("set_memory: ", backend(),
                                 " has reserved its memory and cannot use more than when the model "
                                 "was opened; open it again with a larger memory="));
    }
  } else if (wanted > parts_->split.reserved_bytes()) {
    const int64_t most = available_memory("") + parts_->held_bytes();
    if (wanted > most) return not_available(wanted, most);
  }
  ADAPMOE_RETURN_IF_ERROR(resize(split.value(), Interrupt()));
  return memory_split();
}

// A step that runs does it between two of its layers, else this thread.
Result<MemorySplit> Session::shrink(const MemorySplit& split) {
  std::unique_lock facts(facts_mutex_);
  asked_ = split;
  while (asked_) {
    if (const std::unique_lock step(step_, std::try_to_lock); step) {
      facts.unlock();
      ADAPMOE_RETURN_IF_ERROR(shrink_if_asked(Interrupt()));
      facts.lock();
    } else {
      settled_.wait_for(facts, kAskAgain);
    }
  }
  return parts_->split;
}

Status Session::shrink_if_asked(const Interrupt& interrupt) {
  std::unique_lock facts(facts_mutex_);
  if (!asked_) return {};
  const MemorySplit split = *asked_;
  facts.unlock();
  ADAPMOE_RETURN_IF_ERROR(resize(split, interrupt));
  facts.lock();
  if (asked_->memory_bytes == split.memory_bytes) asked_.reset();  // else somebody wants less still
  settled_.notify_all();
  return {};
}

Status Session::resize(MemorySplit split, const Interrupt& interrupt) {
  ADAPMOE_RETURN_IF_ERROR(parts_->experts->resize(static_cast<int32_t>(split.frames), interrupt));
  const std::lock_guard facts(facts_mutex_);
  split.host_bytes = parts_->split.host_bytes;
  parts_->split = split;
  return {};
}

Status Session::set_gating(GatingConfig gating) {
  ADAPMOE_RETURN_IF_ERROR(check_gating(gating, model()));
  const std::lock_guard lock(step_);
  parts_->config.gating = std::move(gating);
  return {};
}

std::vector<ExpertId> Session::resident_set() {
  const std::lock_guard lock(step_);
  return parts_->experts->resident_set();
}

int64_t Session::warm(std::span<const ExpertId> ids) {
  const std::lock_guard lock(step_);
  int64_t begun = 0;
  for (const ExpertId id : ids) {
    const bool exists = id.layer >= 0 && id.layer < model().num_hidden_layers && id.expert >= 0 &&
                        id.expert < model().num_local_experts;
    if (exists && parts_->experts->warm(id)) ++begun;
  }
  return begun;
}

std::vector<Span> Session::timeline() const {
  return parts_->timeline == nullptr ? std::vector<Span>() : parts_->timeline->spans();
}

Status Session::set_layer_floors(std::vector<int64_t> floors) {
  ADAPMOE_RETURN_IF_ERROR(check_floors(floors, model()));
  const std::lock_guard lock(step_);
  parts_->experts->set_layer_floors(std::move(floors));
  return {};
}

void Session::record_trace(bool on) {
  const std::lock_guard lock(step_);
  parts_->tracing = on;
  parts_->trace.clear();
}

std::vector<TraceVisit> Session::trace() {
  const std::lock_guard lock(step_);
  return parts_->trace;
}

std::vector<PredictionScore> Session::prediction_scores() {
  const std::lock_guard lock(step_);
  return parts_->prefetcher == nullptr ? std::vector<PredictionScore>()
                                       : parts_->prefetcher->scores();
}

MemorySplit Session::memory_split() const {
  const std::lock_guard lock(facts_mutex_);
  return parts_->split;
}
bool Session::pins_memory() const { return parts_->backend->pins_memory(); }
const ModelConfig& Session::model() const { return parts_->pack->config(); }
const SessionConfig& Session::config() const { return parts_->config; }
std::string Session::backend() const { return std::string(parts_->backend->name()); }
std::string Session::reader() const { return parts_->reader; }
Registration Session::registration() const { return parts_->experts->registration(); }

std::vector<std::string> Session::notes() const {
  const std::lock_guard lock(facts_mutex_);
  return parts_->notes;
}

std::vector<uint8_t> Session::expert_states() const {
  std::vector<uint8_t> states = parts_->experts->states();
  for (size_t i = 0; i < states.size(); ++i) {
    const uint8_t routed = parts_->latest->at(i);
    if ((routed & LatestRouting::kUsed) != 0) states[i] |= kExpertUsed;
    if ((routed & LatestRouting::kLeftOut) != 0) states[i] |= kExpertLeftOut;
  }
  return states;
}

uint64_t Session::progress() const { return parts_->progress; }

StepStats Session::totals() const {
  const std::lock_guard lock(facts_mutex_);
  return totals_;
}

}  // namespace adapmoe
