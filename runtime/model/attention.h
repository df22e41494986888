// SPDX-License-Identifier: Apache-2.0
// One attention block: norm, projections, RoPE and attention over the KV cache, output projection,
// residual.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/backend/backend.h"
#include "runtime/base/timeline.h"
#include "runtime/model/kv_cache.h"
#include "runtime/model/weights.h"
#include "runtime/model/workspace.h"

namespace adapmoe {

// One token to compute: where it stands and whose KV cache it belongs to.
struct TokenRow {
  int32_t token = 0;
  int64_t position = 0;
  const KVCache* kv = nullptr;
};

// The rows' places in the KV caches.
void append_kv_rows(std::span<const TokenRow> rows, int64_t layer, std::vector<KVRow>& kv);

// hidden += Attention(norm(hidden)); rows of one sequence stand in ascending position. A null
// timeline records nothing.
void attention_layer(const ModelConfig& config, Backend& backend, const Workspace& work,
                     const LayerWeights& weights, const float* rope_inv_freq, int32_t layer,
                     std::span<const TokenRow> rows, Timeline* timeline);

}  // namespace adapmoe
