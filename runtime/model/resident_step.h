// SPDX-License-Identifier: Apache-2.0
// A decode step in which the host waits once. Every expert is resident, so routing decides nothing
// but what is computed, and the device does it; the host reads afterwards what was decided.
#pragma once
#include <cstdint>
#include <span>

#include "runtime/model/attention.h"
#include "runtime/model/moe_layer.h"
#include "runtime/residency/every_expert.h"

namespace adapmoe {

// Whether the backend can route a step of `rows` rows whose logits are all wanted.
bool can_be_resident(const MoeContext& context, int64_t rows, const Step& step);

// Computes `rows`, whose embeddings stand in work.hidden, and their logits [rows, vocab_size].
// Counts, trace, use statistics and bits are those of a step that goes layer by layer.
// REQUIRES: can_be_resident(). Errors: kUnavailable where the device failed.
Status resident_step(const MoeContext& context, const DenseWeights& weights,
                     std::span<const TokenRow> rows, const EveryExpert& experts, float* logits,
                     Step& step);

}  // namespace adapmoe
