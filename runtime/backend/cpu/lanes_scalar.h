// SPDX-License-Identifier: Apache-2.0
// 16 lanes in plain C++: the reference that every other lanes_*.h must equal bit for bit.
#pragma once
#include <cmath>
#include <cstdint>

#include "runtime/base/canonical_math.h"  // Lane1
#include "runtime/base/half.h"

namespace adapmoe {

struct ScalarLanes {
  float v[16];

  struct Ints {
    int32_t v[16];
  };

  static constexpr int kMaxRows = 4;    // activation rows that share one pass over a block
  static constexpr int kMaxBlocks = 1;  // and blocks that share it

  template <typename F>
  static ScalarLanes map(F f) {
    ScalarLanes out;
    for (int i = 0; i < 16; ++i) out.v[i] = f(i);
    return out;
  }
  static ScalarLanes set1(float x) {
    return map([&](int) { return x; });
  }
  static ScalarLanes load(const float* p) {
    return map([&](int i) { return p[i]; });
  }
  static ScalarLanes load(const uint16_t* half) {
    return map([&](int i) { return half_to_float(half[i]); });
  }
  void store(float* p) const {
    for (int i = 0; i < 16; ++i) p[i] = v[i];
  }
  void store_half(uint16_t* p) const {
    for (int i = 0; i < 16; ++i) p[i] = float_to_half(v[i]);
  }
  static ScalarLanes add(const ScalarLanes& a, const ScalarLanes& b) {
    return map([&](int i) { return a.v[i] + b.v[i]; });
  }
  static ScalarLanes sub(const ScalarLanes& a, const ScalarLanes& b) {
    return map([&](int i) { return a.v[i] - b.v[i]; });
  }
  static ScalarLanes mul(const ScalarLanes& a, const ScalarLanes& b) {
    return map([&](int i) { return a.v[i] * b.v[i]; });
  }
  static ScalarLanes div(const ScalarLanes& a, const ScalarLanes& b) {
    return map([&](int i) { return a.v[i] / b.v[i]; });
  }
  static ScalarLanes fma(const ScalarLanes& a, const ScalarLanes& b, const ScalarLanes& c) {
    return map([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
  }
  static ScalarLanes min(const ScalarLanes& a, const ScalarLanes& b) {
    return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static ScalarLanes max(const ScalarLanes& a, const ScalarLanes& b) {
    return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static ScalarLanes abs(const ScalarLanes& a) {
    return map([&](int i) { return std::fabs(a.v[i]); });
  }
  static ScalarLanes round(const ScalarLanes& a) {
    return map([&](int i) { return std::nearbyintf(a.v[i]); });
  }
  static ScalarLanes scale_by_power(const ScalarLanes& x, const ScalarLanes& n) {
    return map([&](int i) { return Lane1::scale_by_power({x.v[i]}, {n.v[i]}).v; });
  }
  static ScalarLanes to_float(const Ints& a) {
    return map([&](int i) { return static_cast<float>(a.v[i]); });
  }
  // The fixed tree: lane i + lane i+8, then i+4, i+2, i+1.
  float sum() const {
    float s[16];
    for (int i = 0; i < 16; ++i) s[i] = v[i];
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) s[i] += s[i + half];
    }
    return s[0];
  }
  float max_lane() const {
    float m = v[0];
    for (int i = 1; i < 16; ++i) m = m > v[i] ? m : v[i];
    return m;
  }
  // Rounded to nearest even and stored as int8; values are within +-127. Returns their sum.
  int32_t store_int8(int8_t* p) const {
    int32_t total = 0;
    for (int i = 0; i < 16; ++i) {
      p[i] = static_cast<int8_t>(std::nearbyintf(v[i]));
      total += p[i];
    }
    return total;
  }

  // sums[r][b] = sum over `cols` of (nibble - 8) * x[r], with x_sum[r] = sum of x[r]; what lies
  // `ahead` bytes further in w is fetched meanwhile.
  template <int R, int B>
  static void dot_int4(const uint8_t* const (&w)[B], int64_t /*ahead*/, int64_t cols,
                       const int8_t* const (&x)[R], const int32_t (&x_sum)[R], Ints (&sums)[R][B]) {
    static_assert(B == kMaxBlocks);
    for (int r = 0; r < R; ++r) {
      for (int64_t lane = 0; lane < 16; ++lane) {
        int32_t total = 0;
        for (int64_t c = 0; c < cols; c += 8) {
          for (int j = 0; j < 4; ++j) {
            const uint8_t byte = w[0][c * 8 + lane * 4 + j];
            total += (byte & 15) * x[r][c + j] + (byte >> 4) * x[r][c + 4 + j];
          }
        }
        sums[r][0].v[lane] = total - 8 * x_sum[r];
      }
    }
  }
  template <int R, int B>
  static void dot_int8(const int8_t* const (&w)[B], int64_t /*ahead*/, int64_t cols,
                       const int8_t* const (&x)[R], const int32_t (&)[R], Ints (&sums)[R][B]) {
    static_assert(B == kMaxBlocks);
    for (int r = 0; r < R; ++r) {
      for (int64_t lane = 0; lane < 16; ++lane) {
        int32_t total = 0;
        for (int64_t c = 0; c < cols; c += 4) {
          for (int j = 0; j < 4; ++j) total += w[0][c * 16 + lane * 4 + j] * x[r][c + j];
        }
        sums[r][0].v[lane] = total;
      }
    }
  }
};

}  // namespace adapmoe
