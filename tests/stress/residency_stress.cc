// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "runtime/io/staged_reader.h"
#include "runtime/memory/arena.h"
#include "runtime/residency/expert_stream.h"
#include "tests/stress/faulty_reader.h"
#include "tests/stress/stress.h"

namespace adapmoe::stress {
namespace {

template <typename T>
T value_or_stop(Result<T> result, const Round& round) {
  round.expect(result.ok(), result.status().message());
  return std::move(result).value();
}

class ResidencyRound {
 public:
  ResidencyRound(const Pack& pack, const std::vector<std::byte>& truth, Round& round)
      : pack_(pack),
        truth_(truth),
        round_(round),
        random_(round.random()),
        tiles_(static_cast<int32_t>(pack.experts().tiles)),
        layers_(static_cast<int32_t>(pack.config().num_hidden_layers)),
        experts_(static_cast<int32_t>(pack.config().num_local_experts)),
        total_frames_(layers_ * experts_ * tiles_),
        arena_(value_or_stop(
            Arena::reserve((total_frames_ + kMostPlaces) * pack.experts().tile_bytes), round)) {
    const bool verify = random_.chance(0.7);  // damage is found only where it is looked for
    if (random_.chance(0.8)) {
      faults_ = {.slow = 0.005, .fail = 0.01, .damage = verify ? 0.01 : 0.0};
      cancel_ = 0.5;
    }
    const int64_t bytes = pack.experts().tile_bytes;
    const std::span<std::byte> region = arena_.carve(total_frames_ * bytes);
    const ReaderOptions options{.depth = random_.between(1, 4),
                                .request_bytes = random_.chance(0.5) ? kPageBytes : 0,
                                .frames = {region, bytes},
                                .register_frames = random_.chance(0.3)};
    auto reader =
        std::make_unique<FaultyReader>(pack.expert_file(), random_.chance(0.5) ? "auto" : "pread",
                                       options, faults_, random_.seed());
    reader_ = reader.get();
    frames_ = random_frames();
    auto policy = make_eviction_policy(random_.chance(0.5) ? "farthest-layer" : "lru", layers_);
    ExpertCacheConfig config{.verify = verify ? VerifyTiles::kAlways : VerifyTiles::kFirst,
                             .evict_tiles = random_.chance(0.7)};
    std::unique_ptr<AsyncReader> reads = std::move(reader);
    if (random_.chance(0.4)) reads = staged(std::move(reads), config);
    cache_ =
        std::make_unique<ExpertCache>(pack, FramePool(region, bytes, frames_), std::move(reads),
                                      value_or_stop(std::move(policy), round), std::move(config));
    interrupt_ = [this] { return cancelling_ = random_.chance(cancel_); };
  }

  void run() {
    const std::jthread watcher([this](const std::stop_token& stop) { watch(stop); });
    const int steps = random_.between(1, 25);
    for (int step = 0; step < steps; ++step) {
      for (int32_t layer = 0; layer < layers_; ++layer) {
        const std::vector<int32_t> experts = random_experts();
        const Status status = compute(layer, experts);
        if (status.ok()) continue;
        check_error(status);
        if (random_.chance(0.2)) recover(layer, experts);
        break;  // the step has failed
      }
      if (random_.chance(0.3)) resize(random_frames());
    }
    finish();
  }

 private:
  static constexpr int64_t kMostPlaces = 4;

  // Through a few places, as tiles go to a GPU with memory of its own.
  std::unique_ptr<AsyncReader> staged(std::unique_ptr<AsyncReader> reads,
                                      ExpertCacheConfig& config) {
    std::vector<std::span<std::byte>> places(random_.between<size_t>(1, kMostPlaces));
    for (auto& place : places) place = arena_.carve(pack_.experts().tile_bytes);
    config.land = [](std::span<const std::byte> read, std::byte* frame) {
      std::memcpy(frame, read.data(), read.size());
      return Status();
    };
    return std::make_unique<StagedReader>(std::move(reads), std::move(places));
  }

  // One expert at least; sometimes the floor, sometimes everything.
  int32_t random_frames() {
    if (random_.chance(0.2)) return tiles_;
    if (random_.chance(0.1)) return total_frames_;
    return random_.between(tiles_, total_frames_);
  }

  std::vector<int32_t> random_experts() {
    std::vector<int32_t> experts;
    const double share = random_.chance(0.2) ? 0.9 : 0.3;
    for (int32_t expert = 0; expert < experts_; ++expert) {
      if (random_.chance(share)) experts.push_back(expert);
    }
    return experts;
  }

  // What MoeLayer does with a layer's experts, comparing tiles instead of multiplying.
  Status compute(int32_t layer, const std::vector<int32_t>& experts) {
    ++round_.counts().layers;
    // Room for a second user of the cache, if the floor is kept for the stream.
    std::optional<ExpertHandle> other;
    if (frames_ >= 2 * tiles_ && random_.chance(0.1)) {
      auto held = acquire({random_.between(0, layers_ - 1), random_.between(0, experts_ - 1)});
      if (!held.ok()) return held.status();
      other = std::move(held).value();
      round_.expect(other.has_value(), "an expert can be held when nothing else is");
    }
    if (random_.chance(0.5)) cache_->cancel_hints(layer, experts);
    auto begun = ExpertStream::begin(*cache_, layer, experts, interrupt_);
    if (!begun.ok()) return begun.status();
    ExpertStream stream = std::move(begun).value();
    for (int hints = random_.between(0, 2); hints > 0; --hints) {  // reads ahead for later layers
      cache_->hint({random_.between(0, layers_ - 1), random_.between(0, experts_ - 1)}, layer,
                   random_.between(1, static_cast<int32_t>(cache_->tiles())));
    }
    std::vector<int32_t> computed;
    for (const ExpertHandle& handle : stream.residents()) {
      ADAPMOE_RETURN_IF_ERROR(check_tiles(handle));
      computed.push_back(handle.id().expert);
    }
    stream.release_residents();
    if (random_.chance(0.02)) return {};  // abandoned with reads under way
    while (true) {
      auto next = stream.next(interrupt_);
      if (!next.ok()) return next.status();
      if (!next.value().has_value()) break;
      ADAPMOE_RETURN_IF_ERROR(check_tiles(*next.value()));
      computed.push_back(next.value()->id().expert);
    }
    std::sort(computed.begin(), computed.end());
    round_.expect(computed == experts, "a stream gives every expert of the layer once");
    return other ? check_tiles(*other) : Status();
  }

  Result<std::optional<ExpertHandle>> acquire(ExpertId id) {
    return cache_->acquire(id, interrupt_);
  }

  Status check_tiles(const ExpertHandle& handle) {
    const auto bytes = static_cast<size_t>(pack_.experts().tile_bytes);
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const auto data = handle.tile(tile, interrupt_);
      if (!data.ok()) return data.status();
      const auto at = static_cast<size_t>(pack_.tile_offset(handle.id(), tile));
      round_.expect(std::memcmp(data.value(), truth_.data() + at, bytes) == 0,
                    "a tile has the file's bytes");
      ++round_.counts().tiles;
    }
    return {};
  }

  void check_error(const Status& status) {
    const bool injected =
        (status.code() == StatusCode::kReadError && faults_.fail > 0) ||
        (status.code() == StatusCode::kPackError && faults_.damage > 0) ||
        (status.code() == StatusCode::kCancelled && std::exchange(cancelling_, false));
    round_.expect(injected, "only injected faults are reported, not: " + status.message());
    round_.counts().cancelled += status.code() == StatusCode::kCancelled ? 1 : 0;
  }

  // Once the disk is well again, the next request works: no old error comes back.
  void recover(int32_t layer, const std::vector<int32_t>& experts) {
    reader_->calm();
    faults_.fail = faults_.damage = 0.0;
    const double cancel = std::exchange(cancel_, 0.0);
    const Status status = compute(layer, experts);
    round_.expect(status.ok(), "the request after a failed one works, not: " + status.message());
    cancel_ = cancel;
  }

  void resize(int32_t frames) {
    round_.expect(cache_->resize(frames, Interrupt()).ok(), "resize succeeds when nothing is held");
    frames_ = frames;
    ++round_.counts().resizes;
  }

  void finish() {
    recover(0, random_experts());
    cancel_ = 0.0;
    resize(total_frames_);
    hold_everything();
    const ResidencyStats stats = cache_->stats();
    const FaultyReader::Totals reads = reader_->totals();
    round_.expect(stats.bytes_read == reads.succeeded * pack_.experts().tile_bytes,
                  "bytes_read is what the reader delivered");
    round_.expect(reads.submitted <= tiles_ * (stats.visits - stats.hits + stats.prefetched),
                  "only misses and hints are read");
    round_.counts().faults += reads.faults;

    resize(tiles_);
    const auto only = value_or_stop(acquire({0, 0}), round_);
    round_.expect(only.has_value(), "one expert fits the smallest budget");
    const auto second = value_or_stop(acquire({0, 1}), round_);
    round_.expect(!second.has_value(), "a second expert does not fit the smallest budget");
  }

  // Every frame is needed, so one that leaked is missed here.
  void hold_everything() {
    std::vector<ExpertHandle> handles;
    for (int32_t layer = 0; layer < layers_; ++layer) {
      for (int32_t expert = 0; expert < experts_; ++expert) {
        auto handle = value_or_stop(acquire({layer, expert}), round_);
        round_.expect(handle.has_value(), "with all frames, all experts fit");
        handles.push_back(*std::move(handle));
      }
    }
    for (const ExpertHandle& handle : handles) {
      const Status status = check_tiles(handle);
      round_.expect(status.ok(), status.message());
    }
  }

  // Statistics may be read by any thread at any time, and only grow.
  void watch(const std::stop_token& stop) {
    ResidencyStats before;
    while (!stop.stop_requested()) {
      const ResidencyStats now = cache_->stats();
      round_.expect(now.visits >= before.visits && now.hits >= before.hits &&
                        now.bytes_read >= before.bytes_read && now.stall_ns >= before.stall_ns,
                    "statistics only grow");
      round_.expect(now.hits <= now.visits, "hits are visits");
      (void)cache_->resident({0, 0});
      before = now;
      std::this_thread::sleep_for(std::chrono::microseconds(300));
    }
  }

  const Pack& pack_;
  const std::vector<std::byte>& truth_;
  Round& round_;
  Random& random_;
  const int32_t tiles_;  // per expert
  const int32_t layers_;
  const int32_t experts_;  // per layer
  const int32_t total_frames_;
  Arena arena_;
  Faults faults_;
  double cancel_ = 0.0;      // probability that an interrupt says stop
  bool cancelling_ = false;  // the latest interrupt did
  int32_t frames_ = 0;       // the budget
  Interrupt interrupt_;
  FaultyReader* reader_ = nullptr;
  std::unique_ptr<ExpertCache> cache_;
};

}  // namespace

void residency_round(const Pack& pack, const std::vector<std::byte>& truth, Round& round) {
  ResidencyRound(pack, truth, round).run();
}

}  // namespace adapmoe::stress
