// SPDX-License-Identifier: Apache-2.0
// Small arrays that kernels read: copied here when a kernel is queued, given back when the device
// has done everything.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/base/check.h"
#include "runtime/base/types.h"

namespace adapmoe::cuda {

class ParameterRing {
 public:
  ParameterRing() = default;
  explicit ParameterRing(std::span<std::byte> memory) : memory_(memory) {}

  bool fits(int64_t bytes) const { return used_ + bytes <= static_cast<int64_t>(memory_.size()); }
  void clear() { used_ = 0; }

  // REQUIRES: fits(bytes_of<T>(values.size())).
  template <typename T>
  T* copy(std::span<const T> values) {
    const int64_t bytes = bytes_of<T>(values.size());
    ADAPMOE_CHECK(fits(bytes));
    T* at = reinterpret_cast<T*>(memory_.data() + used_);
    std::copy(values.begin(), values.end(), at);
    used_ += bytes;
    return at;
  }
  template <typename T>
  static int64_t bytes_of(size_t count) {
    return align_up(static_cast<int64_t>(count * sizeof(T)), 64);
  }

 private:
  std::span<std::byte> memory_;
  int64_t used_ = 0;
};

}  // namespace adapmoe::cuda
