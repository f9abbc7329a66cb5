// Floats in 16 bits, as bits: IEEE 754 binary16 ("float16") and bfloat16, the upper half of a float32. Computation is in float32. C++17, as sources of
// devices are, whose host form includes it.
#pragma once

#include <cstdint>

namespace bitlab {

// Exact; NaN stays NaN.
constexpr float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16, exponent = (half >> 10) & 31U, fraction = half & 1023U;
  if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7F800000U | fraction << 13);
  if (exponent != 0) return __builtin_bit_cast(float, sign | (exponent + 112) << 23 | fraction << 13);
  const float value = static_cast<float>(fraction) * 0x1p-24F;
  return sign != 0 ? -value : value;
}

// The nearest value, halves to even; infinity beyond 65,519; NaN stays NaN.
constexpr uint16_t float_to_half(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000U);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return sign | 0x7E00U;
  if (magnitude >= 0x477FF000U) return sign | 0x7C00U;  // 65,520 and above
  if (magnitude < 0x38800000U) {  // below 2^-14: in units of 2^-24; adding 0.5 leaves the rounded integer
    const float rounded = __builtin_bit_cast(float, magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (__builtin_bit_cast(uint32_t, rounded) - __builtin_bit_cast(uint32_t, 0.5F)));
  }
  const uint32_t odd = magnitude >> 13 & 1U;
  return static_cast<uint16_t>(sign | (magnitude - 0x38000000U + 0xFFFU + odd) >> 13);
}

// Exact.
constexpr float bfloat_to_float(uint16_t bfloat) { return __builtin_bit_cast(float, static_cast<uint32_t>(bfloat) << 16); }

// The nearest value, halves to even; NaN stays NaN.
constexpr uint16_t float_to_bfloat(float value) {
  const auto bits = __builtin_bit_cast(uint32_t, value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>(bits >> 16 | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

}  // namespace bitlab
