// SPDX-License-Identifier: Apache-2.0
// The decoder stack: embedding, layers, head. Knows nothing about sequences beyond their token
// rows.
#pragma once
#include <cstdint>
#include <span>

#include "runtime/model/attention.h"
#include "runtime/model/moe_layer.h"

namespace adapmoe {

class Decoder {
 public:
  // Everything referenced outlives the decoder.
  Decoder(MoeContext context, const DenseWeights& weights) : m_(context), weights_(weights) {}

  // Computes `rows` (at most the workspace's max_rows), writes their keys and values, and the
  // logits of the rows listed in `logit_rows` to logits [logit_rows.size(), vocab_size].
  // Errors: kReadError, kPackError, kCancelled, and kNonFinite with step.check; the KV caches then
  // hold garbage at the new positions only.
  Status forward(std::span<const TokenRow> rows, std::span<const int32_t> logit_rows, float* logits,
                 Step& step);

 private:
  Status foresee_first_layer(int64_t rows);
  Status head(std::span<const int32_t> rows, float* logits, const Step& step);

  MoeContext m_;
  const DenseWeights& weights_;
};

}  // namespace adapmoe
