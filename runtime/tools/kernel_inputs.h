// SPDX-License-Identifier: Apache-2.0
// Pseudo-random inputs that are the same on every machine: integers only, floats made from bits.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

namespace adapmoe {

// SplitMix64: a counter and a mixing function of 64 bits.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    state_ += 0x9e3779b97f4a7c15U;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }
  // Uniform in [low, high] but for a bias far below what matters here.
  int64_t between(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1));
  }
  // Either sign, 2^low <= |value| < 2^(high + 1); an exponent below -126 gives a subnormal.
  float between_powers(int low, int high) {
    const int64_t exponent = between(low, high) + 127;
    const auto mantissa = static_cast<uint32_t>(next() & 0x7fffffU);
    const auto field = static_cast<uint32_t>(exponent > 0 ? exponent : 0);
    const auto sign = static_cast<uint32_t>(next() & 1U);
    return std::bit_cast<float>(sign << 31 | field << 23 | mantissa);
  }

 private:
  uint64_t state_;
};

// What a row of activations may look like.
enum class Spread : uint8_t {
  kPlain,      // around 1
  kWide,       // from subnormal to 2^55: two of them multiply and add up without overflow
  kSubnormal,  // nothing else
  kHuge,       // near the largest float
  kTies,       // halves between integers, with 127 the largest: rounding to even shows
  kZero,       // zeros of both signs
};

inline constexpr Spread kFiniteSpreads[] = {Spread::kPlain, Spread::kWide, Spread::kSubnormal,
                                            Spread::kHuge,  Spread::kTies, Spread::kZero};

inline float draw(Random& random, Spread spread) {
  switch (spread) {
    case Spread::kPlain: return random.between_powers(-4, 2);
    case Spread::kWide: return random.between_powers(-140, 54);
    case Spread::kSubnormal: return random.between_powers(-127, -127);
    case Spread::kHuge: return random.between_powers(120, 126);
    case Spread::kTies:
      return random.between(0, 7) == 0 ? 127.0F
                                       : static_cast<float>(random.between(-127, 126)) + 0.5F;
    case Spread::kZero: return random.between(0, 1) == 0 ? 0.0F : -0.0F;
  }
  return 0.0F;
}

inline std::vector<float> draw(Random& random, Spread spread, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = draw(random, spread);
  return values;
}

// Infinities and NaN of several payloads, both signs.
inline constexpr uint32_t kNotFinite[] = {0x7f800000U, 0xff800000U, 0x7fc00000U, 0xffc00000U,
                                          0x7f800001U, 0xff801000U, 0x7fffffffU, 0xffdabcdeU};

}  // namespace adapmoe
