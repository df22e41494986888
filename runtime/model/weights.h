// SPDX-License-Identifier: Apache-2.0
// The dense (non-expert) weights, as views into the session's arena.
#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "runtime/backend/backend.h"  // Matrix
#include "runtime/base/interrupt.h"
#include "runtime/base/status.h"
#include "runtime/store/pack.h"

namespace adapmoe {

struct LayerWeights {
  const float* input_layernorm = nullptr;
  Matrix q_proj, k_proj, v_proj, o_proj;
  const float* post_attention_layernorm = nullptr;
  Matrix router;  // [num_local_experts, hidden_size], f32
};

struct DenseWeights {
  Matrix embed_tokens;  // [vocab_size, hidden_size]
  std::vector<LayerWeights> layers;
  const float* norm = nullptr;
  Matrix lm_head;  // embed_tokens where the model ties them
  const float* rope_inv_freq = nullptr;
};

// Reads dense.safetensors into `region` (pack.dense_bytes() long), checking checksums with
// `verify`. Where the host may not touch the region, pieces are read into `staging` and uploaded;
// else that is empty. The views live as long as the region. Errors: kPackError for a missing
// tensor, one whose shape does not follow from the config, or a wrong checksum; kReadError;
// kCancelled; kUnavailable.
Result<DenseWeights> load_dense_weights(const Pack& pack, std::span<std::byte> region,
                                        std::span<std::byte> staging, Backend& backend, bool verify,
                                        const Interrupt& interrupt);

}  // namespace adapmoe
