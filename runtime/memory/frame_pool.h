// SPDX-License-Identifier: Apache-2.0
// Equal, page-aligned places for one expert tile each, cut from the arena, and the list of the free
// ones. Thread-compatible: ExpertCache guards it with its mutex.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/check.h"

namespace adapmoe {

using FrameIndex = int32_t;
inline constexpr FrameIndex kNoFrame = -1;

class FramePool {
 public:
  // REQUIRES: region holds `frames` frames of `frame_bytes` (a multiple of 4 KiB) each.
  FramePool(std::span<std::byte> region, int64_t frame_bytes, int32_t frames)
      : region_(region), frame_bytes_(frame_bytes), frames_(frames) {
    ADAPMOE_CHECK(static_cast<int64_t>(region.size()) >= frame_bytes * frames);
    free_.reserve(static_cast<size_t>(frames));
    for (FrameIndex f = frames; f-- > 0;) {
      free_.push_back(f);
    }
  }

  int32_t frames() const { return frames_; }
  int32_t free_frames() const { return static_cast<int32_t>(free_.size()); }
  int64_t frame_bytes() const { return frame_bytes_; }
  std::byte* data(FrameIndex frame) const { return region_.data() + frame * frame_bytes_; }

  // REQUIRES: free_frames() > 0.
  FrameIndex take() {
    ADAPMOE_CHECK(!free_.empty());
    const FrameIndex frame = free_.back();
    free_.pop_back();
    return frame;
  }
  void give_back(FrameIndex frame) { free_.push_back(frame); }

 private:
  std::span<std::byte> region_;
  int64_t frame_bytes_;
  int32_t frames_;
  std::vector<FrameIndex> free_;
};

}  // namespace adapmoe
