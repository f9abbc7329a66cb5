// F32x16: the one vector type of float kernels. Sixteen lanes on every target, in one, two or four registers, so that a reduction has the
// same order everywhere: lane j sums the elements j, j + 16, …, then the lanes are added as a tree of halves. Each operation rounds once.
//
// The compiler's own vectors of 64 bytes would do, but g++ 12 takes them apart into single floats where registers are shorter. Everything
// here is local to the including file, which is compiled for one instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define BITLAB_ALWAYS_INLINE inline __attribute__((always_inline))
#ifdef BITLAB_FEW_TILES  // code is to be small: long formulas, and what blocks that are not full need, stand there once
#define BITLAB_INLINE_IF_FAST [[maybe_unused]] static __attribute__((noinline))
#else
#define BITLAB_INLINE_IF_FAST BITLAB_ALWAYS_INLINE
#endif
#define BITLAB_INLINE_LAMBDA __attribute__((always_inline))  // behind a lambda's parameters
#define BITLAB_UNROLL_LANES _Pragma("GCC unroll 8")          // in front of a loop over registers or a few constants

namespace bitlab::kernels {
namespace {

#if defined(__AVX512F__)
inline constexpr int kRegisterLanes = 16;
#elif defined(__AVX__)
inline constexpr int kRegisterLanes = 8;
#else
inline constexpr int kRegisterLanes = 4;
#endif
// Another number where a file asks for less code or more speed, and no sum depends on it.
#ifndef BITLAB_LANES
#define BITLAB_LANES 16
#endif
inline constexpr int64_t kLanes = BITLAB_LANES;
inline constexpr int kRegisters = kLanes / kRegisterLanes;
using FloatRegister = float __attribute__((vector_size(4 * kRegisterLanes)));
using IntRegister = int32_t __attribute__((vector_size(4 * kRegisterLanes)));

struct F32x16 {
  FloatRegister part[kRegisters];
  F32x16() = default;
  BITLAB_ALWAYS_INLINE F32x16(float value) {           // all lanes; NOLINT(google-explicit-constructor)
    for (auto& p : part) p = value - FloatRegister{};  // which compilers know to be the value
  }
};

struct I32x16 {
  IntRegister part[kRegisters];
};
using Mask16 = I32x16;  // all bits of a lane, or none

#define BITLAB_LANEWISE(Result, name, expression)                      \
  BITLAB_ALWAYS_INLINE Result name(const F32x16& x, const F32x16& y) { \
    Result r;                                                          \
    _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) {     \
      const FloatRegister &a = x.part[i], &b = y.part[i];              \
      r.part[i] = expression;                                          \
    }                                                                  \
    return r;                                                          \
  }
BITLAB_LANEWISE(F32x16, operator+, a + b)
BITLAB_LANEWISE(F32x16, operator-, a - b)
BITLAB_LANEWISE(F32x16, operator*, a* b)
BITLAB_LANEWISE(F32x16, operator/, a / b)
BITLAB_LANEWISE(Mask16, operator<, a < b)
BITLAB_LANEWISE(Mask16, operator>, a > b)
BITLAB_LANEWISE(Mask16, operator==, a == b)
#undef BITLAB_LANEWISE

BITLAB_ALWAYS_INLINE F32x16& operator+=(F32x16& x, const F32x16& y) { return x = x + y; }

BITLAB_ALWAYS_INLINE F32x16 operator-(const F32x16& x) {
  F32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) r.part[i] = -x.part[i];
  return r;
}

// mask ? x : y
BITLAB_ALWAYS_INLINE F32x16 select(const Mask16& mask, const F32x16& x, const F32x16& y) {
  F32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) r.part[i] = mask.part[i] ? x.part[i] : y.part[i];
  return r;
}

BITLAB_ALWAYS_INLINE FloatRegister register_larger(const FloatRegister& x, const FloatRegister& y) {
#if defined(__AVX512F__)
  return reinterpret_cast<FloatRegister>(_mm512_max_ps(reinterpret_cast<__m512>(x), reinterpret_cast<__m512>(y)));
#elif defined(__AVX__)
  return reinterpret_cast<FloatRegister>(_mm256_max_ps(reinterpret_cast<__m256>(x), reinterpret_cast<__m256>(y)));
#elif defined(__SSE2__)
  return reinterpret_cast<FloatRegister>(_mm_max_ps(reinterpret_cast<__m128>(x), reinterpret_cast<__m128>(y)));
#else
  return x > y ? x : y;
#endif
}

// x > y ? x : y, so y where one is NaN: what x86 has one instruction for.
BITLAB_ALWAYS_INLINE F32x16 larger(const F32x16& x, const F32x16& y) {
  F32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) r.part[i] = register_larger(x.part[i], y.part[i]);
  return r;
}

BITLAB_ALWAYS_INLINE FloatRegister register_sqrt(const FloatRegister& x) {
#if defined(__AVX512F__)
  return reinterpret_cast<FloatRegister>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
#elif defined(__AVX__)
  return reinterpret_cast<FloatRegister>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#elif defined(__SSE2__)
  return reinterpret_cast<FloatRegister>(_mm_sqrt_ps(reinterpret_cast<__m128>(x)));
#elif defined(__aarch64__)
  return vsqrtq_f32(x);
#else
  FloatRegister r;
  for (int i = 0; i < kRegisterLanes; ++i) r[i] = __builtin_sqrtf(x[i]);
  return r;
#endif
}

// Rounded as IEEE 754 says; NaN below 0, whose sign processors choose in different ways.
BITLAB_ALWAYS_INLINE F32x16 sqrt(const F32x16& x) {
  F32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) r.part[i] = register_sqrt(x.part[i]);
  return select(x < 0.0F, __builtin_nanf(""), r);
}

// What is NaN as one NaN: processors choose in different ways which sign and payload a sum has.
BITLAB_ALWAYS_INLINE F32x16 one_nan(const F32x16& x) { return select(x == x, x, __builtin_nanf("")); }

// The bits of a lane of x under a mask, with those of y elsewhere.
BITLAB_ALWAYS_INLINE F32x16 merge_bits(int32_t mask, const F32x16& x, const F32x16& y) {
  F32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) {
    IntRegister a, b;
    std::memcpy(&a, &x.part[i], sizeof(a));
    std::memcpy(&b, &y.part[i], sizeof(b));
    const IntRegister bits = (a & mask) | (b & ~mask);
    std::memcpy(&r.part[i], &bits, sizeof(bits));
  }
  return r;
}

// The bits of lanes, as integers and back.
BITLAB_ALWAYS_INLINE I32x16 bits_of(const F32x16& x) {
  I32x16 r;
  std::memcpy(&r, &x, sizeof(r));
  return r;
}

// Integers as floats, rounded to the nearest.
BITLAB_ALWAYS_INLINE F32x16 to_float(const I32x16& x) {
  F32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) r.part[i] = __builtin_convertvector(x.part[i], FloatRegister);
  return r;
}

// Lanes that are whole numbers, as integers.
BITLAB_ALWAYS_INLINE I32x16 to_int(const F32x16& x) {
  I32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) r.part[i] = __builtin_convertvector(x.part[i], IntRegister);
  return r;
}

BITLAB_ALWAYS_INLINE F32x16 load(const float* from) {
  F32x16 r;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i)
      std::memcpy(&r.part[i], from + i * kRegisterLanes, sizeof(FloatRegister));
  return r;
}

// The first `count` lanes from memory, `padding` in the others.
BITLAB_INLINE_IF_FAST F32x16 load_padded(const float* from, int64_t count, float padding) {
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < count ? from[i] : padding;
  return load(lanes);
}
BITLAB_ALWAYS_INLINE F32x16 load_some(const float* from, int64_t count, float padding = 0.0F) {
  return count == kLanes ? load(from) : load_padded(from, count, padding);
}

BITLAB_ALWAYS_INLINE void store(float* to, const F32x16& x) {
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i)
      std::memcpy(to + i * kRegisterLanes, &x.part[i], sizeof(FloatRegister));
}

BITLAB_INLINE_IF_FAST void store_first(float* to, F32x16 x, int64_t count) {
  float lanes[kLanes];
  store(lanes, x);
  for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
}
BITLAB_ALWAYS_INLINE void store_some(float* to, const F32x16& x, int64_t count) {
  count == kLanes ? store(to, x) : store_first(to, x, count);
}

// The lanes as one number by a tree of halves: lane i with lane i + 8, then i + 4, i + 2, i + 1.
template <class Op>
BITLAB_ALWAYS_INLINE float tree(const F32x16& x, const Op& op) {
  FloatRegister part[kRegisters];
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) part[i] = x.part[i];
  _Pragma("GCC unroll 4") for (int half = kRegisters / 2; half > 0; half /= 2) {
    _Pragma("GCC unroll 4") for (int i = 0; i < half; ++i) part[i] = op(part[i], part[i + half]);
  }
  FloatRegister v = part[0];
#if defined(__AVX512F__)
  v = op(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#elif defined(__AVX__)
  v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  v = op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
#else
  v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
  v = op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2));
#endif
  return v[0];
}

BITLAB_ALWAYS_INLINE float tree_sum(const F32x16& x) {
  return tree(x, [](const FloatRegister& a, const FloatRegister& b) BITLAB_INLINE_LAMBDA { return a + b; });
}

// Of numbers: NaN is passed over where the other one is a number.
BITLAB_ALWAYS_INLINE float tree_largest(const F32x16& x) {
  return tree(x, [](const FloatRegister& a, const FloatRegister& b) BITLAB_INLINE_LAMBDA { return register_larger(a, b); });
}

}  // namespace
}  // namespace bitlab::kernels
