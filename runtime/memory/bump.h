// SPDX-License-Identifier: Apache-2.0
// Hands out 64-byte-aligned arrays from a span, or, over no span, only counts: one layout function
// gives both size and places.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/check.h"
#include "runtime/base/types.h"

namespace adapmoe {

class Bump {
 public:
  Bump() = default;  // counts only; take() returns null
  explicit Bump(std::span<std::byte> span) : span_(span) {}

  template <typename T>
  T* take(int64_t count) {
    const int64_t begin = used_;
    used_ += align_up(count * static_cast<int64_t>(sizeof(T)), 64);
    if (span_.data() == nullptr) return nullptr;
    ADAPMOE_CHECK(used_ <= static_cast<int64_t>(span_.size()));
    return reinterpret_cast<T*>(span_.data() + begin);
  }
  int64_t used() const { return used_; }

 private:
  std::span<std::byte> span_;
  int64_t used_ = 0;
};

}  // namespace adapmoe
