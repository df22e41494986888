// SPDX-License-Identifier: Apache-2.0
// The model as its Hugging Face config describes it; names unchanged.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/types.h"

namespace adapmoe {

enum class RouterScore : uint8_t { kSoftmax, kSigmoid };

// From router logits to weights, before any gating policy.
struct RouterSpec {
  RouterScore score = RouterScore::kSoftmax;
  int32_t top_k = 2;
  bool renormalize = true;  // chosen weights are divided by their sum
  float scale = 1.0F;       // then multiplied by this
};

struct ModelConfig {
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t num_local_experts = 0;
  int64_t max_position_embeddings = 0;
  int64_t sliding_window = 0;  // 0: full attention
  float rms_norm_eps = 0.0F;
  bool tie_word_embeddings = false;
  RouterSpec router;

  int64_t q_rows() const { return num_attention_heads * head_dim; }
  int64_t kv_rows() const { return num_key_value_heads * head_dim; }
  // Heads are padded to whole vectors of 16 lanes in the KV cache and while attending.
  int64_t head_dim_padded() const { return align_up(head_dim, 16); }
};

}  // namespace adapmoe
