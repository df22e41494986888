// SPDX-License-Identifier: Apache-2.0
#include "runtime/prefetch/whole_layer.h"

namespace adapmoe {

void hint_next_layer(ExpertCache& cache, const ModelConfig& config, int32_t layer) {
  const auto next = static_cast<int32_t>((layer + 1) % config.num_hidden_layers);
  for (int32_t e = 0; e < static_cast<int32_t>(config.num_local_experts); ++e) {
    cache.hint({next, e}, layer, cache.tiles());
  }
}

}  // namespace adapmoe
