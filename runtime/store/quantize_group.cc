// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/quantize_group.h"

#include <cstring>

#include "runtime/base/half.h"

#define ADAPMOE_INLINE inline __attribute__((always_inline))

namespace adapmoe {
namespace {

constexpr int64_t kLanes = kGroupLanes;

// Adding and subtracting 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even.
constexpr float kRounder = 12582912.0f;

// The search: scales step_0 = amax / hi, then smaller by `step` each time, which clips the extremes
// to serve the others better. Each is followed by its least-squares refinement.
struct Search {
  float lo;
  float hi;
  float step;
  int steps;
};
constexpr Search kInt4Search{-8.0f, 7.0f, 1.0f / 32, 17};      // 1 down to 0.5; 28/32 is amax / 8
constexpr Search kInt8Search{-127.0f, 127.0f, 1.0f / 256, 9};  // 1 down to 0.97

constexpr const Search& search_of(DType dtype) {
  return dtype == DType::kInt4 ? kInt4Search : kInt8Search;
}

// One value per group. The compiler maps operators on it to whatever vectors the target has; it
// goes by reference because its calling convention depends on the target.
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef int32_t IntLanes __attribute__((vector_size(kLanes * sizeof(int32_t))));

ADAPMOE_INLINE void load(const float* from, Lanes& to) { std::memcpy(&to, from, sizeof(to)); }

ADAPMOE_INLINE void nearest_quant(const Lanes& weight, const Lanes& inverse, const Search& search,
                                  Lanes& out) {
  Lanes q = weight * inverse;
  q = q < search.hi ? q : Lanes{} + search.hi;
  q = q > search.lo ? q : Lanes{} + search.lo;
  out = (q + kRounder) - kRounder;
}

// The nearest positive fp16 numbers, ties to even, without leaving float.
ADAPMOE_INLINE void round_scale(Lanes& scale) {
  scale = scale < kHalfMax ? scale : Lanes{} + kHalfMax;
  scale = scale > kHalfMinSubnormal ? scale : Lanes{} + kHalfMinSubnormal;
  IntLanes bits;
  std::memcpy(&bits, &scale, sizeof(bits));
  bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff;
  Lanes normal;
  std::memcpy(&normal, &bits, sizeof(bits));
  const Lanes subnormal = (scale + 0.5f) - 0.5f;  // 2^-24 is one unit in the last place of 0.5
  scale = scale < 0x1p-14f ? subnormal : normal;
}

struct Trial {
  Lanes squared_error;
  Lanes least_squares_scale;  // best scale for the integers of this trial; 0 when all are 0
};

ADAPMOE_INLINE void try_scales(const float* weights, int n, const Lanes& scale,
                               const Search& search, Trial& trial) {
  const Lanes inverse = 1.0f / scale;
  Lanes errors{};
  Lanes weight_quants{};
  Lanes quant_quants{};
  for (int i = 0; i < n; ++i) {
    Lanes w;
    Lanes q;
    load(weights + i * kLanes, w);
    nearest_quant(w, inverse, search, q);
    const Lanes e = w - q * scale;
    errors += e * e;
    weight_quants += w * q;
    quant_quants += q * q;
  }
  trial.squared_error = errors;
  // Where all integers are 0, both sums are.
  trial.least_squares_scale = weight_quants / (quant_quants > 0.0f ? quant_quants : Lanes{} + 1.0f);
}

ADAPMOE_INLINE void quantize(const float* weights, int n, const Search& search, int8_t* quants,
                             GroupScales& out) {
  Lanes amax{};
  for (int i = 0; i < n; ++i) {
    Lanes w;
    load(weights + i * kLanes, w);
    const Lanes magnitude = w < 0.0f ? -w : w;
    amax = magnitude > amax ? magnitude : amax;
  }
  const Lanes widest = amax / search.hi;
  Lanes best = widest;
  round_scale(best);
  Trial trial;
  try_scales(weights, n, best, search, trial);
  Lanes best_error = trial.squared_error;
  for (int k = 0; k < search.steps; ++k) {
    Lanes scale = widest * (1.0f - static_cast<float>(k) * search.step);
    for (int round = 0; round < 2; ++round) {
      round_scale(scale);
      try_scales(weights, n, scale, search, trial);
      const IntLanes better = trial.squared_error < best_error;
      best = better ? scale : best;
      best_error = better ? trial.squared_error : best_error;
      scale = trial.least_squares_scale;
    }
  }
  best = amax > 0.0f ? best : Lanes{} + 1.0f;
  const Lanes inverse = 1.0f / best;
  for (int i = 0; i < n; ++i) {
    Lanes w;
    Lanes q;
    load(weights + i * kLanes, w);
    nearest_quant(w, inverse, search, q);
    for (int lane = 0; lane < kLanes; ++lane) {
      quants[i * kLanes + lane] = static_cast<int8_t>(q[lane]);
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    out.values[lane] = best[lane];
    out.half_bits[lane] = float_to_half(best[lane]);  // exact: it is an fp16 number
  }
}

// The same source compiled twice: FMA stays off, so both give the same bits.
void quantize_baseline(const float* w, int n, const Search& search, int8_t* quants,
                       GroupScales& scales) {
  quantize(w, n, search, quants, scales);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void quantize_avx2(const float* w, int n, const Search& search,
                                                   int8_t* quants, GroupScales& scales) {
  quantize(w, n, search, quants, scales);
}
#endif

using QuantizeFunction = void (*)(const float*, int, const Search&, int8_t*, GroupScales&);

QuantizeFunction choose_quantize() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return quantize_avx2;
#endif
  return quantize_baseline;
}

}  // namespace

float largest_quantizable(DType dtype) { return search_of(dtype).hi * kHalfMax; }

void quantize_groups(const float* weights, int group_size, DType dtype, int8_t* quants,
                     GroupScales& scales) {
  static const QuantizeFunction function = choose_quantize();
  function(weights, group_size, search_of(dtype), quants, scales);
}

}  // namespace adapmoe
