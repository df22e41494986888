// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "runtime/base/half.h"

struct __half {
  uint16_t bits;
};
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline uint16_t __half_as_ushort(__half half) { return half.bits; }
inline float __half2float(__half half) { return adapmoe::half_to_float(half.bits); }
inline __half __float2half_rn(float value) { return {adapmoe::float_to_half(value)}; }
