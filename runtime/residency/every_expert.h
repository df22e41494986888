// SPDX-License-Identifier: Apache-2.0
// A hold on all experts at once: every tile is ready, and while this lives none moves.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace adapmoe {

class ExpertCache;

class EveryExpert {
 public:
  EveryExpert(ExpertCache* cache, std::span<const std::byte* const> tiles, uint64_t placement)
      : cache_(cache), tiles_(tiles), placement_(placement) {}
  EveryExpert(EveryExpert&& other) noexcept
      : cache_(std::exchange(other.cache_, nullptr)),
        tiles_(other.tiles_),
        placement_(other.placement_) {}
  EveryExpert& operator=(EveryExpert&&) = delete;
  ~EveryExpert();  // releases the hold

  std::span<const std::byte* const> tiles() const { return tiles_; }  // [layers][experts][tiles]
  // The same number as before: no tile has moved.
  uint64_t placement() const { return placement_; }

 private:
  ExpertCache* cache_;
  std::span<const std::byte* const> tiles_;
  uint64_t placement_;
};

}  // namespace adapmoe
