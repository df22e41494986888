// SPDX-License-Identifier: Apache-2.0
// One sparse MoE block: router, gate, residency, expert FFNs, combine.
#pragma once
#include <cstdint>

#include "runtime/backend/backend.h"
#include "runtime/base/progress.h"
#include "runtime/base/status.h"
#include "runtime/gate/gate.h"
#include "runtime/model/expert_split.h"
#include "runtime/model/latest_routing.h"
#include "runtime/model/step.h"
#include "runtime/model/weights.h"
#include "runtime/model/workspace.h"
#include "runtime/prefetch/prefetcher.h"
#include "runtime/residency/expert_cache.h"

namespace adapmoe {

// What every layer shares. The referenced objects outlive it.
struct MoeContext {
  const ModelConfig& config;
  Backend& backend;
  ExpertCache& experts;
  const GatingConfig& gating;
  const Workspace& work;
  int64_t tiles;         // per expert
  Prefetcher* prefetch;  // null: nothing is read ahead
  Timeline* timeline;    // null: not recorded
  ExpertSplit* split;    // null: the backend computes every expert
  LatestRouting& latest;
  Progress& progress;  // counts layers
};

// hidden += MoE(norm(hidden)) for the first `rows` rows. Errors: kReadError, kPackError,
// kCancelled.
Status moe_layer(const MoeContext& context, const LayerWeights& weights, int32_t layer,
                 int64_t rows, Step& step);

}  // namespace adapmoe
