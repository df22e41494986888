// SPDX-License-Identifier: Apache-2.0
// 16 lanes as two AVX2 registers. Included only by kernels_avx2.cc, which is compiled for AVX2, FMA
// and F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace adapmoe {

struct Avx2Lanes {
  __m256 a, b;  // lanes 0-7, 8-15

  struct Ints {
    __m256i a, b;
  };

  static constexpr int kMaxRows = 4;    // activation rows that share one pass over a block
  static constexpr int kMaxBlocks = 1;  // and blocks that share it

  static Avx2Lanes set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Avx2Lanes load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Avx2Lanes load(const uint16_t* half) {
    const auto* p = reinterpret_cast<const __m128i*>(half);
    return {_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128(p + 1))};
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  void store_half(uint16_t* half) const {
    auto* p = reinterpret_cast<__m128i*>(half);
    _mm_storeu_si128(p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128(p + 1, _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  static Avx2Lanes add(Avx2Lanes x, Avx2Lanes y) {
    return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
  }
  static Avx2Lanes sub(Avx2Lanes x, Avx2Lanes y) {
    return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
  }
  static Avx2Lanes mul(Avx2Lanes x, Avx2Lanes y) {
    return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
  }
  static Avx2Lanes div(Avx2Lanes x, Avx2Lanes y) {
    return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
  }
  static Avx2Lanes fma(Avx2Lanes x, Avx2Lanes y, Avx2Lanes z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static Avx2Lanes min(Avx2Lanes x, Avx2Lanes y) {
    return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
  }
  static Avx2Lanes max(Avx2Lanes x, Avx2Lanes y) {
    return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
  }
  static Avx2Lanes abs(Avx2Lanes x) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
  }
  static Avx2Lanes round(Avx2Lanes x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, kNearest), _mm256_round_ps(x.b, kNearest)};
  }
  static Avx2Lanes scale_by_power(Avx2Lanes x, Avx2Lanes n) {
    return {scale_by_power(x.a, n.a), scale_by_power(x.b, n.b)};
  }
  static Avx2Lanes to_float(Ints i) { return {_mm256_cvtepi32_ps(i.a), _mm256_cvtepi32_ps(i.b)}; }

  float sum() const {
    const __m256 s8 = _mm256_add_ps(a, b);
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
  }
  float max_lane() const {
    const __m256 m8 = _mm256_max_ps(a, b);
    const __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
    const __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
    return _mm_cvtss_f32(_mm_max_ss(m2, _mm_shuffle_ps(m2, m2, 1)));
  }
  int32_t store_int8(int8_t* p) const {
    const __m256i words = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)), 0xD8);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
    const __m256i pairs = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
  }

  // A 32-column run accumulates in int16: 8 products of at most 15 * 127 * 2 stay below 2^15.
  template <int R, int B>
  static void dot_int4(const uint8_t* const (&w)[B], int64_t ahead, int64_t cols,
                       const int8_t* const (&x)[R], const int32_t (&x_sum)[R], Ints (&sums)[R][B]) {
    static_assert(B == kMaxBlocks);
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i ones = _mm256_set1_epi16(1);
    for (int r = 0; r < R; ++r) {
      sums[r][0].a = sums[r][0].b = _mm256_set1_epi32(-8 * x_sum[r]);
    }
    for (int64_t run = 0; run < cols; run += 32) {
      __m256i words_a[R];
      __m256i words_b[R];
      for (int r = 0; r < R; ++r) words_a[r] = words_b[r] = _mm256_setzero_si256();
      for (int64_t c = run; c < run + 32; c += 8) {
        __builtin_prefetch(w[0] + c * 8 + ahead, 0, 2);
        const __m256i qa = load(w[0] + c * 8);
        const __m256i qb = load(w[0] + c * 8 + 32);
        const __m256i low_a = _mm256_and_si256(qa, low);
        const __m256i low_b = _mm256_and_si256(qb, low);
        const __m256i high_a = _mm256_and_si256(_mm256_srli_epi16(qa, 4), low);
        const __m256i high_b = _mm256_and_si256(_mm256_srli_epi16(qb, 4), low);
        for (int r = 0; r < R; ++r) {
          const __m256i x0 = broadcast4(x[r] + c);
          const __m256i x1 = broadcast4(x[r] + c + 4);
          words_a[r] = _mm256_add_epi16(words_a[r], _mm256_maddubs_epi16(low_a, x0));
          words_b[r] = _mm256_add_epi16(words_b[r], _mm256_maddubs_epi16(low_b, x0));
          words_a[r] = _mm256_add_epi16(words_a[r], _mm256_maddubs_epi16(high_a, x1));
          words_b[r] = _mm256_add_epi16(words_b[r], _mm256_maddubs_epi16(high_b, x1));
        }
      }
      for (int r = 0; r < R; ++r) {
        sums[r][0].a = _mm256_add_epi32(sums[r][0].a, _mm256_madd_epi16(words_a[r], ones));
        sums[r][0].b = _mm256_add_epi32(sums[r][0].b, _mm256_madd_epi16(words_b[r], ones));
      }
    }
  }
  // |w| * sign(x, w): unsigned times signed, two products of at most 127 * 127 fit int16.
  template <int R, int B>
  static void dot_int8(const int8_t* const (&w)[B], int64_t ahead, int64_t cols,
                       const int8_t* const (&x)[R], const int32_t (&)[R], Ints (&sums)[R][B]) {
    static_assert(B == kMaxBlocks);
    const __m256i ones = _mm256_set1_epi16(1);
    for (int r = 0; r < R; ++r) sums[r][0].a = sums[r][0].b = _mm256_setzero_si256();
    for (int64_t c = 0; c < cols; c += 4) {
      __builtin_prefetch(w[0] + c * 16 + ahead, 0, 2);
      const __m256i wa = load(w[0] + c * 16);
      const __m256i wb = load(w[0] + c * 16 + 32);
      const __m256i abs_a = _mm256_abs_epi8(wa);
      const __m256i abs_b = _mm256_abs_epi8(wb);
      for (int r = 0; r < R; ++r) {
        const __m256i xs = broadcast4(x[r] + c);
        const __m256i pa = _mm256_maddubs_epi16(abs_a, _mm256_sign_epi8(xs, wa));
        const __m256i pb = _mm256_maddubs_epi16(abs_b, _mm256_sign_epi8(xs, wb));
        sums[r][0].a = _mm256_add_epi32(sums[r][0].a, _mm256_madd_epi16(pa, ones));
        sums[r][0].b = _mm256_add_epi32(sums[r][0].b, _mm256_madd_epi16(pb, ones));
      }
    }
  }

 private:
  static __m256 scale_by_power(__m256 x, __m256 n) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), exponent));
  }
  static __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static __m256i broadcast4(const int8_t* p) {
    int32_t four = 0;
    std::memcpy(&four, p, 4);
    return _mm256_set1_epi32(four);
  }
};

}  // namespace adapmoe
