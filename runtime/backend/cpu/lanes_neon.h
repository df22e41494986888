// SPDX-License-Identifier: Apache-2.0
// 16 lanes as four NEON registers. Included only by kernels_neon.cc, which is compiled for the
// dot-product extension (Cortex-A76 and later, Orin's A78AE among them).
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace adapmoe {

struct NeonLanes {
  float32x4_t v[4];  // lanes 0-3, 4-7, 8-11, 12-15

  struct Ints {
    int32x4_t v[4];
  };

  static constexpr int kMaxRows = 4;    // activation rows that share one pass over a block
  static constexpr int kMaxBlocks = 1;  // and blocks that share it

  static NeonLanes set1(float x) {
    const float32x4_t all = vdupq_n_f32(x);
    return {{all, all, all, all}};
  }
  static NeonLanes load(const float* p) {
    return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
  }
  static NeonLanes load(const uint16_t* half) {
    const float16x8_t a = vreinterpretq_f16_u16(vld1q_u16(half));
    const float16x8_t b = vreinterpretq_f16_u16(vld1q_u16(half + 8));
    return {{vcvt_f32_f16(vget_low_f16(a)), vcvt_high_f32_f16(a), vcvt_f32_f16(vget_low_f16(b)),
             vcvt_high_f32_f16(b)}};
  }
  void store(float* p) const {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v[i]);
  }
  void store_half(uint16_t* half) const {
    const float16x8_t a = vcvt_high_f16_f32(vcvt_f16_f32(v[0]), v[1]);
    const float16x8_t b = vcvt_high_f16_f32(vcvt_f16_f32(v[2]), v[3]);
    vst1q_u16(half, vreinterpretq_u16_f16(a));
    vst1q_u16(half + 8, vreinterpretq_u16_f16(b));
  }
  static NeonLanes add(NeonLanes x, NeonLanes y) {
    return map([&](int i) { return vaddq_f32(x.v[i], y.v[i]); });
  }
  static NeonLanes sub(NeonLanes x, NeonLanes y) {
    return map([&](int i) { return vsubq_f32(x.v[i], y.v[i]); });
  }
  static NeonLanes mul(NeonLanes x, NeonLanes y) {
    return map([&](int i) { return vmulq_f32(x.v[i], y.v[i]); });
  }
  static NeonLanes div(NeonLanes x, NeonLanes y) {
    return map([&](int i) { return vdivq_f32(x.v[i], y.v[i]); });
  }
  static NeonLanes fma(NeonLanes x, NeonLanes y, NeonLanes z) {
    return map([&](int i) { return vfmaq_f32(z.v[i], x.v[i], y.v[i]); });
  }
  // Compare and select: vminq and vmaxq treat NaN and -0 in their own way.
  static NeonLanes min(NeonLanes x, NeonLanes y) {
    return map([&](int i) { return vbslq_f32(vcltq_f32(x.v[i], y.v[i]), x.v[i], y.v[i]); });
  }
  static NeonLanes max(NeonLanes x, NeonLanes y) {
    return map([&](int i) { return larger(x.v[i], y.v[i]); });
  }
  static NeonLanes abs(NeonLanes x) {
    return map([&](int i) { return vabsq_f32(x.v[i]); });
  }
  static NeonLanes round(NeonLanes x) {
    return map([&](int i) { return vrndnq_f32(x.v[i]); });
  }
  static NeonLanes scale_by_power(NeonLanes x, NeonLanes n) {
    return map([&](int i) {
      const int32x4_t exponent = vshlq_n_s32(vcvtnq_s32_f32(n.v[i]), 23);
      return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x.v[i]), exponent));
    });
  }
  static NeonLanes to_float(Ints n) {
    return map([&](int i) { return vcvtq_f32_s32(n.v[i]); });
  }

  float sum() const {
    const float32x4_t s4 = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
    const float32x2_t s2 = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
    return vget_lane_f32(s2, 0) + vget_lane_f32(s2, 1);
  }
  // Of values that are not NaN: their maximum is the same in any order.
  float max_lane() const { return vmaxvq_f32(larger(larger(v[0], v[1]), larger(v[2], v[3]))); }
  int32_t store_int8(int8_t* p) const {
    int32x4_t q[4];
    for (int i = 0; i < 4; ++i) q[i] = vcvtnq_s32_f32(v[i]);
    const int16x8_t a = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
    const int16x8_t b = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
    const int8x16_t bytes = vcombine_s8(vmovn_s16(a), vmovn_s16(b));
    vst1q_s8(p, bytes);
    return vaddlvq_s8(bytes);
  }

  // Nibbles stay unsigned: 0 to 15 is non-negative as int8 too. The 16 activations of a step stay
  // in one register, from which vdotq_laneq takes four at a time.
  template <int R, int B>
  static void dot_int4(const uint8_t* const (&w)[B], int64_t ahead, int64_t cols,
                       const int8_t* const (&x)[R], const int32_t (&x_sum)[R], Ints (&sums)[R][B]) {
    static_assert(B == kMaxBlocks);
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < 4; ++i) sums[r][0].v[i] = vdupq_n_s32(-8 * x_sum[r]);
    }
    for (int64_t c = 0; c < cols; c += 16) {
      int8x16_t xs[R];
      for (int r = 0; r < R; ++r) xs[r] = vld1q_s8(x[r] + c);
      __builtin_prefetch(w[0] + c * 8 + ahead, 0, 2);
      __builtin_prefetch(w[0] + c * 8 + 64 + ahead, 0, 2);
      for (int i = 0; i < 4; ++i) {
        const uint8x16_t q0 = vld1q_u8(w[0] + c * 8 + i * 16);
        const uint8x16_t q1 = vld1q_u8(w[0] + c * 8 + 64 + i * 16);
        const int8x16_t low0 = vreinterpretq_s8_u8(vandq_u8(q0, vdupq_n_u8(15)));
        const int8x16_t high0 = vreinterpretq_s8_u8(vshrq_n_u8(q0, 4));
        const int8x16_t low1 = vreinterpretq_s8_u8(vandq_u8(q1, vdupq_n_u8(15)));
        const int8x16_t high1 = vreinterpretq_s8_u8(vshrq_n_u8(q1, 4));
        for (int r = 0; r < R; ++r) {
          int32x4_t& sum = sums[r][0].v[i];
          sum = vdotq_laneq_s32(sum, low0, xs[r], 0);
          sum = vdotq_laneq_s32(sum, high0, xs[r], 1);
          sum = vdotq_laneq_s32(sum, low1, xs[r], 2);
          sum = vdotq_laneq_s32(sum, high1, xs[r], 3);
        }
      }
    }
  }
  template <int R, int B>
  static void dot_int8(const int8_t* const (&w)[B], int64_t ahead, int64_t cols,
                       const int8_t* const (&x)[R], const int32_t (&)[R], Ints (&sums)[R][B]) {
    static_assert(B == kMaxBlocks);
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < 4; ++i) sums[r][0].v[i] = vdupq_n_s32(0);
    }
    for (int64_t c = 0; c < cols; c += 16) {
      int8x16_t xs[R];
      for (int r = 0; r < R; ++r) xs[r] = vld1q_s8(x[r] + c);
      for (int i = 0; i < 4; ++i) {
        const int8_t* p = w[0] + c * 16 + i * 16;
        __builtin_prefetch(w[0] + c * 16 + i * 64 + ahead, 0, 2);
        const int8x16_t w0 = vld1q_s8(p);
        const int8x16_t w1 = vld1q_s8(p + 64);
        const int8x16_t w2 = vld1q_s8(p + 128);
        const int8x16_t w3 = vld1q_s8(p + 192);
        for (int r = 0; r < R; ++r) {
          int32x4_t& sum = sums[r][0].v[i];
          sum = vdotq_laneq_s32(sum, w0, xs[r], 0);
          sum = vdotq_laneq_s32(sum, w1, xs[r], 1);
          sum = vdotq_laneq_s32(sum, w2, xs[r], 2);
          sum = vdotq_laneq_s32(sum, w3, xs[r], 3);
        }
      }
    }
  }

 private:
  template <typename F>
  static NeonLanes map(F f) {
    return {{f(0), f(1), f(2), f(3)}};
  }
  static float32x4_t larger(float32x4_t x, float32x4_t y) {
    return vbslq_f32(vcgtq_f32(x, y), x, y);
  }
};

}  // namespace adapmoe
