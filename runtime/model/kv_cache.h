// SPDX-License-Identifier: Apache-2.0
// Keys and values of one sequence: [layer][k or v][position][num_key_value_heads][head_dim_padded],
// f16 or f32.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "runtime/backend/backend.h"
#include "runtime/base/model_config.h"

namespace adapmoe {

class KVCache {
 public:
  static int64_t bytes(const ModelConfig& c, int64_t max_context, bool f16) {
    return c.num_hidden_layers * 2 * half_layer_bytes(c, max_context, f16);
  }

  // REQUIRES: region is bytes() long and outlives the cache.
  KVCache(const ModelConfig& c, int64_t max_context, bool f16, std::span<std::byte> region)
      : region_(region),
        half_layer_bytes_(half_layer_bytes(c, max_context, f16)),
        max_context_(max_context) {}

  KVRow row(int64_t layer, int64_t position) const {
    std::byte* k = region_.data() + 2 * layer * half_layer_bytes_;
    return {.k = k, .v = k + half_layer_bytes_, .position = position};
  }

  // Copies the first `positions` positions of every layer. REQUIRES: both have the same shape.
  void copy_from(const KVCache& other, int64_t positions, Backend& backend) {
    const int64_t bytes = positions * half_layer_bytes_ / max_context_;
    for (size_t at = 0; at < region_.size(); at += static_cast<size_t>(half_layer_bytes_)) {
      backend.copy(other.region_.data() + at, region_.data() + at, bytes);
    }
  }

 private:
  static int64_t half_layer_bytes(const ModelConfig& c, int64_t max_context, bool f16) {
    return max_context * c.num_key_value_heads * c.head_dim_padded() * (f16 ? 2 : 4);
  }

  std::span<std::byte> region_;
  int64_t half_layer_bytes_;
  int64_t max_context_;
};

}  // namespace adapmoe
