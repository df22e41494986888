// SPDX-License-Identifier: Apache-2.0
#include "runtime/store/quantize_group.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/half.h"

#define ADAPMOE_INLINE inline __attribute__((always_inline))

namespace adapmoe {
namespace {

// Sums run in 16 virtual lanes joined by a fixed tree, so that vector width never shows.
constexpr int kLanes = 16;

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

struct Trial {
  float squared_error;
  float least_squares_scale;  // best scale for the integers of this trial; 0 when all are 0
};

ADAPMOE_INLINE float nearest_quant(float weight, float inverse, const Search& search) {
  float q = weight * inverse;
  q = q < search.hi ? q : search.hi;
  q = q > search.lo ? q : search.lo;
  return (q + kRounder) - kRounder;
}

ADAPMOE_INLINE float sum_lanes(float* lanes) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

ADAPMOE_INLINE Trial try_scale(const float* weights, int n, float scale, const Search& search) {
  const float inverse = 1.0f / scale;
  float errors[kLanes] = {};
  float weight_quants[kLanes] = {};
  float quant_quants[kLanes] = {};
  for (int i = 0; i < n; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float w = weights[i + lane];
      const float q = nearest_quant(w, inverse, search);
      const float e = w - q * scale;
      errors[lane] += e * e;
      weight_quants[lane] += w * q;
      quant_quants[lane] += q * q;
    }
  }
  const float qq = sum_lanes(quant_quants);
  return {sum_lanes(errors), qq > 0.0f ? sum_lanes(weight_quants) / qq : 0.0f};
}

GroupScale round_scale(float scale) {
  const float clamped = std::min(std::max(scale, kHalfMinSubnormal), kHalfMax);
  const uint16_t bits = float_to_half(clamped);
  return {bits, half_to_float(bits)};
}

ADAPMOE_INLINE GroupScale quantize(const float* weights, int n, const Search& search,
                                   int8_t* quants) {
  float amax = 0.0f;
  for (int i = 0; i < n; ++i) amax = std::max(amax, std::fabs(weights[i]));
  if (amax == 0.0f) {
    std::fill_n(quants, n, int8_t{0});
    return {0x3c00, 1.0f};
  }
  const float widest = amax / search.hi;
  GroupScale best = round_scale(widest);
  float best_error = try_scale(weights, n, best.value, search).squared_error;
  for (int k = 0; k < search.steps; ++k) {
    GroupScale scale = round_scale(widest * (1.0f - static_cast<float>(k) * search.step));
    for (int round = 0; round < 2; ++round) {
      const Trial trial = try_scale(weights, n, scale.value, search);
      if (trial.squared_error < best_error) {
        best = scale;
        best_error = trial.squared_error;
      }
      scale = round_scale(trial.least_squares_scale);
    }
  }
  const float inverse = 1.0f / best.value;
  for (int i = 0; i < n; ++i) {
    quants[i] = static_cast<int8_t>(nearest_quant(weights[i], inverse, search));
  }
  return best;
}

// The same source compiled twice: FMA stays off, so both give the same bits.
GroupScale quantize_baseline(const float* w, int n, const Search& search, int8_t* quants) {
  return quantize(w, n, search, quants);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) GroupScale quantize_avx2(const float* w, int n,
                                                         const Search& search, int8_t* quants) {
  return quantize(w, n, search, quants);
}
#endif

using QuantizeFunction = GroupScale (*)(const float*, int, const Search&, int8_t*);

QuantizeFunction choose_quantize() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return quantize_avx2;
#endif
  return quantize_baseline;
}

}  // namespace

float largest_quantizable(DType dtype) { return search_of(dtype).hi * kHalfMax; }

GroupScale quantize_group(const float* weights, int group_size, DType dtype, int8_t* quants) {
  static const QuantizeFunction function = choose_quantize();
  return function(weights, group_size, search_of(dtype), quants);
}

}  // namespace adapmoe
