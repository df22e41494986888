// SPDX-License-Identifier: Apache-2.0
// Frames: equal, page-aligned parts of the arena, for one expert tile each. Only as many as the
// budget allows are in use; the others are parked, address space without memory. Thread-compatible:
// ExpertCache guards it with its mutex.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace adapmoe {

using FrameIndex = int32_t;
inline constexpr FrameIndex kNoFrame = -1;

class FramePool {
 public:
  // REQUIRES: region consists of frames of `frame_bytes` (a multiple of 4 KiB); in_use of them at
  // most are handed out.
  // `pinned`: a device uses the region, so parked frames keep their memory.
  FramePool(std::span<std::byte> region, int64_t frame_bytes, int32_t in_use, bool pinned = false);

  int32_t in_use() const { return in_use_; }  // the budget, in frames
  int32_t free_frames() const { return static_cast<int32_t>(free_.size()); }
  int64_t frame_bytes() const { return frame_bytes_; }
  std::byte* data(FrameIndex frame) const { return region_.data() + frame * frame_bytes_; }

  // REQUIRES: free_frames() > 0.
  FrameIndex take();
  void give_back(FrameIndex frame) { free_.push_back(frame); }

  // Parks free frames and gives their memory back to the system unless it is pinned, until `in_use`
  // are left in use or no frame is free. `before_parking` is told of each of them first.
  void shrink(int32_t in_use,
              const std::function<void(std::span<std::byte>)>& before_parking = nullptr);
  // Brings parked frames back. REQUIRES: in_use frames fit the region.
  void grow(int32_t in_use);

 private:
  std::span<std::byte> region_;
  int64_t frame_bytes_;
  int32_t in_use_;
  bool pinned_;
  std::vector<FrameIndex> free_;
  std::vector<FrameIndex> parked_;
};

}  // namespace adapmoe
