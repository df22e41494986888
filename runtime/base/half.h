// SPDX-License-Identifier: Apache-2.0
// IEEE binary16 <-> binary32. Integer arithmetic only, so every machine and rounding mode agrees.
#pragma once
#include <bit>
#include <cstdint>

#include "runtime/base/device_code.h"

namespace adapmoe {

inline constexpr float kHalfMax = 65504.0f;                         // largest finite half
inline constexpr float kHalfMinSubnormal = 5.9604644775390625e-8f;  // 2^-24, smallest positive half

// Exact for every half, subnormals included. NaN payloads keep their top bits.
ADAPMOE_HOST_DEVICE inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1fu) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  }
  if (mantissa == 0) return std::bit_cast<float>(sign);
  // Subnormal: shift the leading one up to the implicit place.
  const uint32_t shift = static_cast<uint32_t>(std::countl_zero(mantissa)) - 21u;
  mantissa = (mantissa << shift) & 0x3ffu;
  return std::bit_cast<float>(sign | ((113u - shift) << 23) | (mantissa << 13));
}

// Round to nearest, ties to even. Overflow gives infinity, NaN stays a (quiet) NaN.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x47800000u) {  // at least 2^16, infinity or NaN
    const bool is_nan = magnitude > 0x7f800000u;
    const uint32_t payload = is_nan ? 0x200u | ((magnitude >> 13) & 0x3ffu) : 0u;
    return static_cast<uint16_t>(sign | 0x7c00u | payload);
  }
  if (magnitude >= 0x38800000u) {  // a normal half: drop 13 bits; a carry may reach infinity
    const uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
  }
  if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);  // below half of 2^-24
  // Subnormal half: the 24-bit significand in units of 2^-24.
  const uint32_t shift = 126u - (magnitude >> 23);
  const uint32_t significand = 0x800000u | (magnitude & 0x7fffffu);
  const uint32_t quotient = significand >> shift;
  const uint32_t remainder = significand & ((1u << shift) - 1u);
  const uint32_t halfway = 1u << (shift - 1u);
  const uint32_t up = (remainder > halfway || (remainder == halfway && (quotient & 1u))) ? 1u : 0u;
  return static_cast<uint16_t>(sign | (quotient + up));
}

}  // namespace adapmoe
