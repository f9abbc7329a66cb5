// The one source of the ternary_depthwise kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/ternary_depthwise/arguments.h"
#include "bitlab/kernels/ternary_gemm/epilogue.h"

namespace bitlab::kernels {
namespace {

// Bytes as words, words as int32, by one instruction each: g++ 12 converts halves and puts them together.
template <int kWidth>
BITLAB_INLINE typename Lanes<kWidth>::Words words_of(const typename Lanes<kWidth>::Bytes& q) {
#if defined(__AVX2__)
  if constexpr (kWidth == 16) {
    __m128i bytes;
    std::memcpy(&bytes, &q, sizeof(bytes));
    return reinterpret_cast<typename Lanes<kWidth>::Words>(_mm256_cvtepi8_epi16(bytes));
  }
  if constexpr (kWidth == 8)
    return reinterpret_cast<typename Lanes<kWidth>::Words>(
        _mm_cvtepi8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(&q))));
#elif defined(__ARM_NEON)
  if constexpr (kWidth == 8) return reinterpret_cast<typename Lanes<kWidth>::Words>(vmovl_s8(reinterpret_cast<int8x8_t>(q)));
#endif
  return __builtin_convertvector(q, typename Lanes<kWidth>::Words);
}
template <int kWidth>
BITLAB_INLINE Ints<kWidth> ints_of(const typename Lanes<kWidth>::Words& sum) {
#if defined(__AVX512F__)
  if constexpr (kWidth == 16) return reinterpret_cast<Ints<kWidth>>(_mm512_cvtepi16_epi32(reinterpret_cast<__m256i>(sum)));
#endif
#if defined(__AVX2__)
  if constexpr (kWidth == 8) return reinterpret_cast<Ints<kWidth>>(_mm256_cvtepi16_epi32(reinterpret_cast<__m128i>(sum)));
#elif defined(__ARM_NEON)
  if constexpr (kWidth == 8) {
    const auto words = reinterpret_cast<int16x8_t>(sum);
    const int32x4_t halves[2] = {vmovl_s16(vget_low_s16(words)), vmovl_s16(vget_high_s16(words))};
    Ints<kWidth> values;
    std::memcpy(&values, halves, sizeof(values));
    return values;
  }
#endif
  return __builtin_convertvector(sum, Ints<kWidth>);
}

// kWidth channels of a token, of which `count` exist; `moved` bytes behind the first of its line. int16 holds the sums of 256 taps:
// 256 x 127 = 32,512 < 2^15.
template <int kWidth>
BITLAB_INLINE_IF_LARGE Ints<kWidth> channels_of(const TernaryDepthwiseArgs& p, const int8_t* const* pixels, int64_t moved,
                                                int64_t channel, int64_t count) {
  using Words = typename Lanes<kWidth>::Words;
  constexpr int64_t kWiden = 256;
  Ints<kWidth> acc{};
  for (int64_t begin = 0; begin < p.taps; begin += kWiden) {
    const int64_t end = begin + kWiden < p.taps ? begin + kWiden : p.taps;
    Words sum{};
    for (int64_t tap = begin; tap < end; ++tap) {
      typename Lanes<kWidth>::Bytes q{};
      Words t{};
      const int8_t* from = pixels[tap] + moved + channel;
      const int16_t* weights = p.t + tap * p.layer.rows + channel;
      if (count >= kWidth) {
        std::memcpy(&q, from, sizeof(q));
        std::memcpy(&t, weights, sizeof(t));
      } else {
        for (int64_t i = 0; i < count; ++i) {
          q[i] = from[i];
          t[i] = weights[i];
        }
      }
      sum += words_of<kWidth>(q) * t;
    }
    acc += ints_of<kWidth>(sum);
  }
  return acc;
}

// The same of whole kWidth channels for 3 x 3 taps, whose weights stay in registers from token to token.
template <int kWidth, class Results>
BITLAB_INLINE void nine_taps(const TernaryDepthwiseArgs& p, int64_t channel, const Results& results, int64_t lines) {
  using Words = typename Lanes<kWidth>::Words;
  constexpr int kTaps = 9;
  Words t[kTaps];
  _Pragma("GCC unroll 9") for (int tap = 0; tap < kTaps; ++tap)
      std::memcpy(&t[tap], p.t + tap * p.layer.rows + channel, sizeof(Words));
  const int64_t width = p.width, step = p.step;
  for (int64_t line = 0; line < lines; ++line) {
    const int8_t* from[kTaps];
    _Pragma("GCC unroll 9") for (int tap = 0; tap < kTaps; ++tap) from[tap] = p.pixels[line * kTaps + tap] + channel;
    for (int64_t x = 0, moved = 0; x < width; ++x, moved += step) {
      Words sum{};
      _Pragma("GCC unroll 9") for (int tap = 0; tap < kTaps; ++tap) {
        typename Lanes<kWidth>::Bytes q;
        std::memcpy(&q, from[tap] + moved, sizeof(q));
        sum += words_of<kWidth>(q) * t[tap];
      }
      results.put_sum(ints_of<kWidth>(sum), line * width + x);
    }
  }
}

// The channels from `channel` on.
template <int kWidth>
BITLAB_INLINE void depthwise(const TernaryDepthwiseArgs& p, int64_t lines, int64_t channel = 0) {
  for (; channel < p.layer.rows; channel += kWidth) {
    const auto constants = RowConstants<kWidth>::of(p.layer, channel);
    with_results<kWidth>(
        p.layer, constants, [&](const auto& results) __attribute__((always_inline)) {
          if (kWidth > 1 && p.taps == 9 && constants.count >= kWidth) {
            nine_taps<kWidth>(p, channel, results, lines);
            return;
          }
          for (int64_t line = 0; line < lines; ++line)
            for (int64_t x = 0; x < p.width; ++x)
              results.put_sum(channels_of<kWidth>(p, p.pixels + line * p.taps, x * p.step, channel, constants.count),
                              line * p.width + x);
        });
  }
}

}  // namespace
}  // namespace bitlab::kernels
