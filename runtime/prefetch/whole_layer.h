// SPDX-License-Identifier: Apache-2.0
// A prompt streams layer by layer: so many rows need nearly every expert of a layer that the next
// layer is read while this one is computed, without asking a predictor. Tokens never change (G3).
#pragma once
#include <cstdint>

#include "runtime/base/model_config.h"
#include "runtime/residency/expert_cache.h"

namespace adapmoe {

// Whether `rows` token rows need nearly all experts of every layer: eight rows for each on average.
constexpr bool needs_whole_layers(const ModelConfig& config, int64_t rows) {
  return rows * config.router.top_k >= 8 * config.num_local_experts;
}

// Hints all experts of the layer after `layer`; after the last one, those of layer 0, for the next
// pass. May be called again as frames become free. For use when no demand read of `layer` waits for
// a frame.
void hint_next_layer(ExpertCache& cache, const ModelConfig& config, int32_t layer);

}  // namespace adapmoe
