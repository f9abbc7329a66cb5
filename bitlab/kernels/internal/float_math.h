// Functions of F32x16, by + - * /, comparison and selection alone, so that every instruction set gives the same bits. NaN stays
// NaN.
//
// Largest errors, in units in the last place of the exact result, as tested: exp 2, sigmoid 4, tanh 4, normal_cdf 4 for x >= -1 and 80 in
// its lower tail (there it is e^(-x^2 / 2), whose exponent is rounded). Polynomials: minimax fits of the ranges that their comments name.
#pragma once

#include "bitlab/kernels/internal/simd.h"

namespace bitlab::kernels {
namespace {

// sum of c[i] x^i, by Horner's rule.
template <int kCount>
BITLAB_ALWAYS_INLINE F32x16 polynomial(const float (&c)[kCount], const F32x16& x) {
  F32x16 y = c[kCount - 1];
  _Pragma("GCC unroll 8") for (int i = kCount - 2; i >= 0; --i) y = y * x + c[i];
  return y;
}

BITLAB_ALWAYS_INLINE F32x16 magnitude(const F32x16& x) { return select(x < 0.0F, -x, x); }

// 2^n for -126 <= n <= 127, by its bits.
BITLAB_ALWAYS_INLINE F32x16 power_of_two(const I32x16& n) {
  F32x16 y;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) {
    const IntRegister bits = (n.part[i] + 127) << 23;
    std::memcpy(&y.part[i], &bits, sizeof(bits));
  }
  return y;
}

// e^x; 0 below -87.3, infinity above 88.72.
BITLAB_ALWAYS_INLINE F32x16 exp(const F32x16& x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2. ln 2 is split so that n * kLn2High is exact (Cody and Waite); the polynomial is the
  // Taylor series to r^7, whose remainder is below 2^-24 relative on that interval.
  constexpr float kLog2e = 1.44269504F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kSmallest = -87.3F, kLargest = 88.7228317F;
  constexpr float kRoundToInteger = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kTaylor[] = {1.0F, 1.0F, 0.5F, 1.0F / 6.0F, 1.0F / 24.0F, 1.0F / 120.0F, 1.0F / 720.0F, 1.0F / 5040.0F};
  F32x16 inside = select(x > kSmallest, x, kSmallest);  // NaN becomes a number
  inside = select(inside < kLargest, inside, kLargest);
  const F32x16 n = (inside * kLog2e + kRoundToInteger) - kRoundToInteger;
  const F32x16 r = (inside - n * kLn2High) - n * kLn2Low;
  const F32x16 half = (n * 0.5F + kRoundToInteger) - kRoundToInteger;  // two factors: 2^128 is no float
  F32x16 y = (polynomial(kTaylor, r) * power_of_two(to_int(half))) * power_of_two(to_int(n - half));
  y = select(x < kSmallest, 0.0F, y);
  y = select(x > kLargest, __builtin_inff(), y);
  return select(x == x, y, x);
}

BITLAB_ALWAYS_INLINE F32x16 sigmoid(const F32x16& x) {
  const F32x16 e = exp(-magnitude(x));
  const F32x16 above = F32x16(1.0F) / (e + 1.0F);
  return select(x < 0.0F, e * above, above);
}

BITLAB_ALWAYS_INLINE F32x16 tanh(const F32x16& x) {
  constexpr float kInner = 0.625F;  // below it (tanh x - x) / x^3 as a polynomial in x^2, above it by e^2|x|
  constexpr float kTanh[] = {-0.333332819F, 0.133314422F, -0.0537397148F, 0.0206390866F, -0.00570498633F};
  const F32x16 size = magnitude(x), square = x * x;
  const F32x16 inner = x * (polynomial(kTanh, square) * square + 1.0F);
  const F32x16 outer = F32x16(1.0F) - F32x16(2.0F) / (exp(size + size) + 1.0F);
  return select(size < kInner, inner, select(x < 0.0F, -outer, outer));
}

// (1 + erf(x / sqrt 2)) / 2: the part of a normal distribution below x.
BITLAB_ALWAYS_INLINE F32x16 normal_cdf(const F32x16& x) {
  constexpr float kRootHalf = 0.707106781F, kSpread = 0.3275911F;
  // erf(u) / u as a polynomial in u^2 for u <= 1; erfc(u) e^(u^2) / t as one in t = 1 / (1 + kSpread u) for 1 <= u <= 10.
  constexpr float kErf[] = {1.12837917F,    -0.376126258F,    0.112835851F,   -0.0268538119F,
                            0.00518832767F, -0.000801019351F, 7.85386097e-05F};
  constexpr float kErfc[] = {0.184833149F, 0.18464305F,    0.176272379F, 0.149936588F,  0.135032561F,
                             0.101021654F, 0.00435702124F, 0.125860677F, -0.0620130757F};
  const F32x16 u = x * kRootHalf, size = magnitude(u);
  const F32x16 inner = (u * polynomial(kErf, u * u)) * 0.5F + 0.5F;
  const F32x16 t = F32x16(1.0F) / (size * kSpread + 1.0F);
  const F32x16 tail = (exp((x * x) * -0.5F) * 0.5F) * (t * polynomial(kErfc, t));
  return select(size > 1.0F, select(x < 0.0F, tail, F32x16(1.0F) - tail), inner);
}

}  // namespace
}  // namespace bitlab::kernels
