// SPDX-License-Identifier: Apache-2.0
// A hold on one expert: while it lives, none of the expert's frames is evicted.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

#include "runtime/base/interrupt.h"
#include "runtime/base/status.h"
#include "runtime/base/types.h"

namespace adapmoe {

class ExpertCache;

class ExpertHandle {
 public:
  ExpertHandle(ExpertCache* cache, ExpertId id) : cache_(cache), id_(id) {}
  ExpertHandle(ExpertHandle&& other) noexcept
      : cache_(std::exchange(other.cache_, nullptr)), id_(other.id_) {}
  ExpertHandle& operator=(ExpertHandle&& other) noexcept {
    std::swap(cache_, other.cache_);
    std::swap(id_, other.id_);
    return *this;
  }
  ~ExpertHandle();  // releases the hold

  ExpertId id() const { return id_; }
  // The bytes of one tile, waiting for its read if need be.
  // Errors: kReadError or kPackError when the read or its checksum failed, kCancelled.
  Result<const std::byte*> tile(int64_t index, const Interrupt& interrupt) const;

 private:
  ExpertCache* cache_;
  ExpertId id_;
};

}  // namespace adapmoe
