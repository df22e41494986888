// SPDX-License-Identifier: Apache-2.0
// Owns the tile frames and their states, and decides by policy who gives way. Knows nothing about
// arithmetic, and never looks into a frame.
//
// A tile is empty -> loading -> ready, or -> failed and empty again once its expert is released and
// no other tile of it is being read. An expert may be partly resident. Eviction takes tiles, last
// tiles first, of experts that nobody holds and that have no read under way.
//
// Thread-safe: one thread acquires, hints and waits (the step), reader threads complete.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "runtime/base/interrupt.h"
#include "runtime/io/async_reader.h"
#include "runtime/memory/frame_pool.h"
#include "runtime/residency/every_expert.h"
#include "runtime/residency/eviction_policy.h"
#include "runtime/residency/expert_handle.h"
#include "runtime/residency/residency_view.h"
#include "runtime/store/pack.h"

namespace adapmoe {

// When the CRC32C of a tile is checked: every time it is read, the first time, or not at all.
enum class VerifyTiles : uint8_t { kAlways, kFirst, kNever };

struct ExpertCacheConfig {
  VerifyTiles verify = VerifyTiles::kAlways;
  bool evict_tiles = true;                 // only as many tiles as needed; false: whole experts
  std::vector<int64_t> layer_floors = {};  // experts each layer should keep (soft); empty: none
  Timeline* timeline = nullptr;            // records stalls; may be null
  // Moves a tile that was read elsewhere, and checked there, to its frame, and returns when it has
  // landed. On reader threads. Empty: tiles are read into their frames.
  std::function<Status(std::span<const std::byte> read, std::byte* frame)> land = {};
  // Where the reader brings other records than the pack's, and checks them itself.
  int64_t tiles = 0;            // per expert; 0: the pack's
  int64_t tile_read_bytes = 0;  // that a tile's read takes; 0: those of a frame
};

// Counted since the cache was made.
struct ResidencyStats {
  int64_t visits = 0;  // acquires
  int64_t hits = 0;    // of experts with every tile ready
  int64_t bytes_read = 0;
  int64_t stall_ns = 0;  // the step waiting for tiles or frames
  // Prefetched experts: started, used by an acquire, evicted or cancelled unused, failed.
  int64_t prefetched = 0;
  int64_t prefetch_used = 0;
  int64_t prefetch_wasted = 0;
  int64_t prefetch_failed = 0;
};

class ExpertCache {
 public:
  // The pack outlives the cache.
  ExpertCache(const Pack& pack, FramePool frames, std::unique_ptr<AsyncReader> reader,
              std::unique_ptr<EvictionPolicy> policy, ExpertCacheConfig config);
  ~ExpertCache();
  ExpertCache(const ExpertCache&) = delete;
  ExpertCache& operator=(const ExpertCache&) = delete;

  bool resident(ExpertId id) const;
  // Resident or being read: acquiring it takes no frame, unless a read fails.
  bool placed(ExpertId id) const;
  // Every tile has a frame: ready, or being read.
  bool nothing_missing() const {
    const std::lock_guard lock(mutex_);
    return static_cast<size_t>(frames_.in_use() - frames_.free_frames()) == frame_of_.size();
  }
  ResidencyView view(int32_t layer) const;
  // kExpertResident or kExpertLoading of every expert, layer by layer.
  std::vector<uint8_t> states() const;
  int64_t tiles() const { return tiles_; }  // per expert
  // Experts each layer should keep (soft), one per layer; empty: none.
  void set_layer_floors(std::vector<int64_t> floors);
  // Tells the policy that a new pass over the layers begins.
  void begin_pass();
  // Holds `id` and starts demand reads of its missing tiles, ascending, evicting as the policy
  // says. Empty when the frames that nobody holds do not suffice: release a handle first. Waits
  // only for reads that nobody holds any more.
  Result<std::optional<ExpertHandle>> acquire(ExpertId id, const Interrupt& interrupt);

  // Holds every expert, without counting a visit; empty unless every tile is ready.
  std::optional<EveryExpert> hold_every();

  // Starts prefetch reads of the first `most` tiles of `id` while `layer` is being computed; evicts
  // only experts whose layer comes up later than that of `id`. False when they are there, on their
  // way, or there is no such room.
  bool hint(ExpertId id, int32_t layer, int64_t most);
  // Takes back the hints for `layer` that have not begun, except for the given experts.
  void cancel_hints(int32_t layer, std::span<const int32_t> except);

  // Experts with every tile ready, or with those that they keep longest.
  std::vector<ExpertId> resident_set() const;
  // Reads `id` in the background if frames are free; never evicts. False when they are not.
  bool warm(ExpertId id);

  // Lets at most `frames` frames be used: evicts by policy, or brings parked frames back.
  // REQUIRES: nothing is held; frames suffice for one expert.
  Status resize(int32_t frames, const Interrupt& interrupt);

  ResidencyStats stats() const;
  Registration registration() const { return reader_->registration(); }

 private:
  friend class ExpertHandle;  // release() and tile() are its two ends
  friend class EveryExpert;   // release_every() is its end
  enum class TileState : uint8_t { kEmpty, kLoading, kReady, kFailed };

  struct Entry {
    int32_t holds = 0;
    int32_t loading = 0;   // tiles
    int32_t occupied = 0;  // tiles with a frame
    bool hinted = false;   // read ahead and not used yet
    uint64_t last_use = 0;
    uint64_t loaded_at = 0;
    uint64_t uses = 0;
    UseRate rate;
    Status error;  // of the latest failed tile
  };

  // What eviction could free now or once the reads that nobody waits for have completed.
  struct Reach {
    int64_t frames = 0;
    std::vector<EvictionCandidate> candidates;
  };

  size_t flat(ExpertId id) const;
  size_t flat_tile(ExpertId id, int64_t tile) const;
  ExpertId id_of(size_t flat) const;

  bool resident_locked(const Entry& entry) const;
  Result<bool> make_room_locked(ExpertId id, std::unique_lock<std::mutex>& lock,
                                const Interrupt& interrupt);
  Reach reach_locked(size_t except) const;
  void evict_one_locked(const Reach& reach, int32_t layer, int64_t frames);
  Status give_way_locked(const Reach& reach, int32_t layer, int64_t frames,
                         std::unique_lock<std::mutex>& lock, const Interrupt& interrupt);
  void start_reads_locked(ExpertId id, ReadPriority priority, int64_t most);
  void promote_reads_locked(ExpertId id);
  void free_tile_locked(size_t at, Entry& entry);
  void evict_locked(size_t victim, int64_t tiles);
  void drop_failed_locked(size_t at);
  void complete(uint64_t tag, const Status& read, std::span<const std::byte> bytes);
  Status wait_locked(std::unique_lock<std::mutex>& lock, const Interrupt& interrupt);
  void release(ExpertId id);
  void release_every();
  Result<const std::byte*> tile(ExpertId id, int64_t index, const Interrupt& interrupt);

  const Pack& pack_;
  const int64_t tiles_;  // per expert
  FramePool frames_;
  std::unique_ptr<EvictionPolicy> policy_;
  ExpertCacheConfig config_;  // layer_floors change under the mutex, nothing else

  mutable std::mutex mutex_;
  std::condition_variable changed_;                   // a read completed
  std::vector<Entry> entries_;                        // [layers * experts]
  std::vector<int64_t> resident_of_;                  // [layers] experts with any frame
  std::vector<FrameIndex> frame_of_;                  // [layers * experts * tiles]
  std::unique_ptr<std::atomic<TileState>[]> states_;  // the same; ready is read without the mutex
  std::vector<bool> verified_;                        // the same; for VerifyTiles::kFirst
  size_t ready_ = 0;                                  // tiles
  int32_t holds_of_all_ = 0;                          // EveryExpert that live
  uint64_t placement_ = 0;                            // grows whenever a tile gets or loses a frame
  uint64_t addresses_of_ = 0;                         // the placement of addresses_
  std::vector<const std::byte*> addresses_;           // [layers * experts * tiles]
  uint64_t clock_ = 0;                                // acquires so far
  uint64_t pass_start_ = 0;
  uint64_t pass_ = 1;  // its number; only grows
  ResidencyStats stats_;
  std::unique_ptr<AsyncReader>
      reader_;  // last member: destroyed first, so no completion comes late
};

}  // namespace adapmoe
