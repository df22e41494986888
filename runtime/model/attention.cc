// SPDX-License-Identifier: Apache-2.0
#include "runtime/model/attention.h"

#include <array>
#include <vector>

namespace adapmoe {

void append_kv_rows(std::span<const TokenRow> rows, int64_t layer, std::vector<KVRow>& kv) {
  for (const TokenRow& row : rows) kv.push_back(row.kv->row(layer, row.position));
}

void attention_layer(const ModelConfig& config, Backend& backend, const Workspace& work,
                     const LayerWeights& weights, const float* rope_inv_freq, int32_t layer,
                     std::span<const TokenRow> rows, Timeline* timeline) {
  const auto n = static_cast<int64_t>(rows.size());
  const Rows hidden = work.hidden.first(n);
  const Rows normed = work.normed.first(n);
  {
    const SpanTimer span(timeline, Lane::kCompute, "norm", 0, layer);
    backend.rms_norm(weights.input_layernorm, hidden, normed);
  }
  {
    const SpanTimer span(timeline, Lane::kCompute, "qkv_proj", 0, layer);
    const std::array<LinearOp, 3> qkv{LinearOp{&weights.q_proj, work.q},
                                      LinearOp{&weights.k_proj, work.k},
                                      LinearOp{&weights.v_proj, work.v}};
    backend.linear(normed, qkv);
  }
  {
    const SpanTimer span(timeline, Lane::kCompute, "attention", 0, layer);
    std::vector<KVRow> kv;
    kv.reserve(rows.size());
    append_kv_rows(rows, layer, kv);
    backend.attention({.q = work.q.first(n),
                       .k = work.k.first(n),
                       .v = work.v.first(n),
                       .kv = kv,
                       .layer = layer,
                       .inv_freq = rope_inv_freq,
                       .sliding_window = config.sliding_window,
                       .out = work.attended.first(n)});
  }
  const SpanTimer span(timeline, Lane::kCompute, "o_proj", 0, layer);
  const LinearOp output{&weights.o_proj, work.projected};
  backend.linear(work.attended.first(n), std::span(&output, 1));
  backend.add(work.projected.first(n), hidden);
}

}  // namespace adapmoe
