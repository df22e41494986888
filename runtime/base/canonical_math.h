// SPDX-License-Identifier: Apache-2.0
// exp and the sine/cosine pair, written once so that every path gives the same bits. Only IEEE
// operations and explicit fma.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "runtime/base/device_code.h"

namespace adapmoe {

// One float with the interface of the kernels' 16-lane vectors (backend/cpu/lanes_*.h).
struct Lane1 {
  float v;
  ADAPMOE_HOST_DEVICE static Lane1 set1(float x) { return {x}; }
  ADAPMOE_HOST_DEVICE static Lane1 mul(Lane1 a, Lane1 b) { return {a.v * b.v}; }
  ADAPMOE_HOST_DEVICE static Lane1 fma(Lane1 a, Lane1 b, Lane1 c) {
    return {std::fma(a.v, b.v, c.v)};
  }
  ADAPMOE_HOST_DEVICE static Lane1 min(Lane1 a, Lane1 b) { return {a.v < b.v ? a.v : b.v}; }
  ADAPMOE_HOST_DEVICE static Lane1 max(Lane1 a, Lane1 b) { return {a.v > b.v ? a.v : b.v}; }
  ADAPMOE_HOST_DEVICE static Lane1 round(Lane1 a) { return {std::nearbyintf(a.v)}; }
  // x * 2^n for integral n with a normal result.
  ADAPMOE_HOST_DEVICE static Lane1 scale_by_power(Lane1 x, Lane1 n) {
    int32_t bits = 0;
    std::memcpy(&bits, &x.v, 4);
    bits += static_cast<int32_t>(n.v) * (1 << 23);
    std::memcpy(&x.v, &bits, 4);
    return x;
  }
};

// e^x, within 1 ulp for x in [-87, 88]; clamped outside. Cody-Waite reduction, then the degree-6
// polynomial of least relative error on [-ln2/2, ln2/2] that begins 1 + r + r^2/2.
template <typename L>
ADAPMOE_HOST_DEVICE inline L exp_lanes(L x) {
  x = L::min(L::max(x, L::set1(-87.0F)), L::set1(88.0F));
  const L n = L::round(L::mul(x, L::set1(1.44269504F)));
  L r = L::fma(n, L::set1(-0.693359375F), x);
  r = L::fma(n, L::set1(2.12194440e-4F), r);
  L p = L::set1(1.38637563e-3F);
  p = L::fma(p, r, L::set1(8.36750958e-3F));
  p = L::fma(p, r, L::set1(4.16672379e-2F));
  p = L::fma(p, r, L::set1(1.66665345e-1F));
  p = L::fma(p, r, L::set1(0.5F));
  p = L::fma(p, r, L::set1(1.0F));
  p = L::fma(p, r, L::set1(1.0F));
  return L::scale_by_power(p, n);
}

ADAPMOE_HOST_DEVICE inline float canonical_exp(float x) { return exp_lanes(Lane1{x}).v; }

// sin and cos of an angle in radians, |angle| < 2^30. Double precision inside, so the float results
// are correctly rounded in all but rare cases. Taylor series on [-pi/4, pi/4].
ADAPMOE_HOST_DEVICE inline void canonical_sincos(float angle, float* sine, float* cosine) {
  const double x = static_cast<double>(angle);
  const double n = std::nearbyint(x * 0.63661977236758134308);  // quarter turns
  double r = std::fma(n, -1.57079632673412561417, x);           // pi/2 in two parts
  r = std::fma(n, -6.07710050650619224932e-11, r);
  const double z = r * r;
  double s = -1.0 / 1307674368000.0;
  s = std::fma(s, z, 1.0 / 6227020800.0);
  s = std::fma(s, z, -1.0 / 39916800.0);
  s = std::fma(s, z, 1.0 / 362880.0);
  s = std::fma(s, z, -1.0 / 5040.0);
  s = std::fma(s, z, 1.0 / 120.0);
  s = std::fma(s, z, -1.0 / 6.0);
  s = std::fma(s * z, r, r);
  double c = 1.0 / 20922789888000.0;
  c = std::fma(c, z, -1.0 / 87178291200.0);
  c = std::fma(c, z, 1.0 / 479001600.0);
  c = std::fma(c, z, -1.0 / 3628800.0);
  c = std::fma(c, z, 1.0 / 40320.0);
  c = std::fma(c, z, -1.0 / 720.0);
  c = std::fma(c, z, 1.0 / 24.0);
  c = std::fma(c, z, -0.5);
  c = std::fma(c, z, 1.0);
  const auto quadrant = static_cast<int64_t>(n) & 3;
  const double sin_q = (quadrant & 1) != 0 ? c : s;
  const double cos_q = (quadrant & 1) != 0 ? s : c;
  *sine = static_cast<float>((quadrant & 2) != 0 ? -sin_q : sin_q);
  *cosine = static_cast<float>(quadrant == 1 || quadrant == 2 ? -cos_q : cos_q);
}

}  // namespace adapmoe
