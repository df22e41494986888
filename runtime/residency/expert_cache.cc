// SPDX-License-Identifier: Apache-2.0
#include "runtime/residency/expert_cache.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/strings.h"

namespace adapmoe {
namespace {

constexpr auto kInterruptPeriod = std::chrono::milliseconds(20);

}  // namespace

ExpertHandle::~ExpertHandle() {
  if (cache_ != nullptr) cache_->release(id_);
}

Result<const std::byte*> ExpertHandle::tile(int64_t index, const Interrupt& interrupt) const {
  return cache_->tile(id_, index, interrupt);
}

ExpertCache::ExpertCache(const Pack& pack, FramePool frames, std::unique_ptr<AsyncReader> reader,
                         std::unique_ptr<EvictionPolicy> policy, ExpertCacheConfig config)
    : pack_(pack),
      tiles_(config.tiles > 0 ? config.tiles : pack.experts().tiles),
      frames_(std::move(frames)),
      policy_(std::move(policy)),
      config_(std::move(config)),
      reader_(std::move(reader)) {
  const ModelConfig& c = pack.config();
  const auto experts = static_cast<size_t>(c.num_hidden_layers * c.num_local_experts);
  const size_t tiles = experts * static_cast<size_t>(tiles_);
  entries_.resize(experts);
  resident_of_.assign(static_cast<size_t>(c.num_hidden_layers), 0);
  frame_of_.assign(tiles, kNoFrame);
  states_ = std::make_unique<std::atomic<TileState>[]>(tiles);
  verified_.assign(tiles, false);
  reader_->set_completion([this](uint64_t tag, const Status& status,
                                 std::span<const std::byte> read) { complete(tag, status, read); });
}

ExpertCache::~ExpertCache() = default;

size_t ExpertCache::flat(ExpertId id) const {
  return static_cast<size_t>(id.layer * pack_.config().num_local_experts + id.expert);
}
size_t ExpertCache::flat_tile(ExpertId id, int64_t tile) const {
  return flat(id) * static_cast<size_t>(tiles_) + static_cast<size_t>(tile);
}
ExpertId ExpertCache::id_of(size_t flat) const {
  const auto experts = static_cast<size_t>(pack_.config().num_local_experts);
  return {static_cast<int32_t>(flat / experts), static_cast<int32_t>(flat % experts)};
}

bool ExpertCache::resident(ExpertId id) const {
  const std::lock_guard lock(mutex_);
  return resident_locked(entries_[flat(id)]);
}

bool ExpertCache::placed(ExpertId id) const {
  const std::lock_guard lock(mutex_);
  return entries_[flat(id)].occupied == tiles_;
}

ResidencyView ExpertCache::view(int32_t layer) const {
  const std::lock_guard lock(mutex_);
  ResidencyView view;
  for (int32_t e = 0; e < static_cast<int32_t>(pack_.config().num_local_experts); ++e) {
    view.resident.push_back(resident_locked(entries_[flat({layer, e})]) ? 1 : 0);
  }
  return view;
}

std::vector<uint8_t> ExpertCache::states() const {
  const std::lock_guard lock(mutex_);
  std::vector<uint8_t> states(entries_.size());
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].loading > 0) states[i] = kExpertLoading;
    if (resident_locked(entries_[i])) states[i] = kExpertResident;
  }
  return states;
}

bool ExpertCache::resident_locked(const Entry& entry) const {
  return entry.occupied == tiles_ && entry.loading == 0 && entry.error.ok();
}

Result<std::optional<ExpertHandle>> ExpertCache::acquire(ExpertId id, const Interrupt& interrupt) {
  std::unique_lock lock(mutex_);
  Entry& entry = entries_[flat(id)];
  // A failure that an earlier hold was told is not told again: its last reads first, then afresh.
  while (entry.holds == 0 && !entry.error.ok()) {
    ADAPMOE_RETURN_IF_ERROR(wait_locked(lock, interrupt));
  }
  const bool hit = resident_locked(entry);
  if (entry.occupied < tiles_) {
    auto room = make_room_locked(id, lock, interrupt);
    if (!room.ok()) return room.status();
    if (!room.value()) return std::optional<ExpertHandle>();
    start_reads_locked(id, ReadPriority::kDemand, tiles_);
  }
  if (entry.hinted) {
    promote_reads_locked(id);
    ++stats_.prefetch_used;
    entry.hinted = false;
  }
  ++stats_.visits;
  stats_.hits += hit ? 1 : 0;
  ++entry.holds;
  ++entry.uses;
  entry.rate.use(pass_);
  entry.last_use = ++clock_;
  return std::optional<ExpertHandle>(ExpertHandle(this, id));
}

void ExpertCache::set_layer_floors(std::vector<int64_t> floors) {
  const std::lock_guard lock(mutex_);
  config_.layer_floors = std::move(floors);
}

void ExpertCache::begin_pass() {
  const std::lock_guard lock(mutex_);
  pass_start_ = clock_;
  ++pass_;
}

bool ExpertCache::hint(ExpertId id, int32_t layer, int64_t most) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[flat(id)];
  const auto first = frame_of_.begin() + static_cast<std::ptrdiff_t>(flat_tile(id, 0));
  const int64_t missing = std::count(first, first + static_cast<std::ptrdiff_t>(most), kNoFrame);
  if (missing == 0 || entry.loading > 0 || !entry.error.ok()) return false;
  const int64_t layers = pack_.config().num_hidden_layers;
  while (missing > frames_.free_frames()) {
    Reach reach = reach_locked(flat(id));
    std::erase_if(reach.candidates, [&](const EvictionCandidate& c) {
      return layers_until(c.id.layer, layer, layers) <= layers_until(id.layer, layer, layers);
    });
    if (reach.candidates.empty()) return false;
    evict_one_locked(reach, layer, missing - frames_.free_frames());
  }
  start_reads_locked(id, ReadPriority::kPrefetch, most);
  entry.hinted = true;
  ++stats_.prefetched;
  return true;
}

std::vector<ExpertId> ExpertCache::resident_set() const {
  const std::lock_guard lock(mutex_);
  std::vector<ExpertId> ids;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.occupied == tiles_ && entry.loading == 0 && entry.error.ok()) ids.push_back(id_of(i));
  }
  return ids;
}

bool ExpertCache::warm(ExpertId id) {
  const std::lock_guard lock(mutex_);
  const Entry& entry = entries_[flat(id)];
  if (tiles_ - entry.occupied > frames_.free_frames()) return false;
  if (entry.error.ok()) start_reads_locked(id, ReadPriority::kPrefetch, tiles_);
  return true;
}

void ExpertCache::cancel_hints(int32_t layer, std::span<const int32_t> except) {
  const std::lock_guard lock(mutex_);
  for (int32_t e = 0; e < static_cast<int32_t>(pack_.config().num_local_experts); ++e) {
    const ExpertId id{layer, e};
    Entry& entry = entries_[flat(id)];
    if (!entry.hinted || entry.loading == 0) continue;
    if (std::find(except.begin(), except.end(), e) != except.end()) continue;
    for (int64_t t = 0; t < tiles_; ++t) {
      const size_t at = flat_tile(id, t);
      if (states_[at].load(std::memory_order_relaxed) != TileState::kLoading) continue;
      if (!reader_->cancel(at)) continue;
      --entry.loading;
      free_tile_locked(at, entry);
    }
    if (entry.occupied == 0) {
      entry.hinted = false;
      ++stats_.prefetch_wasted;
    }
  }
}

void ExpertCache::start_reads_locked(ExpertId id, ReadPriority priority, int64_t most) {
  Entry& entry = entries_[flat(id)];
  entry.loaded_at = clock_;
  if (entry.occupied == 0) ++resident_of_[static_cast<size_t>(id.layer)];
  for (int64_t t = 0; t < most; ++t) {
    const size_t at = flat_tile(id, t);
    if (frame_of_[at] != kNoFrame) continue;
    frame_of_[at] = frames_.take();
    ++placement_;
    states_[at].store(TileState::kLoading, std::memory_order_relaxed);
    ++entry.occupied;
    ++entry.loading;
    reader_->submit(
        {.offset = pack_.tile_offset(id, t),
         .into = {frames_.data(frame_of_[at]), static_cast<size_t>(frames_.frame_bytes())},
         .priority = priority,
         .tag = at});
  }
}

// Reads ahead that turned out to be needed now.
void ExpertCache::promote_reads_locked(ExpertId id) {
  for (int64_t t = 0; t < tiles_; ++t) {
    const size_t at = flat_tile(id, t);
    if (states_[at].load(std::memory_order_relaxed) == TileState::kLoading) reader_->promote(at);
  }
}

void ExpertCache::complete(uint64_t tag, const Status& read, std::span<const std::byte> bytes) {
  const auto tiles = static_cast<size_t>(tiles_);
  const ExpertId id = id_of(tag / tiles);
  const auto tile = static_cast<int64_t>(tag % tiles);
  std::byte* frame = nullptr;
  bool verify = config_.verify == VerifyTiles::kAlways;
  {
    const std::lock_guard lock(mutex_);
    frame = frames_.data(frame_of_[tag]);
    verify = verify || (config_.verify == VerifyTiles::kFirst && !verified_[tag]);
  }
  Status status = read.ok() && verify ? pack_.check_tile(id, tile, bytes) : read;
  if (status.ok() && config_.land) status = config_.land(bytes, frame);
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_[flat(id)];
    --entry.loading;
    const int64_t read_bytes =
        config_.tile_read_bytes > 0 ? config_.tile_read_bytes : frames_.frame_bytes();
    stats_.bytes_read += read.ok() ? read_bytes : 0;
    if (status.ok()) {
      verified_[tag] = true;
      ++ready_;
      states_[tag].store(TileState::kReady, std::memory_order_release);
    } else {
      entry.error = std::move(status);
      stats_.prefetch_failed += entry.hinted ? 1 : 0;
      entry.hinted = false;
      states_[tag].store(TileState::kFailed, std::memory_order_release);
    }
    drop_failed_locked(flat(id));
  }
  changed_.notify_all();
}

Status ExpertCache::wait_locked(std::unique_lock<std::mutex>& lock, const Interrupt& interrupt) {
  const SpanTimer span(config_.timeline, Lane::kStall, "stall");
  const auto start = std::chrono::steady_clock::now();
  const auto outcome = changed_.wait_for(lock, kInterruptPeriod);
  stats_.stall_ns += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
  if (outcome == std::cv_status::timeout) {
    lock.unlock();  // the callback may take other locks
    const bool stop = interrupt && interrupt();
    lock.lock();
    if (stop) return cancelled("interrupted while waiting for an expert");
  }
  return {};
}

Result<const std::byte*> ExpertCache::tile(ExpertId id, int64_t index, const Interrupt& interrupt) {
  const size_t at = flat_tile(id, index);
  if (states_[at].load(std::memory_order_acquire) != TileState::kReady) {
    std::unique_lock lock(mutex_);
    while (states_[at].load(std::memory_order_relaxed) == TileState::kLoading) {
      ADAPMOE_RETURN_IF_ERROR(wait_locked(lock, interrupt));
    }
    if (states_[at].load(std::memory_order_relaxed) != TileState::kReady) {
      return entries_[flat(id)].error;
    }
  }
  // The frame cannot change while the caller holds the expert.
  return static_cast<const std::byte*>(frames_.data(frame_of_[at]));
}

void ExpertCache::release(ExpertId id) {
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[flat(id)];
  ADAPMOE_CHECK(entry.holds > 0);
  --entry.holds;
  drop_failed_locked(flat(id));
}

ResidencyStats ExpertCache::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace adapmoe
