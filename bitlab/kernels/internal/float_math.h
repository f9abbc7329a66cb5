// Functions of F32x16, by + - * / sqrt, comparison, selection and bits alone, so that every instruction set gives the same bits. NaN stays
// NaN.
//
// Largest errors, in units in the last place of the exact result, as tested: exp 2, expm1 5, log 2, log1p 4, sigmoid 4, tanh 4, erf 4, erfinv 6, atan2 3, normal_cdf 4
// for x >= -1 and 80 in its lower tail (there it is e^(-x^2 / 2), whose exponent is rounded). sin and cos: 2^-22 at most, up to |x| = 2^16.
// Polynomials: minimax fits of the ranges that their comments name.
#pragma once

#if defined(__CUDACC__) || defined(BITLAB_ONE_LANE)  // of a CUDA device's kernels, and of those that the host runs
#include "bitlab/kernels/internal/lane.h"
#else
#include "bitlab/kernels/internal/simd.h"
#endif

namespace bitlab::kernels {
namespace {

// sum of c[i] x^i, by Horner's rule.
template <int kCount>
BITLAB_ALWAYS_INLINE F32x16 polynomial(const float (&c)[kCount], const F32x16& x) {
  F32x16 y = c[kCount - 1];
  BITLAB_UNROLL_LANES for (int i = kCount - 2; i >= 0; --i) y = y * x + c[i];
  return y;
}

BITLAB_ALWAYS_INLINE F32x16 magnitude(const F32x16& x) { return select(x < 0.0F, -x, x); }

inline constexpr int32_t kSignBit = INT32_MIN;
BITLAB_ALWAYS_INLINE F32x16 absolute(const F32x16& x) { return merge_bits(kSignBit, 0.0F, x); }  // of -0, too
BITLAB_ALWAYS_INLINE F32x16 with_sign_of(const F32x16& sign, const F32x16& x) { return merge_bits(kSignBit, sign, x); }

// To the nearest whole number, halves to even; keeps the sign of zero.
BITLAB_ALWAYS_INLINE F32x16 round(const F32x16& x) {
  constexpr float kWhole = 8388608.0F;  // 2^23: from here on floats are whole
  const F32x16 size = absolute(x);
  return with_sign_of(x, select(size < kWhole, (size + kWhole) - kWhole, size));
}

BITLAB_ALWAYS_INLINE F32x16 floor(const F32x16& x) {
  const F32x16 nearest = round(x);
  return with_sign_of(x, absolute(select(nearest > x, nearest - 1.0F, nearest)));
}

// 2^n for -126 <= n <= 127, by its bits.
BITLAB_ALWAYS_INLINE F32x16 power_of_two(const I32x16& n) {
  F32x16 y;
  BITLAB_UNROLL_LANES for (int i = 0; i < kRegisters; ++i) {
    const IntRegister bits = (n.part[i] + 127) << 23;
    std::memcpy(&y.part[i], &bits, sizeof(bits));
  }
  return y;
}

// e^x; 0 below -87.3, infinity above 88.72. `kNegative`: x is at most 0, so that the same bits cost a third less.
template <bool kNegative = false>
BITLAB_INLINE_IF_FAST F32x16 exp(F32x16 x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2. ln 2 is split so that n * kLn2High is exact (Cody and Waite); the polynomial is the
  // Taylor series to r^7, whose remainder is below 2^-24 relative on that interval.
  constexpr float kLog2e = 1.44269504F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kSmallest = -87.3F, kLargest = 88.7228317F;
  constexpr float kRoundToInteger = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  constexpr float kTaylor[] = {1.0F, 1.0F, 0.5F, 1.0F / 6.0F, 1.0F / 24.0F, 1.0F / 120.0F, 1.0F / 720.0F, 1.0F / 5040.0F};
  F32x16 inside = larger(x, kSmallest);  // NaN becomes a number
  if constexpr (!kNegative) inside = select(inside < kLargest, inside, kLargest);
  const F32x16 n = (inside * kLog2e + kRoundToInteger) - kRoundToInteger;
  const F32x16 r = (inside - n * kLn2High) - n * kLn2Low;
  F32x16 y = polynomial(kTaylor, r);
  if constexpr (kNegative) {
    y = y * power_of_two(to_int(n));
  } else {
    const F32x16 half = (n * 0.5F + kRoundToInteger) - kRoundToInteger;  // two factors: 2^128 is no float
    y = (y * power_of_two(to_int(half))) * power_of_two(to_int(n - half));
    y = select(x > kLargest, __builtin_inff(), y);
  }
  y = select(x < kSmallest, 0.0F, y);
  return select(x == x, y, x);
}

// e^x - 1: Taylor's series to x^9 where it would cancel.
BITLAB_ALWAYS_INLINE F32x16 expm1(const F32x16& x) {
  constexpr float kInner = 0.4F;
  constexpr float kTaylor[] = {0.5F,          1.0F / 6.0F,    1.0F / 24.0F,    1.0F / 120.0F,
                               1.0F / 720.0F, 1.0F / 5040.0F, 1.0F / 40320.0F, 1.0F / 362880.0F};
  return select(absolute(x) < kInner, x + (x * x) * polynomial(kTaylor, x), exp(x) - 1.0F);
}

// The natural logarithm; -infinity at 0, NaN below. x = 2^e m with m in [sqrt(1/2), sqrt(2)); the polynomial is that of logf in the Cephes library
// (S. Moshier, 1984-2000).
BITLAB_INLINE_IF_FAST F32x16 log(F32x16 x) {
  constexpr float kLeastNormal = 1.17549435e-38F, kRootHalf = 0.707106781F, kLn2High = 0.693359375F,
                  kLn2Low = -2.12194440e-4F;
  constexpr float kLog[] = {3.3333331174e-1F,  -2.4999993993e-1F, 2.0000714765e-1F,  -1.6668057665e-1F, 1.4249322787e-1F,
                            -1.2420140846e-1F, 1.1676998740e-1F,  -1.1514610310e-1F, 7.0376836292e-2F};
  const Mask16 is_small = x < kLeastNormal;
  const F32x16 scaled = select(is_small, x * 8388608.0F, x);  // 2^23, of denormals
  I32x16 exponent = bits_of(scaled);
  for (auto& part : exponent.part) part = ((part >> 23) & 0xFF) - 126;
  F32x16 e = to_float(exponent) - select(is_small, 23.0F, 0.0F);
  F32x16 m = merge_bits(0x007FFFFF, scaled, 0.5F);  // in [0.5, 1)
  const Mask16 is_low = m < kRootHalf;
  e = select(is_low, e - 1.0F, e);
  const F32x16 r = select(is_low, m + m, m) - 1.0F, square = r * r;
  F32x16 y = r * square * polynomial(kLog, r);
  y = (y + e * kLn2Low) - square * 0.5F;
  y = (r + y) + e * kLn2High;
  y = select(x == __builtin_inff(), x, y);
  y = select(x == 0.0F, -__builtin_inff(), y);
  return select(x < 0.0F, __builtin_nanf(""), select(x == x, y, x));
}

// log(1 + x): what rounding 1 + x loses is added again.
BITLAB_ALWAYS_INLINE F32x16 log1p(const F32x16& x) {
  const F32x16 sum = x + 1.0F, lost = select(x > 1.0F, F32x16(1.0F) - (sum - x), x - (sum - 1.0F));
  const F32x16 y = select(sum < 0.0F, __builtin_nanf(""), log(sum) + lost / sum);  // one NaN on every processor
  return select(sum == 1.0F, x, select(sum == 0.0F, -__builtin_inff(), select(x == __builtin_inff(), x, y)));
}

BITLAB_INLINE_IF_FAST F32x16 sigmoid(F32x16 x) {
  const F32x16 e = exp(-magnitude(x));
  const F32x16 above = F32x16(1.0F) / (e + 1.0F);
  return select(x < 0.0F, e * above, above);
}

BITLAB_INLINE_IF_FAST F32x16 tanh(F32x16 x) {
  constexpr float kInner = 0.625F;  // below it (tanh x - x) / x^3 as a polynomial in x^2, above it by e^2|x|
  constexpr float kTanh[] = {-0.333332819F, 0.133314422F, -0.0537397148F, 0.0206390866F, -0.00570498633F};
  const F32x16 size = magnitude(x), square = x * x;
  const F32x16 inner = x * (polynomial(kTanh, square) * square + 1.0F);
  const F32x16 outer = F32x16(1.0F) - F32x16(2.0F) / (exp(size + size) + 1.0F);
  return select(size < kInner, inner, select(x < 0.0F, -outer, outer));
}

// erf(u) / u as a polynomial in u^2 for |u| <= 1; erfc(u) e^(u^2) / t as one in t = 1 / (1 + kErfcSpread u) for 1 <= u <= 10.
BITLAB_ALWAYS_INLINE F32x16 erf_inside(const F32x16& u) {
  constexpr float kErf[] = {1.12837917F,    -0.376126258F,    0.112835851F,   -0.0268538119F,
                            0.00518832767F, -0.000801019351F, 7.85386097e-05F};
  return u * polynomial(kErf, u * u);
}
BITLAB_INLINE_IF_FAST F32x16 erfc_factor(F32x16 size) {
  constexpr float kErfcSpread = 0.3275911F;
  constexpr float kErfc[] = {0.184833149F, 0.18464305F,    0.176272379F, 0.149936588F,  0.135032561F,
                             0.101021654F, 0.00435702124F, 0.125860677F, -0.0620130757F};
  const F32x16 t = F32x16(1.0F) / (size * kErfcSpread + 1.0F);
  return t * polynomial(kErfc, t);
}

// (1 + erf(x / sqrt 2)) / 2: the part of a normal distribution below x.
BITLAB_ALWAYS_INLINE F32x16 normal_cdf(const F32x16& x) {
  constexpr float kRootHalf = 0.707106781F;
  const F32x16 u = x * kRootHalf, size = magnitude(u);
  const F32x16 inner = erf_inside(u) * 0.5F + 0.5F;
  const F32x16 tail = (exp((x * x) * -0.5F) * 0.5F) * erfc_factor(size);
  return select(size > 1.0F, select(x < 0.0F, tail, F32x16(1.0F) - tail), inner);
}

BITLAB_ALWAYS_INLINE F32x16 erf(const F32x16& x) {
  const F32x16 size = absolute(x), outer = F32x16(1.0F) - exp(-(x * x)) * erfc_factor(size);
  return select(size > 1.0F, with_sign_of(x, select(size > 10.0F, 1.0F, outer)), erf_inside(x));
}

// x times a polynomial in -log(1 - x^2), or in its root where x is near 1 (M. Giles, Approximating the erfinv function, 2012).
BITLAB_ALWAYS_INLINE F32x16 erfinv(const F32x16& x) {
  constexpr float kNear0[] = {1.50140941F,     0.246640727F,   -0.00417768164F, -0.00125372503F, 0.00021858087F,
                              -4.39150654e-6F, -3.5233877e-6F, 3.43273939e-7F,  2.81022636e-8F};
  constexpr float kNear1[] = {2.83297682F,     1.00167406F,    0.00943887047F,  -0.0076224613F,  0.00573950773F,
                              -0.00367342844F, 0.00134934322F, 0.000100950558F, -0.000200214257F};
  const F32x16 w = -log((F32x16(1.0F) - x) * (x + 1.0F));
  const F32x16 y = x * select(w < 5.0F, polynomial(kNear0, w - 2.5F), polynomial(kNear1, sqrt(w) - 3.0F));
  return select(absolute(x) == 1.0F, with_sign_of(x, __builtin_inff()), y);
}

// The angle of (x, y), from -pi to pi, by atan(q) = q + q^3 p(q^2) on [0, 1]: of the smaller size by the larger one, then by octants. Zeros have signs:
// (-0, 0) is at pi.
BITLAB_ALWAYS_INLINE F32x16 atan2(const F32x16& y, const F32x16& x) {
  constexpr float kHalfPi = 1.57079637F, kHalfPiLow = -4.37113883e-8F, kPi = 3.14159274F, kPiLow = -8.74227766e-8F;
  constexpr float kAtan[] = {-0.333332986F, 0.199985489F,   -0.142642424F, 0.109521858F,   -0.0840344951F,
                             0.0579575822F, -0.0311778337F, 0.0109145995F, -0.00179362029F};
  const F32x16 across = absolute(x), up = absolute(y);
  const F32x16 least = select(across < up, across, up), most = select(across < up, up, across);
  const F32x16 quotient = select(least == __builtin_inff(), 1.0F, select(most == 0.0F, 0.0F, least / most));
  const F32x16 square = quotient * quotient;
  F32x16 angle = quotient + (quotient * square) * polynomial(kAtan, square);
  angle = select(across < up, (F32x16(kHalfPi) - angle) + kHalfPiLow, angle);
  angle = select(with_sign_of(x, 1.0F) < 0.0F, (F32x16(kPi) - angle) + kPiLow, angle);
  return select(x == x, select(y == y, with_sign_of(y, angle), y), x);
}

// The sine of x + quarters pi / 2. Quarters are taken away in parts of 11 bits, so that products with numbers below 2^13 are exact; Taylor's
// series to r^11 and r^10 on [-pi/4, pi/4].
BITLAB_INLINE_IF_FAST F32x16 sine_of(F32x16 x, int32_t quarters) {
  constexpr float kTwoOverPi = 0.636619772F;
  constexpr float kPart1 = 0x1.92p+0F, kPart2 = 0x1.fb4p-12F, kPart3 = 0x1.444p-24F, kPart4 = 0x1.68c234p-39F;
  constexpr float kSine[] = {-1.0F / 6.0F, 1.0F / 120.0F, -1.0F / 5040.0F, 1.0F / 362880.0F, -1.0F / 39916800.0F};
  constexpr float kCosine[] = {-0.5F, 1.0F / 24.0F, -1.0F / 720.0F, 1.0F / 40320.0F, -1.0F / 3628800.0F};
  const F32x16 n = round(x * kTwoOverPi);
  const F32x16 r = (((x - n * kPart1) - n * kPart2) - n * kPart3) - n * kPart4, square = r * r;
  const F32x16 sine = r + (r * square) * polynomial(kSine, square), cosine = square * polynomial(kCosine, square) + 1.0F;
  const F32x16 turn = n + static_cast<float>(quarters), four = turn - floor(turn * 0.25F) * 4.0F;  // 0, 1, 2, 3
  const F32x16 y = select(four == 1.0F, cosine, select(four == 3.0F, -cosine, select(four == 2.0F, -sine, sine)));
  return select(absolute(x) < __builtin_inff(), y, __builtin_nanf(""));
}
BITLAB_ALWAYS_INLINE F32x16 sin(const F32x16& x) { return select(x == 0.0F, x, sine_of(x, 0)); }
BITLAB_ALWAYS_INLINE F32x16 cos(const F32x16& x) { return sine_of(x, 1); }

BITLAB_ALWAYS_INLINE F32x16 relu(const F32x16& x) { return select(x < 0.0F, 0.0F, x); }

BITLAB_ALWAYS_INLINE F32x16 gelu_tanh(const F32x16& x) {
  constexpr float kRootTwoOverPi = 0.797884561F, kCubic = 0.044715F;
  return (x * 0.5F) * (tanh((x + (x * x * x) * kCubic) * kRootTwoOverPi) + 1.0F);
}

}  // namespace
}  // namespace bitlab::kernels
