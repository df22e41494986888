// SPDX-License-Identifier: Apache-2.0
// The activations of one step. Strides are multiples of 128 and what lies beyond a row's values
// stays zero. The host reads what it has fetched (Backend::fetch) and writes nothing.
#pragma once
#include "runtime/backend/backend.h"  // Rows
#include "runtime/base/model_config.h"
#include "runtime/memory/bump.h"

namespace adapmoe {

inline constexpr int64_t kHeadRows = 16;  // rows per pass of the head: bounds the logits buffer

struct Workspace {
  Rows hidden;         // [max_rows, hidden_size], the residual stream
  Rows normed;         // [max_rows, hidden_size]
  Rows q, k, v;        // [max_rows, heads * head_dim]
  Rows attended;       // [max_rows, num_attention_heads * head_dim]
  Rows projected;      // [max_rows, hidden_size]
  Rows router_logits;  // [max_rows, num_local_experts]
  Rows expert_out;     // [max_rows * top_k, hidden_size]
  Rows logits;         // [kHeadRows, vocab_size]

  static Workspace layout(Bump& bump, const ModelConfig& c, int64_t max_rows) {
    const auto rows = [&](int64_t count, int64_t width) {
      const int64_t stride = align_up(width, 128);
      return Rows{bump.take<float>(count * stride), count, stride};
    };
    Workspace w;
    w.hidden = rows(max_rows, c.hidden_size);
    w.normed = rows(max_rows, c.hidden_size);
    w.q = rows(max_rows, c.q_rows());
    w.k = rows(max_rows, c.kv_rows());
    w.v = rows(max_rows, c.kv_rows());
    w.attended = rows(max_rows, c.q_rows());
    w.projected = rows(max_rows, c.hidden_size);
    w.router_logits = rows(max_rows, c.num_local_experts);
    w.expert_out = rows(max_rows * c.router.top_k, c.hidden_size);
    w.logits = rows(kHeadRows, c.vocab_size);
    return w;
  }
};

}  // namespace adapmoe
