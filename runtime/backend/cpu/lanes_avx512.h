// SPDX-License-Identifier: Apache-2.0
// 16 lanes as one AVX-512 register, products by VNNI. Included only by kernels_avx512.cc, which is
// compiled for AVX-512 F, BW, DQ, VL and VNNI.
#pragma once
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push  // GCC 12 calls what its own intrinsics leave undefined uninitialized
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace adapmoe {

struct Avx512Lanes {
  __m512 v;

  struct Ints {
    __m512i v;
  };

  static constexpr int kMaxRows = 8;    // activation rows that share one pass over a block
  static constexpr int kMaxBlocks = 2;  // and blocks that share it

  static Avx512Lanes set1(float x) { return {_mm512_set1_ps(x)}; }
  static Avx512Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Avx512Lanes load(const uint16_t* half) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(half)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_half(uint16_t* half) const {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(half), _mm512_cvtps_ph(v, kNearest));
  }
  static Avx512Lanes add(Avx512Lanes x, Avx512Lanes y) { return {_mm512_add_ps(x.v, y.v)}; }
  static Avx512Lanes sub(Avx512Lanes x, Avx512Lanes y) { return {_mm512_sub_ps(x.v, y.v)}; }
  static Avx512Lanes mul(Avx512Lanes x, Avx512Lanes y) { return {_mm512_mul_ps(x.v, y.v)}; }
  static Avx512Lanes div(Avx512Lanes x, Avx512Lanes y) { return {_mm512_div_ps(x.v, y.v)}; }
  static Avx512Lanes fma(Avx512Lanes x, Avx512Lanes y, Avx512Lanes z) {
    return {_mm512_fmadd_ps(x.v, y.v, z.v)};
  }
  static Avx512Lanes min(Avx512Lanes x, Avx512Lanes y) { return {_mm512_min_ps(x.v, y.v)}; }
  static Avx512Lanes max(Avx512Lanes x, Avx512Lanes y) { return {_mm512_max_ps(x.v, y.v)}; }
  static Avx512Lanes abs(Avx512Lanes x) { return {_mm512_abs_ps(x.v)}; }
  static Avx512Lanes round(Avx512Lanes x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm512_roundscale_ps(x.v, kNearest)};
  }
  static Avx512Lanes scale_by_power(Avx512Lanes x, Avx512Lanes n) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x.v), exponent))};
  }
  static Avx512Lanes to_float(Ints i) { return {_mm512_cvtepi32_ps(i.v)}; }

  float sum() const {
    const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
  }
  float max_lane() const {
    const __m256 m8 = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
    const __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
    return _mm_cvtss_f32(_mm_max_ss(m2, _mm_shuffle_ps(m2, m2, 1)));
  }
  int32_t store_int8(int8_t* p) const {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
    const __m128i ones = _mm_set1_epi8(1);
    __m128i s = _mm_dpbusd_epi32(_mm_setzero_si128(), ones, bytes);
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
  }

  // VNNI multiplies unsigned by signed: nibbles are unsigned, their offset of 8 comes off at once.
  template <int R, int B>
  static void dot_int4(const uint8_t* const (&w)[B], int64_t ahead, int64_t cols,
                       const int8_t* const (&x)[R], const int32_t (&x_sum)[R], Ints (&sums)[R][B]) {
    const __m512i low = _mm512_set1_epi8(15);
    begin(-8, x_sum, sums);
    each<B, 8>(cols, [&](int64_t c) {
      __m512i q0[B];
      __m512i q1[B];
      for (int b = 0; b < B; ++b) {
        const __m512i q = fetch(w[b] + c * 8, ahead);
        q0[b] = _mm512_and_si512(q, low);
        q1[b] = _mm512_and_si512(_mm512_srli_epi16(q, 4), low);
      }
      for (int r = 0; r < R; ++r) add(q0, broadcast4(x[r] + c), sums[r]);
      for (int r = 0; r < R; ++r) add(q1, broadcast4(x[r] + c + 4), sums[r]);
    });
  }
  // A signed weight plus 128 is unsigned: its sign bit flipped.
  template <int R, int B>
  static void dot_int8(const int8_t* const (&w)[B], int64_t ahead, int64_t cols,
                       const int8_t* const (&x)[R], const int32_t (&x_sum)[R], Ints (&sums)[R][B]) {
    const __m512i sign = _mm512_set1_epi8(-128);
    begin(-128, x_sum, sums);
    each<B, 4>(cols, [&](int64_t c) {
      __m512i q[B];
      for (int b = 0; b < B; ++b) q[b] = _mm512_xor_si512(fetch(w[b] + c * 16, ahead), sign);
      for (int r = 0; r < R; ++r) add(q, broadcast4(x[r] + c), sums[r]);
    });
  }

 private:
  // Unrolled where computing is the limit. Where memory is, fetches in bursts would cost a tenth.
  template <int B, int kStep, typename Body>
  static void each(int64_t cols, const Body& body) {
    if constexpr (B == 1) {
      for (int64_t c = 0; c < cols; c += kStep) body(c);
    } else {
#pragma GCC unroll 4
      for (int64_t c = 0; c < cols; c += kStep) body(c);
    }
  }
  static __m512i fetch(const void* p, int64_t ahead) {
    __builtin_prefetch(static_cast<const std::byte*>(p) + ahead, 0, 2);
    return _mm512_loadu_si512(p);
  }
  template <int R, int B>
  static void begin(int32_t offset, const int32_t (&x_sum)[R], Ints (&sums)[R][B]) {
    for (int r = 0; r < R; ++r) {
      const __m512i all = _mm512_set1_epi32(offset * x_sum[r]);
      for (int b = 0; b < B; ++b) sums[r][b].v = all;
    }
  }
  template <int B>
  static void add(const __m512i (&q)[B], __m512i x, Ints (&sums)[B]) {
    for (int b = 0; b < B; ++b) sums[b].v = _mm512_dpbusd_epi32(sums[b].v, q[b], x);
  }
  static __m512i broadcast4(const int8_t* p) {
    int32_t four = 0;
    std::memcpy(&four, p, 4);
    return _mm512_set1_epi32(four);
  }
};

}  // namespace adapmoe
