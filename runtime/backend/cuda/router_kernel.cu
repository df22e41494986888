// SPDX-License-Identifier: Apache-2.0
// The gate on the device, for a few token rows in one thread block: the arithmetic and the ties of
// gate/gate.cc, one thread per row only where the order of operations counts.
#include "runtime/backend/cuda/kernels.h"
#include "runtime/backend/cuda/launch.h"
#include "runtime/base/canonical_math.h"

namespace adapmoe::cuda {
namespace {

struct Shared {
  float scores[kMostScores];    // [rows][experts], at first logits
  float row[kMostRouted];       // [rows] largest logit, then sum of the scores
  int32_t ranked[kMostRouted];  // [rows][top_k] experts, best first
  int32_t chosen[kMostRouted];  // ascending
  float chosen_scores[kMostRouted];
  float weights[kMostRouted];
  bool kept[kMostRouted];
  int32_t expert_of[kMostRouted];  // [pairs], of each output row
};

// Several loads per thread are under way before each barrier.
__device__ void load_logits(const RouteArgs& a, Shared& s) {
  constexpr int kEach = 8;
  static_assert(kMostScores % (kEach * kThreads) == 0);
  const auto experts = static_cast<unsigned>(a.experts);
  const unsigned count = static_cast<unsigned>(a.rows) * experts;
  for (unsigned begin = 0; begin < count; begin += kEach * kThreads) {
    float logits[kEach];
#pragma unroll
    for (unsigned n = 0; n < kEach; ++n) {
      const unsigned i = begin + n * kThreads + threadIdx.x;
      logits[n] = i < count ? a.logits[i / experts * a.stride + i % experts] : 0.0F;
    }
    __syncthreads();
#pragma unroll
    for (unsigned n = 0; n < kEach; ++n) {
      s.scores[begin + n * kThreads + threadIdx.x] = logits[n];
    }
  }
  __syncthreads();
}

// Softmax, whose sum is ascending.
__device__ void softmax(const RouteArgs& a, Shared& s) {
  const auto experts = static_cast<unsigned>(a.experts);
  const unsigned count = static_cast<unsigned>(a.rows) * experts;
  const unsigned first = threadIdx.x * experts;  // of a row of its own
  if (threadIdx.x < a.rows) {
    float largest = s.scores[first];
#pragma unroll 8
    for (unsigned i = first + 1; i < first + experts; ++i) {
      largest = largest < s.scores[i] ? s.scores[i] : largest;
    }
    s.row[threadIdx.x] = largest;
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    s.scores[i] = canonical_exp(s.scores[i] - s.row[i / experts]);
  }
  __syncthreads();
  if (threadIdx.x < a.rows) {
    float total = 0.0F;
#pragma unroll 8
    for (unsigned i = first; i < first + experts; ++i) total += s.scores[i];
    s.row[threadIdx.x] = total;
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < count; i += kThreads) s.scores[i] /= s.row[i / experts];
  __syncthreads();
}

__device__ void sigmoid(const RouteArgs& a, Shared& s) {
  const auto count = static_cast<unsigned>(a.rows * a.experts);
  for (unsigned i = threadIdx.x; i < count; i += kThreads) {
    s.scores[i] = 1.0F / (1.0F + canonical_exp(-s.scores[i]));
  }
  __syncthreads();
}

__device__ float total_of(const float* weights, int64_t count) {
  float total = 0.0F;
  for (int64_t j = 0; j < count; ++j) total += weights[j];
  return total;
}

// How many experts of a row come before one of them: those that are better, and equals of a lower
// index. No two have the same rank, because canonical_exp() makes no score a NaN.
__device__ unsigned rank_of(const float* scores, unsigned experts, unsigned expert) {
  const float mine = scores[expert];
  unsigned before = 0;
#pragma unroll 8
  for (unsigned e = 0; e < expert; ++e) before += scores[e] >= mine ? 1U : 0U;
#pragma unroll 8
  for (unsigned e = expert + 1; e < experts; ++e) before += scores[e] > mine ? 1U : 0U;
  return before;
}

// The top_k best, listed ascending. One thread per score, then one per (row, expert) pair.
__device__ void select(const RouteArgs& a, Shared& s) {
  const auto experts = static_cast<unsigned>(a.experts);
  const auto top_k = static_cast<unsigned>(a.top_k);
  const auto rows = static_cast<unsigned>(a.rows);
  for (unsigned i = threadIdx.x; i < rows * experts; i += kThreads) {
    const unsigned row = i / experts;
    const unsigned rank = rank_of(s.scores + row * experts, experts, i % experts);
    if (rank < top_k) s.ranked[row * top_k + rank] = static_cast<int32_t>(i % experts);
  }
  __syncthreads();
  const unsigned pair = threadIdx.x;
  const unsigned row = pair / top_k;
  if (row < rows) {
    const int32_t expert = s.ranked[pair];
    unsigned at = row * top_k;
    for (unsigned j = 0; j < top_k; ++j) at += s.ranked[row * top_k + j] < expert ? 1U : 0U;
    s.chosen[at] = expert;
    s.chosen_scores[at] = s.scores[row * experts + static_cast<unsigned>(expert)];
    s.kept[at] = true;
  }
  __syncthreads();
  if (row < rows) {
    const float divisor = a.renormalize ? total_of(s.chosen_scores + row * top_k, top_k) : 1.0F;
    s.weights[pair] = s.chosen_scores[pair] / divisor * a.scale;
  }
  __syncthreads();
}

// Moves what is not kept to the end, descending, as ~expert.
__device__ void close_gaps(int32_t* chosen, float* weights, const bool* kept, int64_t count) {
  for (int64_t j = count; j-- > 0;) {
    if (kept[j]) continue;
    const int32_t expert = chosen[j];
    for (int64_t i = j + 1; i < count; ++i) {
      chosen[i - 1] = chosen[i];
      weights[i - 1] = weights[i];
    }
    chosen[count - 1] = ~expert;
    weights[count - 1] = 0.0F;
  }
}

// Drops the weakest while the rule lets it; one always stays. Returns the share dropped.
__device__ float drop(const RouteArgs& a, Shared& s, int64_t row) {
  const GateRule rule = *a.rule;
  if (!rule.drops) return 0.0F;
  int32_t* chosen = s.chosen + row * a.top_k;
  float* weights = s.weights + row * a.top_k;
  bool* kept = s.kept + row * a.top_k;
  const float total = total_of(weights, a.top_k);
  float dropped = 0.0F;
  int64_t left = a.top_k;
  for (; left > 1; --left) {
    int64_t weakest = -1;  // of equals the last
    for (int64_t j = 0; j < a.top_k; ++j) {
      if (!kept[j]) continue;
      if (weakest < 0 || !(weights[j] > weights[weakest])) weakest = j;
    }
    const float with_next = dropped + weights[weakest];
    const float share = with_next / total;
    if (!(rule.sensitivity * (share * share) < rule.threshold)) break;
    dropped = with_next;
    kept[weakest] = false;
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
// then by row. Then one per output row.
__device__ void make_plan(const RouteArgs& a, Shared& s) {
  const int64_t pair = threadIdx.x;
  const int64_t pairs = a.rows * a.top_k;
  int32_t count = 0;
  if (pair < pairs) {
    const int32_t expert = s.chosen[pair];
    int32_t before = 0;
    for (int64_t p = 0; p < pairs; ++p) {
      const int32_t other = s.chosen[p];
      count += other >= 0 ? 1 : 0;
      before += other >= 0 && (other < expert || (other == expert && p < pair)) ? 1 : 0;
    }
    if (expert >= 0) {
      a.plan.rows[before] = static_cast<int32_t>(pair / a.top_k);
      s.expert_of[before] = expert;
    }
    a.plan.outputs[pair] = expert >= 0 ? before : -1;
  }
  __syncthreads();
  if (pair >= count) return;
  int32_t used = 1;  // experts up to this output row
  for (int64_t i = 1; i <= pair; ++i) used += s.expert_of[i] != s.expert_of[i - 1] ? 1 : 0;
  if (pair == 0 || s.expert_of[pair] != s.expert_of[pair - 1]) {
    a.plan.experts[used - 1] = s.expert_of[pair];
    a.plan.first_output[used - 1] = static_cast<int32_t>(pair);
  }
  if (pair != count - 1) return;
  a.plan.first_output[used] = count;
  *a.plan.used = used;
}

__global__ void route(RouteArgs a) {
  __shared__ Shared s;
  load_logits(a, s);
  if (a.sigmoid) {
    sigmoid(a, s);
  } else {
    softmax(a, s);
  }
  select(a, s);
  if (threadIdx.x < a.rows) a.dropped_share[threadIdx.x] = drop(a, s, threadIdx.x);
  __syncthreads();
  if (threadIdx.x < a.rows * a.top_k) {
    a.chosen[threadIdx.x] = s.chosen[threadIdx.x];
    a.weights[threadIdx.x] = s.weights[threadIdx.x];
  }
  make_plan(a, s);
}

}  // namespace

cudaError_t launch_route(const RouteArgs& args, cudaStream_t stream) {
  return launch(route, 1, stream, args);
}

}  // namespace adapmoe::cuda
