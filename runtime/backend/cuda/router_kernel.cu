// SPDX-License-Identifier: Apache-2.0
// The gate on the device, for a few token rows in one thread block: the arithmetic and the ties of
// gate/gate.cc, one thread per row wherever the order of operations counts.
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe::cuda {
namespace {

struct Shared {
  float scores[kMostScores];  // [rows][experts]
  uint8_t kept[kMostScores];  // the same
  float row[kMostRouted];     // [rows] largest logit, then sum of the scores
  int32_t chosen[kMostRouted];
  float weights[kMostRouted];
  int32_t expert_of[kMostRouted];  // [pairs], of each output row
};

__device__ void scores_of(const RouteArgs& a, Shared& s) {
  const int64_t row = threadIdx.x;
  const int64_t count = a.rows * a.experts;
  if (row < a.rows) {
    const float* x = a.logits + row * a.stride;
    float largest = x[0];
    for (int64_t e = 1; e < a.experts; ++e) largest = largest < x[e] ? x[e] : largest;
    s.row[row] = largest;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const int64_t r = i / a.experts;
    const float x = a.logits[r * a.stride + i % a.experts];
    s.scores[i] = a.sigmoid ? 1.0F / (1.0F + canonical_exp(-x)) : canonical_exp(x - s.row[r]);
    s.kept[i] = 0;
  }
  __syncthreads();
  if (a.sigmoid) return;
  if (row < a.rows) {
    float total = 0.0F;
    for (int64_t e = 0; e < a.experts; ++e) total += s.scores[row * a.experts + e];
    s.row[row] = total;
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < count; i += kThreads) s.scores[i] /= s.row[i / a.experts];
  __syncthreads();
}

__device__ float total_of(const float* weights, int64_t count) {
  float total = 0.0F;
  for (int64_t j = 0; j < count; ++j) total += weights[j];
  return total;
}

// The top_k best, ties to the lower index; listed ascending.
__device__ void select(const RouteArgs& a, Shared& s, int64_t row) {
  const float* scores = s.scores + row * a.experts;
  uint8_t* kept = s.kept + row * a.experts;
  for (int64_t j = 0; j < a.top_k; ++j) {
    int64_t best = -1;
    for (int64_t e = 0; e < a.experts; ++e) {
      if (kept[e] == 0 && (best < 0 || scores[e] > scores[best])) best = e;
    }
    kept[best] = 1;
  }
  int32_t* chosen = s.chosen + row * a.top_k;
  float* weights = s.weights + row * a.top_k;
  int64_t count = 0;
  for (int64_t e = 0; e < a.experts; ++e) {
    if (kept[e] == 0) continue;
    chosen[count] = static_cast<int32_t>(e);
    weights[count] = scores[e];
    ++count;
  }
  const float divisor = a.renormalize ? total_of(weights, a.top_k) : 1.0F;
  for (int64_t j = 0; j < a.top_k; ++j) weights[j] = weights[j] / divisor * a.scale;
}

// Moves what is kept to the front, -1 after it; how many.
__device__ int64_t close_gaps(int32_t* chosen, float* weights, const uint8_t* kept, int64_t count) {
  int64_t left = 0;
  for (int64_t j = 0; j < count; ++j) {
    if (kept[chosen[j]] == 0) continue;
    chosen[left] = chosen[j];
    weights[left] = weights[j];
    ++left;
  }
  for (int64_t j = left; j < count; ++j) {
    chosen[j] = -1;
    weights[j] = 0.0F;
  }
  return left;
}

// Drops the weakest while the rule lets it; one always stays. Returns the share dropped.
__device__ float drop(const RouteArgs& a, Shared& s, int64_t row) {
  const GateRule rule = *a.rule;
  if (!rule.drops) return 0.0F;
  int32_t* chosen = s.chosen + row * a.top_k;
  float* weights = s.weights + row * a.top_k;
  uint8_t* kept = s.kept + row * a.experts;
  const float total = total_of(weights, a.top_k);
  float dropped = 0.0F;
  int64_t left = a.top_k;
  for (; left > 1; --left) {
    int64_t weakest = -1;  // of equals the last
    for (int64_t j = 0; j < a.top_k; ++j) {
      if (kept[chosen[j]] == 0) continue;
      if (weakest < 0 || !(weights[j] > weights[weakest])) weakest = j;
    }
    const float with_next = dropped + weights[weakest];
    const float share = with_next / total;
    if (!(rule.sensitivity * (share * share) < rule.threshold)) break;
    dropped = with_next;
    kept[chosen[weakest]] = 0;
  }
  if (left == a.top_k) return 0.0F;
  close_gaps(chosen, weights, kept, a.top_k);
  if (a.renormalize) {
    const float kept_total = total_of(weights, left);
    for (int64_t j = 0; j < left; ++j) weights[j] = weights[j] / kept_total * total;
  }
  return dropped / total;
}

// One thread per (row, expert) pair: its output row is the number of pairs before it, by expert and
// then by row.
__device__ void make_plan(const RouteArgs& a, Shared& s) {
  const int64_t pair = threadIdx.x;
  const int64_t pairs = a.rows * a.top_k;
  if (pair < pairs) {
    const int32_t expert = s.chosen[pair];
    int32_t before = 0;
    for (int64_t p = 0; p < pairs; ++p) {
      const int32_t other = s.chosen[p];
      before += other >= 0 && (other < expert || (other == expert && p < pair)) ? 1 : 0;
    }
    if (expert >= 0) {
      a.plan.rows[before] = static_cast<int32_t>(pair / a.top_k);
      s.expert_of[before] = expert;
    }
    a.plan.outputs[pair] = expert >= 0 ? before : -1;
  }
  __syncthreads();
  if (pair != 0) return;
  int32_t count = 0;
  for (int64_t p = 0; p < pairs; ++p) count += s.chosen[p] >= 0 ? 1 : 0;
  int32_t used = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (i > 0 && s.expert_of[i] == s.expert_of[i - 1]) continue;
    a.plan.experts[used] = s.expert_of[i];
    a.plan.first_output[used] = i;
    ++used;
  }
  a.plan.first_output[used] = count;
  *a.plan.used = used;
}

__global__ void route(RouteArgs a) {
  __shared__ Shared s;
  scores_of(a, s);
  const int64_t row = threadIdx.x;
  if (row < a.rows) {
    select(a, s, row);
    a.dropped_share[row] = drop(a, s, row);
    for (int64_t j = row * a.top_k; j < (row + 1) * a.top_k; ++j) {
      a.chosen[j] = s.chosen[j];
      a.weights[j] = s.weights[j];
    }
  }
  __syncthreads();
  make_plan(a, s);
}

}  // namespace

cudaError_t launch_route(const RouteArgs& args, cudaStream_t stream) {
  return launch(route, 1, stream, args);
}

}  // namespace adapmoe::cuda
