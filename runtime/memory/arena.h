// SPDX-License-Identifier: Apache-2.0
// The session's one reservation of address space. Everything whose size depends on the model is
// carved from it at open. Pages are zero, and take memory only when first written. A fork of this
// process does not have them.
// Thread-compatible: carve at open, then only read.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/opened_in.h"
#include "runtime/base/status.h"

namespace adapmoe {

class Arena {
 public:
  // Reserves `bytes` (rounded up to a page). Errors: kBudgetError when the kernel refuses.
  static Result<Arena> reserve(int64_t bytes);
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&&) = delete;
  ~Arena();

  // The next `bytes`, page-aligned. REQUIRES: remaining() >= bytes rounded up to a page.
  std::span<std::byte> carve(int64_t bytes);
  int64_t remaining() const { return capacity_ - used_; }
  // How much of it lies in memory now: what was written and neither given back nor swapped out.
  int64_t resident_bytes() const;
  // Its first `bytes`, carved already or not.
  std::span<std::byte> first(int64_t bytes) const { return {base_, static_cast<size_t>(bytes)}; }

 private:
  Arena(std::byte* base, int64_t capacity) : base_(base), capacity_(capacity) {}

  std::byte* base_;
  int64_t capacity_;
  int64_t used_ = 0;
  OpenedIn opened_in_;
};

}  // namespace adapmoe
