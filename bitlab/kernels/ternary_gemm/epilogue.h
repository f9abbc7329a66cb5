// What follows the exact sums, for kWidth rows of one token at a time: scales, bias, affine, residual, ReLU or clamp, float32 or int8 results. One
// source on the compilers' vectors for every instruction set; each operator rounds once. Compiled into each kernel: nothing here has a
// symbol of its own.
#pragma once

#include <cstring>
#include <type_traits>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "bitlab/kernels/ternary_gemm/arguments.h"

#define BITLAB_INLINE static inline __attribute__((always_inline))
#define BITLAB_NOINLINE static __attribute__((noinline))
#ifdef BITLAB_FEW_TILES  // code is to be small
#define BITLAB_INLINE_IF_LARGE BITLAB_NOINLINE
#else
#define BITLAB_INLINE_IF_LARGE BITLAB_INLINE
#endif

// g++ needs loops over register arrays unrolled, or it keeps them in memory.
#define BITLAB_UNROLL_TOKENS _Pragma("GCC unroll 16")

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
  if (count >= kWidth) {
    std::memcpy(to, &values, sizeof(values));
    return;
  }
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
  for (int64_t i = 0; i < count; ++i) to[i] = values[i];
}

// Half to even, as rint does; |values| is below 2^22.
template <int kWidth>
BITLAB_INLINE Ints<kWidth> rounded(Floats<kWidth> values) {
#if defined(__AVX512F__)
  if constexpr (kWidth == 16) return reinterpret_cast<Ints<kWidth>>(_mm512_cvtps_epi32(reinterpret_cast<__m512>(values)));
#endif
#if defined(__AVX2__)
  if constexpr (kWidth == 8) return reinterpret_cast<Ints<kWidth>>(_mm256_cvtps_epi32(reinterpret_cast<__m256>(values)));
  if constexpr (kWidth == 4) return reinterpret_cast<Ints<kWidth>>(_mm_cvtps_epi32(reinterpret_cast<__m128>(values)));
#endif
  const auto integers = all_floats<kWidth>(12582912.0F);  // adding 1.5 x 2^23 leaves no fraction bits
  return __builtin_convertvector((values + integers) - integers, Ints<kWidth>);
}

// Of integers in [-127, 127]; g++ 12 takes them one by one where there is no instruction for all.
template <int kWidth>
BITLAB_INLINE typename Lanes<kWidth>::Bytes bytes_of(const Ints<kWidth>& values) {
#if defined(__AVX2__)
  if constexpr (kWidth == 8) {
    const auto all = reinterpret_cast<__m256i>(values);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
    typename Lanes<kWidth>::Bytes bytes;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(&bytes), _mm_packs_epi16(words, words));
    return bytes;
  }
#elif defined(__ARM_NEON)
  if constexpr (kWidth == 8) {
    int32x4_t halves[2];
    std::memcpy(halves, &values, sizeof(halves));
    return reinterpret_cast<typename Lanes<kWidth>::Bytes>(
        vmovn_s16(vcombine_s16(vmovn_s32(halves[0]), vmovn_s32(halves[1]))));
  }
  if constexpr (kWidth == 4) {
    const int16x4_t words = vmovn_s32(reinterpret_cast<int32x4_t>(values));
    const int8x8_t all = vmovn_s16(vcombine_s16(words, words));
    typename Lanes<kWidth>::Bytes bytes;
    std::memcpy(&bytes, &all, sizeof(bytes));
    return bytes;
  }
#endif
  return __builtin_convertvector(values, typename Lanes<kWidth>::Bytes);
}

// The same of kCount tokens, `stride` bytes apart.
template <int kWidth, int kCount>
BITLAB_INLINE void store_bytes(const Ints<kWidth> (&values)[kCount], int8_t* to, int64_t stride, int64_t count) {
#if defined(__AVX2__)
  if constexpr (kWidth == 8 && kCount == 4) {
    if (count >= kWidth) {
      // Narrowing works within halves of a register: of each token both halves come together again behind it.
      const auto words = [&](int i) __attribute__((always_inline)) {
        return _mm256_packs_epi32(reinterpret_cast<__m256i>(values[i]), reinterpret_cast<__m256i>(values[i + 1]));
      };
      const __m256i bytes =
          _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words(0), words(2)), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
      const __m128i halves[2] = {_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)};
      BITLAB_UNROLL_TOKENS for (int i = 0; i < 2; ++i) {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 2 * i * stride), halves[i]);
        _mm_storeh_pd(reinterpret_cast<double*>(to + (2 * i + 1) * stride), _mm_castsi128_pd(halves[i]));
      }
      return;
    }
  }
#endif
  BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t)
      store_rows<kWidth>(bytes_of<kWidth>(values[t]), to + t * stride, count);
}

// What belongs to kWidth rows from `row` on, loaded once for all tokens.
template <int kWidth>
struct RowConstants {
  Floats<kWidth> scale{}, scale_neg{}, bias{}, alpha{}, beta{};
  int64_t row, count;

  BITLAB_INLINE_IF_LARGE RowConstants of(const TernaryGemmArgs& p, int64_t row) {
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

// Where the results of some rows go and what is done with them on the way. All that a call's arguments say of it is read once: a store of int8 may
// change any memory for all that the compiler knows, and between tokens it would read everything again.
template <int kWidth, bool kInt8>
class Results {
 public:
  using Value = std::conditional_t<kInt8, Ints<kWidth>, Floats<kWidth>>;

  __attribute__((always_inline)) Results(const TernaryGemmArgs& p, const RowConstants<kWidth>& c)
      : c_(c),
        a_(p.a),
        residual_(p.residual == nullptr ? nullptr : p.residual + c.row),
        a_stride_(p.a_stride),
        stride_(p.y_stride),
        a_of_all_(all_floats<kWidth>(p.a == nullptr ? 0 : p.a[0])),  // none behind sums of floats
        has_bias_(p.bias != nullptr),
        has_affine_(p.alpha != nullptr),
        relu_(p.relu),
        clamps_(p.clamps) {
    if constexpr (kInt8) {
      // ReLU, clamp and int8's own limits are one clamp behind the product with y_inv, which keeps the order of values.
      const float first = p.clamps ? p.low : -__builtin_inff(), low = p.relu && first < 0 ? 0 : first;
      const float high = p.clamps ? p.high : __builtin_inff();
      inv_ = all_floats<kWidth>(p.y_inv);
      low_ = all_floats<kWidth>(limited(low * p.y_inv, p.y_limit));
      high_ = all_floats<kWidth>(limited(high * p.y_inv, p.y_limit));
      to_ = p.y_q + c.row;
    } else {
      low_ = all_floats<kWidth>(p.low);
      high_ = all_floats<kWidth>(p.high);
      to_ = p.y + c.row;
    }
  }

  // acc: the sum of t q; c: what belongs to its rows.
  __attribute__((always_inline)) Floats<kWidth> scaled(const RowConstants<kWidth>& c, const Ints<kWidth>& acc,
                                                       int64_t token) const {
    const Floats<kWidth> a = a_stride_ == 0 ? a_of_all_ : all_floats<kWidth>(a_[token * a_stride_]);
    return to_floats<kWidth>(acc) * a * c.scale;
  }
  // y: the sums of kCount tokens from `token` on, with their scales. What is stored of them, step by step for all, so that what a call asks for is looked at once.
  template <int kCount>
  __attribute__((always_inline)) void values(const RowConstants<kWidth>& c, Floats<kWidth> (&y)[kCount], int64_t token,
                                             Value (&out)[kCount]) const {
    if (has_bias_) BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t) y[t] = y[t] + c.bias;
    if (has_affine_) BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t) {
        y[t] = y[t] * c.alpha;
        y[t] = y[t] + c.beta;
      }
    if (residual_ != nullptr)
      BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t) y[t] =
          y[t] + load_rows<kWidth>(residual_ + (token + t) * stride_, c.count);
    if constexpr (kInt8) {
      BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t) {
        y[t] = y[t] * inv_;
        y[t] = y[t] > low_ ? y[t] : low_;
        y[t] = y[t] < high_ ? y[t] : high_;
        out[t] = rounded<kWidth>(y[t]);
      }
    } else {
      if (relu_)
        BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t) y[t] = y[t] < Floats<kWidth>{} ? Floats<kWidth>{} : y[t];
      if (clamps_) BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t) {
          // As the functions maximum and minimum of elementwise.def; in this form each is one instruction.
          const Floats<kWidth> raised = y[t] > low_ ? y[t] : low_, between = raised < high_ ? raised : high_;
          y[t] = y[t] == y[t] ? between : y[t];
        }
      BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t) out[t] = y[t];
    }
  }
  template <int kCount>
  __attribute__((always_inline)) void put(Floats<kWidth> (&y)[kCount], int64_t token) const {
    Value out[kCount];
    values(c_, y, token, out);
    if constexpr (kInt8) {
      store_bytes<kWidth>(out, to_ + token * stride_, stride_, c_.count);
    } else {
      BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t)
          store_rows<kWidth>(out[t], to_ + (token + t) * stride_, c_.count);
    }
  }
  // acc: the sums of t q.
  template <int kCount>
  __attribute__((always_inline)) void put_sums(const Ints<kWidth> (&acc)[kCount], int64_t token) const {
    Floats<kWidth> y[kCount];
    BITLAB_UNROLL_TOKENS for (int t = 0; t < kCount; ++t) y[t] = scaled(c_, acc[t], token + t);
    put(y, token);
  }
  __attribute__((always_inline)) void put_sum(const Ints<kWidth>& acc, int64_t token) const {
    const Ints<kWidth> one[1] = {acc};
    put_sums(one, token);
  }

 private:
  static float limited(float value, float limit) { return value > limit ? limit : value < -limit ? -limit : value; }

  RowConstants<kWidth> c_;
  const float *a_, *residual_;
  std::conditional_t<kInt8, int8_t, float>* to_;
  int64_t a_stride_, stride_;
  Floats<kWidth> a_of_all_;
  bool has_bias_, has_affine_, relu_, clamps_;
  Floats<kWidth> inv_{}, low_, high_;
};

// Calls f(results) with the Results of a call.
template <int kWidth, class F>
BITLAB_INLINE void with_results(const TernaryGemmArgs& p, const RowConstants<kWidth>& c, const F& f) {
  if (p.y_q == nullptr) {
    f(Results<kWidth, false>(p, c));
  } else {
    f(Results<kWidth, true>(p, c));
  }
}

template <int kWidth>
BITLAB_INLINE_IF_LARGE void finish(const TernaryGemmArgs& p, const RowConstants<kWidth>& c, Floats<kWidth> y,
                                   int64_t token) {
  with_results<kWidth>(
      p, c, [&](const auto& results) __attribute__((always_inline)) {
        Floats<kWidth> one[1] = {y};
        results.put(one, token);
      });
}

// Tokens whose sums are finished together, so that what a call asks for is looked at once for all of them.
#ifdef BITLAB_FEW_TILES
inline constexpr int kFinishedTokens = 1;
#else
inline constexpr int kFinishedTokens = 4;
#endif

// sum(t): the sum of t q of the token `token` + t.
template <int kWidth, class Sum>
BITLAB_INLINE void finish_sums(const TernaryGemmArgs& p, const RowConstants<kWidth>& c, int64_t token, int64_t tokens,
                               const Sum& sum) {
  with_results<kWidth>(
      p, c, [&](const auto& results) __attribute__((always_inline)) {
        int64_t t = 0;
        for (; t + kFinishedTokens <= tokens; t += kFinishedTokens) {
          Ints<kWidth> some[kFinishedTokens];
          BITLAB_UNROLL_TOKENS for (int i = 0; i < kFinishedTokens; ++i) some[i] = sum(t + i);
          results.put_sums(some, token + t);
        }
        for (; t < tokens; ++t) results.put_sum(sum(t), token + t);
      });
}

// acc: the sum of t q.
template <int kWidth>
BITLAB_INLINE void finish_sum(const TernaryGemmArgs& p, const RowConstants<kWidth>& c, Ints<kWidth> acc, int64_t token) {
  finish_sums<kWidth>(
      p, c, token, 1, [&](int64_t) __attribute__((always_inline)) { return acc; });
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
