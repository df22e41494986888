// SPDX-License-Identifier: Apache-2.0
// How ExpertCache makes room: whose tiles go, how many of them, and in which order.
#include <utility>

#include "runtime/base/check.h"
#include "runtime/residency/expert_cache.h"

namespace adapmoe {

// Evicts until the missing tiles of `id` have frames; false when that needs experts that somebody
// holds.
Result<bool> ExpertCache::make_room_locked(ExpertId id, std::unique_lock<std::mutex>& lock,
                                           const Interrupt& interrupt) {
  const int64_t missing = tiles_ - entries_[flat(id)].occupied;
  while (missing > frames_.free_frames()) {
    const Reach reach = reach_locked(flat(id));
    const int64_t wanted = missing - frames_.free_frames();
    if (wanted > reach.frames) return false;
    ADAPMOE_RETURN_IF_ERROR(give_way_locked(reach, id.layer, wanted, lock, interrupt));
  }
  return true;
}

ExpertCache::Reach ExpertCache::reach_locked(size_t except) const {
  Reach reach;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.holds > 0 || entry.occupied == 0 || i == except) continue;
    reach.frames += entry.occupied;
    if (entry.loading > 0) continue;
    reach.candidates.push_back({id_of(i), entry.last_use, entry.loaded_at, entry.uses, entry.rate});
  }
  return reach;
}

void ExpertCache::evict_one_locked(const Reach& reach, int32_t layer, int64_t frames) {
  const EvictionContext context{layer, clock_, pass_start_, pass_};
  const EvictionCandidate& victim = reach.candidates[choose_victim(
      *policy_, reach.candidates, context, config_.layer_floors, resident_of_)];
  evict_locked(flat(victim.id), config_.evict_tiles ? frames : tiles_);
}

// Evicts the policy's choice, or waits for a read that nobody waits for any more.
Status ExpertCache::give_way_locked(const Reach& reach, int32_t layer, int64_t frames,
                                    std::unique_lock<std::mutex>& lock,
                                    const Interrupt& interrupt) {
  ADAPMOE_CHECK(reach.frames > 0);
  if (reach.candidates.empty()) return wait_locked(lock, interrupt);
  evict_one_locked(reach, layer, frames);
  return {};
}

Status ExpertCache::resize(int32_t frames, const Interrupt& interrupt) {
  std::unique_lock lock(mutex_);
  const auto last_layer = static_cast<int32_t>(pack_.config().num_hidden_layers - 1);
  const auto forget = [this](std::span<std::byte> frame) { reader_->forget(frame); };
  frames_.shrink(frames, forget);
  while (frames_.in_use() > frames) {
    const Reach reach = reach_locked(entries_.size());
    ADAPMOE_RETURN_IF_ERROR(
        give_way_locked(reach, last_layer, frames_.in_use() - frames, lock, interrupt));
    frames_.shrink(frames, forget);
  }
  frames_.grow(frames);
  return {};
}

void ExpertCache::free_tile_locked(size_t at, Entry& entry) {
  ADAPMOE_CHECK(holds_of_all_ == 0);
  ready_ -= states_[at].load(std::memory_order_relaxed) == TileState::kReady ? 1 : 0;
  frames_.give_back(std::exchange(frame_of_[at], kNoFrame));
  ++placement_;
  states_[at].store(TileState::kEmpty, std::memory_order_relaxed);
  const ExpertId id = id_of(at / static_cast<size_t>(tiles_));
  if (--entry.occupied == 0) --resident_of_[static_cast<size_t>(id.layer)];
}

// Frees up to `tiles` tiles, the last ones first: the first ones let a later use begin at once.
void ExpertCache::evict_locked(size_t victim, int64_t tiles) {
  Entry& entry = entries_[victim];
  ADAPMOE_CHECK(entry.holds == 0 && entry.loading == 0);
  for (int64_t t = tiles_; t-- > 0 && tiles > 0;) {
    const size_t at = victim * static_cast<size_t>(tiles_) + static_cast<size_t>(t);
    if (frame_of_[at] == kNoFrame) continue;
    free_tile_locked(at, entry);
    --tiles;
  }
  entry.error = Status();
  stats_.prefetch_wasted += entry.hinted ? 1 : 0;
  entry.hinted = false;
}

// Once nobody holds it and nothing reads into it, so that the next acquire reads it again.
void ExpertCache::drop_failed_locked(size_t at) {
  const Entry& entry = entries_[at];
  if (entry.holds == 0 && entry.loading == 0 && !entry.error.ok()) evict_locked(at, tiles_);
}

}  // namespace adapmoe
