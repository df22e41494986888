// SPDX-License-Identifier: Apache-2.0
#include "runtime/memory/frame_pool.h"

#include <sys/mman.h>

#include "runtime/base/check.h"

namespace adapmoe {

FramePool::FramePool(std::span<std::byte> region, int64_t frame_bytes, int32_t in_use, bool pinned)
    : region_(region), frame_bytes_(frame_bytes), in_use_(0), pinned_(pinned) {
  const auto frames = static_cast<int32_t>(static_cast<int64_t>(region.size()) / frame_bytes);
  free_.reserve(static_cast<size_t>(frames));
  for (FrameIndex frame = frames; frame-- > 0;) parked_.push_back(frame);
  grow(in_use);
}

FrameIndex FramePool::take() {
  ADAPMOE_CHECK(!free_.empty());
  const FrameIndex frame = free_.back();
  free_.pop_back();
  return frame;
}

void FramePool::shrink(int32_t in_use,
                       const std::function<void(std::span<std::byte>)>& before_parking) {
  while (in_use_ > in_use && !free_.empty()) {
    const FrameIndex frame = take();
    if (before_parking) before_parking({data(frame), static_cast<size_t>(frame_bytes_)});
    if (!pinned_) {
      (void)madvise(data(frame), static_cast<size_t>(frame_bytes_), MADV_DONTNEED);
    }
    parked_.push_back(frame);
    --in_use_;
  }
}

void FramePool::grow(int32_t in_use) {
  while (in_use_ < in_use) {
    ADAPMOE_CHECK(!parked_.empty());
    free_.push_back(parked_.back());
    parked_.pop_back();
    ++in_use_;
  }
}

}  // namespace adapmoe
