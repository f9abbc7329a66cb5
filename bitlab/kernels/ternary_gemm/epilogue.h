// What follows the exact sums, for kWidth rows of one token at a time: scales, bias, affine, residual, ReLU or clamp, float32 or int8 results. One
// source on the compilers' vectors for every instruction set; each operator rounds once. Compiled into each kernel: nothing here has a
// symbol of its own.
#pragma once

#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "bitlab/kernels/ternary_gemm/arguments.h"

#define BITLAB_INLINE static inline __attribute__((always_inline))
#define BITLAB_NOINLINE static __attribute__((noinline))

namespace bitlab::kernels {
namespace {

template <int kWidth>
struct Lanes {
  typedef float Floats __attribute__((vector_size(4 * kWidth)));
  typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
  typedef int16_t Words __attribute__((vector_size(2 * kWidth)));
  typedef int8_t Bytes __attribute__((vector_size(kWidth)));
};
template <int kWidth>
using Floats = typename Lanes<kWidth>::Floats;
template <int kWidth>
using Ints = typename Lanes<kWidth>::Ints;

template <int kWidth>
BITLAB_INLINE Floats<kWidth> all_floats(float value) {
  return value - Floats<kWidth>{};  // value - 0: also -0 stays itself
}
template <int kWidth>
BITLAB_INLINE Ints<kWidth> all_ints(int32_t value) {
  return value - Ints<kWidth>{};
}
template <int kWidth>
BITLAB_INLINE Floats<kWidth> to_floats(Ints<kWidth> values) {
  return __builtin_convertvector(values, Floats<kWidth>);
}
#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define BITLAB_MASKS 1  // of 16 rows: what exists is read and written by one instruction, without a way through memory
BITLAB_INLINE __mmask16 mask_of(int64_t count) {
  return count >= 16 ? __mmask16{0xFFFF} : static_cast<__mmask16>((1U << count) - 1);
}
#endif
// Values of consecutive rows, of which `count` exist.
template <int kWidth>
BITLAB_INLINE Floats<kWidth> load_rows(const float* values, int64_t count) {
#if defined(BITLAB_MASKS)
  if constexpr (kWidth == 16) return reinterpret_cast<Floats<kWidth>>(_mm512_maskz_loadu_ps(mask_of(count), values));
#endif
  Floats<kWidth> result{};
  if (count >= kWidth) {
    std::memcpy(&result, values, sizeof(result));
  } else {
    for (int64_t i = 0; i < count; ++i) result[i] = values[i];
  }
  return result;
}
template <int kWidth>
BITLAB_INLINE Floats<kWidth> load_scales(const float* scale, int64_t stride, int64_t row, int64_t count) {
  return stride == 0 ? all_floats<kWidth>(scale[0]) : load_rows<kWidth>(scale + row, count);
}

template <int kWidth, class Vector, class T>
BITLAB_INLINE void store_rows(const Vector& values, T* to, int64_t count) {
#if defined(BITLAB_MASKS)
  if constexpr (kWidth == 16 && sizeof(T) == 4) {
    _mm512_mask_storeu_epi32(to, mask_of(count), reinterpret_cast<__m512i>(values));
    return;
  }
  if constexpr (kWidth == 16 && sizeof(T) == 1) {
    _mm_mask_storeu_epi8(to, mask_of(count), reinterpret_cast<__m128i>(values));
    return;
  }
#endif
  if (count >= kWidth) {
    std::memcpy(to, &values, sizeof(values));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = values[i];
  }
}

// Half to even, as rint does; |values| is below 2^22.
template <int kWidth>
BITLAB_INLINE Ints<kWidth> rounded(Floats<kWidth> values) {
#if defined(__AVX512F__)
  if constexpr (kWidth == 16) return reinterpret_cast<Ints<kWidth>>(_mm512_cvtps_epi32(reinterpret_cast<__m512>(values)));
#endif
#if defined(__AVX2__)
  if constexpr (kWidth == 8) return reinterpret_cast<Ints<kWidth>>(_mm256_cvtps_epi32(reinterpret_cast<__m256>(values)));
#endif
  const auto integers = all_floats<kWidth>(12582912.0F);  // adding 1.5 x 2^23 leaves no fraction bits
  return __builtin_convertvector((values + integers) - integers, Ints<kWidth>);
}

// What belongs to kWidth rows from `row` on, loaded once for all tokens.
template <int kWidth>
struct RowConstants {
  Floats<kWidth> scale{}, scale_neg{}, bias{}, alpha{}, beta{};
  int64_t row, count;

  BITLAB_INLINE RowConstants of(const TernaryGemmArgs& p, int64_t row) {
    RowConstants c;
    c.row = row;
    c.count = p.rows - row;
    if (p.group == 0) c.scale = load_scales<kWidth>(p.scale, p.scale_stride, row, c.count);
    if (p.scale_neg != nullptr) c.scale_neg = load_scales<kWidth>(p.scale_neg, p.scale_stride, row, c.count);
    if (p.bias != nullptr) c.bias = load_rows<kWidth>(p.bias + row, c.count);
    if (p.alpha != nullptr) {
      c.alpha = load_rows<kWidth>(p.alpha + row, c.count);
      c.beta = load_rows<kWidth>(p.beta + row, c.count);
    }
    return c;
  }
};

template <int kWidth>
BITLAB_INLINE void finish(const TernaryGemmArgs& p, const RowConstants<kWidth>& c, Floats<kWidth> y, int64_t token) {
  const Floats<kWidth> zero{};
  if (p.bias != nullptr) y = y + c.bias;
  if (p.alpha != nullptr) {
    y = y * c.alpha;
    y = y + c.beta;
  }
  const int64_t at = token * p.y_stride + c.row;
  if (p.residual != nullptr) y = y + load_rows<kWidth>(p.residual + at, c.count);
  if (p.relu) y = y < zero ? zero : y;
  if (p.clamps) {  // as the functions maximum and minimum of elementwise.def; in this form each is one instruction
    const auto low = all_floats<kWidth>(p.low), high = all_floats<kWidth>(p.high);
    const Floats<kWidth> raised = y > low ? y : low, between = raised < high ? raised : high;
    y = y == y ? between : y;
  }
  if (p.y_q == nullptr) {
    store_rows<kWidth>(y, p.y + at, c.count);
    return;
  }
  const auto most = all_floats<kWidth>(p.y_limit), least = all_floats<kWidth>(-p.y_limit);
  Floats<kWidth> scaled = y * all_floats<kWidth>(p.y_inv);
  scaled = scaled < most ? scaled : most;
  scaled = scaled > least ? scaled : least;
  const auto q = __builtin_convertvector(rounded<kWidth>(scaled), typename Lanes<kWidth>::Bytes);
  store_rows<kWidth>(q, p.y_q + at, c.count);
}

// acc: the sum of t q.
template <int kWidth>
BITLAB_INLINE void finish_sum(const TernaryGemmArgs& p, const RowConstants<kWidth>& c, Ints<kWidth> acc, int64_t token) {
  const Floats<kWidth> in_x = to_floats<kWidth>(acc) * all_floats<kWidth>(p.a[token * p.a_stride]);
  finish<kWidth>(p, c, in_x * c.scale, token);
}

// acc: the sum of t q; magnitude: the sum of |t| q. The sum over t = +1 is their mean, found without overflow; the rest of the magnitude is
// the sum over t = -1.
template <int kWidth>
BITLAB_INLINE void finish_two_sums(const TernaryGemmArgs& p, const RowConstants<kWidth>& c, Ints<kWidth> acc,
                                   Ints<kWidth> magnitude, int64_t token) {
  const auto a = all_floats<kWidth>(p.a[token * p.a_stride]);
  const Ints<kWidth> positive = (acc & magnitude) + ((acc ^ magnitude) >> 1), negative = magnitude - positive;
  const Floats<kWidth> plus = to_floats<kWidth>(positive) * a, minus = to_floats<kWidth>(negative) * a;
  finish<kWidth>(p, c, plus * c.scale - minus * c.scale_neg, token);
}

// total: the sum over groups of float(acc) * scale.
template <int kWidth>
BITLAB_INLINE void finish_groups(const TernaryGemmArgs& p, const RowConstants<kWidth>& c, Floats<kWidth> total,
                                 int64_t token) {
  finish<kWidth>(p, c, total * all_floats<kWidth>(p.a[token * p.a_stride]), token);
}

}  // namespace
}  // namespace bitlab::kernels
