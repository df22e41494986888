// SPDX-License-Identifier: Apache-2.0
#include "runtime/model/decoder.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "runtime/model/finite_check.h"
#include "runtime/model/resident_step.h"
#include "runtime/prefetch/whole_layer.h"

namespace adapmoe {

Status Decoder::forward(std::span<const TokenRow> rows, std::span<const int32_t> logit_rows,
                        float* logits, Step& step) {
  const auto n = static_cast<int64_t>(rows.size());
  m_.experts.begin_pass();
  if (needs_whole_layers(m_.config, n)) {  // layer 0, while attention is computed
    hint_next_layer(m_.experts, m_.config, static_cast<int32_t>(weights_.layers.size()) - 1);
  }
  std::vector<int32_t> ids;
  ids.reserve(rows.size());
  for (const TokenRow& row : rows) ids.push_back(row.token);
  {
    const SpanTimer span(m_.timeline, Lane::kCompute, "embedding");
    m_.backend.embed(weights_.embed_tokens, ids, m_.work.hidden.first(n));
  }
  if (step.check != nullptr) ADAPMOE_RETURN_IF_ERROR(step.check->after_embedding(m_.work, n));
  if (logit_rows.size() == rows.size() && can_be_resident(m_, n, step)) {
    if (const auto every = m_.experts.hold_every()) {
      ADAPMOE_RETURN_IF_ERROR(resident_step(m_, weights_, rows, *every, logits, step));
      ++step.pass;
      return {};
    }
  }
  ADAPMOE_RETURN_IF_ERROR(foresee_first_layer(n));
  for (size_t layer = 0; layer < weights_.layers.size(); ++layer) {
    if (step.interrupt && step.interrupt()) return cancelled("interrupted between layers");
    if (step.between_layers) ADAPMOE_RETURN_IF_ERROR(step.between_layers());
    const LayerWeights& w = weights_.layers[layer];
    attention_layer(m_.config, m_.backend, m_.work, w, weights_.rope_inv_freq,
                    static_cast<int32_t>(layer), rows, m_.timeline);
    if (step.check != nullptr) {
      ADAPMOE_RETURN_IF_ERROR(
          step.check->after_attention(m_.work, static_cast<int32_t>(layer), rows));
    }
    const int64_t stalled = layer == 0 ? m_.experts.stats().stall_ns : 0;
    ADAPMOE_RETURN_IF_ERROR(moe_layer(m_, w, static_cast<int32_t>(layer), n, step));
    if (step.check != nullptr) {
      ADAPMOE_RETURN_IF_ERROR(step.check->after_experts(m_.work, static_cast<int32_t>(layer), n));
    }
    if (layer == 0) step.first_layer_stall_ns += m_.experts.stats().stall_ns - stalled;
  }
  for (size_t begin = 0; begin < logit_rows.size(); begin += kHeadRows) {
    const size_t count = std::min<size_t>(kHeadRows, logit_rows.size() - begin);
    ADAPMOE_RETURN_IF_ERROR(head(logit_rows.subspan(begin, count),
                                 logits + begin * static_cast<size_t>(m_.config.vocab_size), step));
  }
  ++step.pass;
  return {};
}

// Before its attention: reads of layer 0's experts begin while it is computed.
Status Decoder::foresee_first_layer(int64_t rows) {
  if (m_.prefetch == nullptr) return {};
  const SpanTimer span(m_.timeline, Lane::kCompute, "look_ahead");
  const Rows normed = m_.work.normed.first(rows);
  m_.backend.rms_norm(weights_.layers[0].post_attention_layernorm, m_.work.hidden.first(rows),
                      normed);
  m_.backend.fetch(normed);
  ADAPMOE_RETURN_IF_ERROR(m_.backend.wait());
  m_.prefetch->look_ahead({Activations::kEmbedding, -1, normed.data, rows, normed.stride});
  return {};
}

Status Decoder::head(std::span<const int32_t> rows, float* logits, const Step& step) {
  const auto n = static_cast<int64_t>(rows.size());
  for (int64_t i = 0; i < n; ++i) {
    m_.backend.copy(m_.work.hidden.row(rows[static_cast<size_t>(i)]), m_.work.projected.row(i),
                    m_.work.hidden.stride * static_cast<int64_t>(sizeof(float)));
  }
  {
    const SpanTimer span(m_.timeline, Lane::kCompute, "norm");
    m_.backend.rms_norm(weights_.norm, m_.work.projected.first(n), m_.work.normed.first(n));
    m_.backend.fetch(m_.work.normed.first(n));
    ADAPMOE_RETURN_IF_ERROR(m_.backend.wait());
  }
  if (step.capture != nullptr) {
    Capture::append(step.capture->final_hidden, m_.work.normed.first(n), m_.config.hidden_size);
  }
  if (m_.prefetch != nullptr) {  // the first layer of the next token, while the caller samples
    const SpanTimer span(m_.timeline, Lane::kCompute, "look_ahead");
    const Rows last = m_.work.normed.first(n);
    m_.prefetch->look_ahead({Activations::kLastHidden, -1, last.data, n, last.stride});
  }
  const SpanTimer span(m_.timeline, Lane::kCompute, "head");
  const LinearOp op{&weights_.lm_head, m_.work.logits};
  m_.backend.linear(m_.work.normed.first(n), std::span(&op, 1));
  m_.backend.fetch(m_.work.logits.first(n));
  ADAPMOE_RETURN_IF_ERROR(m_.backend.wait());
  const auto vocab = static_cast<size_t>(m_.config.vocab_size);
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(logits + static_cast<size_t>(i) * vocab, m_.work.logits.row(i),
                vocab * sizeof(float));
  }
  return {};
}

}  // namespace adapmoe
