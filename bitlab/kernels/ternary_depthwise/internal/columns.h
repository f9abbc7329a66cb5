// 3 x 3 taps of many channels at once, on x86: the three lines of a column of taps are multiplied together. A column is brought into the form that this takes
// once, and serves every token that reads it. q + 128, unsigned, is multiplied by t; 128 times the sum of t is subtracted.
//
// An instruction set is a Wide of so many channels, and
//   Sum, kSums  registers of sums, and how many of them there are for all channels
//   interleave  four registers of bytes in the form of a column
//   plus        a sum, number `s` of them, and its products of a column and its weights
//   widen       its int32, in the order of Wide
#pragma once

#include "bitlab/kernels/ternary_depthwise/internal/body.h"

#define BITLAB_UNROLL BITLAB_UNROLL_TOKENS

namespace bitlab::kernels {
namespace {

// Interleaving works within parts of 16 bytes: of four registers of sums, number k has the channels 4 k to 4 k + 3 of each 16.
template <int kChannels>
struct Wide;
template <>
struct Wide<32> {
  using Bytes = __m256i;
  BITLAB_INLINE Bytes low8(Bytes a, Bytes b) { return _mm256_unpacklo_epi8(a, b); }
  BITLAB_INLINE Bytes high8(Bytes a, Bytes b) { return _mm256_unpackhi_epi8(a, b); }
  BITLAB_INLINE Bytes low16(Bytes a, Bytes b) { return _mm256_unpacklo_epi16(a, b); }
  BITLAB_INLINE Bytes high16(Bytes a, Bytes b) { return _mm256_unpackhi_epi16(a, b); }
  BITLAB_INLINE Bytes narrow(const Ints<8> (&y)[4]) {
    return _mm256_packs_epi16(_mm256_packs_epi32((__m256i)y[0], (__m256i)y[1]),
                              _mm256_packs_epi32((__m256i)y[2], (__m256i)y[3]));
  }
  BITLAB_INLINE void in_lanes(Floats<8> (&y)[4]) {
    const __m256 a = _mm256_permute2f128_ps((__m256)y[0], (__m256)y[2], 0x20),
                 b = _mm256_permute2f128_ps((__m256)y[0], (__m256)y[2], 0x31);
    const __m256 c = _mm256_permute2f128_ps((__m256)y[1], (__m256)y[3], 0x20),
                 d = _mm256_permute2f128_ps((__m256)y[1], (__m256)y[3], 0x31);
    y[0] = (Floats<8>)a, y[1] = (Floats<8>)b, y[2] = (Floats<8>)c, y[3] = (Floats<8>)d;
  }
  BITLAB_INLINE void in_order(Floats<8> (&y)[4]) {
    const __m256 a = _mm256_permute2f128_ps((__m256)y[0], (__m256)y[1], 0x20),
                 b = _mm256_permute2f128_ps((__m256)y[2], (__m256)y[3], 0x20);
    const __m256 c = _mm256_permute2f128_ps((__m256)y[0], (__m256)y[1], 0x31),
                 d = _mm256_permute2f128_ps((__m256)y[2], (__m256)y[3], 0x31);
    y[0] = (Floats<8>)a, y[1] = (Floats<8>)b, y[2] = (Floats<8>)c, y[3] = (Floats<8>)d;
  }
};
template <>
struct Wide<16> {
  using Bytes = __m128i;
  BITLAB_INLINE Bytes low8(Bytes a, Bytes b) { return _mm_unpacklo_epi8(a, b); }
  BITLAB_INLINE Bytes high8(Bytes a, Bytes b) { return _mm_unpackhi_epi8(a, b); }
  BITLAB_INLINE Bytes low16(Bytes a, Bytes b) { return _mm_unpacklo_epi16(a, b); }
  BITLAB_INLINE Bytes high16(Bytes a, Bytes b) { return _mm_unpackhi_epi16(a, b); }
  BITLAB_INLINE Bytes narrow(const Ints<4> (&y)[4]) {
    return _mm_packs_epi16(_mm_packs_epi32((__m128i)y[0], (__m128i)y[1]), _mm_packs_epi32((__m128i)y[2], (__m128i)y[3]));
  }
  BITLAB_INLINE void in_lanes(Floats<4> (&)[4]) {}
  BITLAB_INLINE void in_order(Floats<4> (&)[4]) {}
};

// The channels of Isa for three columns of three taps.
template <class Isa>
struct Columns {
  using Bytes = typename Isa::Bytes;
  using Sum = typename Isa::Sum;
  static constexpr int kChannels = Isa::kChannels, kLanes = kChannels / 4;

  Bytes t[3][4];
  Sum start[Isa::kSums];  // -128 times the sum of t
  RowConstants<kLanes> rows[4];

  BITLAB_INLINE Bytes load(const int8_t* from) {
    Bytes bytes;
    std::memcpy(&bytes, from, sizeof(bytes));
    return bytes;
  }
  BITLAB_INLINE Bytes biased(Bytes q) { return q ^ static_cast<long long>(0x8080808080808080U); }

  // Of the pixels that a column of taps reads; the fourth byte is multiplied by 0.
  BITLAB_INLINE void column(const int8_t* const (&from)[3], int64_t moved, Bytes (&out)[4]) {
    const Bytes last = biased(load(from[2] + moved));
    Isa::interleave(biased(load(from[0] + moved)), biased(load(from[1] + moved)), last, last, out);
  }

  // Of a value for each channel.
  BITLAB_INLINE void load_lanes(const float* values, Floats<kLanes> (&out)[4]) {
    std::memcpy(out, values, sizeof(out));
    Isa::in_lanes(out);
  }

  __attribute__((always_inline)) Columns(const TernaryDepthwiseArgs& p, int64_t channel) {
    int8_t narrow[9][kChannels];
    for (int tap = 0; tap < 9; ++tap)
      for (int c = 0; c < kChannels; ++c) narrow[tap][c] = static_cast<int8_t>(p.t[tap * p.layer.rows + channel + c]);
    for (int x = 0; x < 3; ++x) Isa::interleave(load(narrow[x]), load(narrow[3 + x]), load(narrow[6 + x]), Bytes{}, t[x]);
    const TernaryGemmArgs& layer = p.layer;
    Floats<kLanes> scale[4], bias[4]{}, alpha[4]{}, beta[4]{};
    BITLAB_UNROLL for (int k = 0; k < 4; ++k) scale[k] = all_floats<kLanes>(layer.scale[0]);
    if (layer.scale_stride != 0) load_lanes(layer.scale + channel, scale);
    if (layer.bias != nullptr) load_lanes(layer.bias + channel, bias);
    if (layer.alpha != nullptr) load_lanes(layer.alpha + channel, alpha), load_lanes(layer.beta + channel, beta);
    const Bytes zeros[4] = {biased(Bytes{}), biased(Bytes{}), biased(Bytes{}), biased(Bytes{})};
    BITLAB_UNROLL for (int s = 0; s < Isa::kSums; ++s) {
      Sum sum{};
      for (int x = 0; x < 3; ++x) sum = Isa::plus(sum, s, zeros, t[x]);
      start[s] = -sum;
    }
    BITLAB_UNROLL for (int k = 0; k < 4; ++k) rows[k] = {
        .scale = scale[k], .bias = bias[k], .alpha = alpha[k], .beta = beta[k], .row = channel, .count = kChannels};
  }
};

// kNew: columns that a token reads and the one before it did not.
template <class Isa, int kNew, bool kInt8>
struct ThreeColumns {
  using Own = Columns<Isa>;
  using Bytes = typename Isa::Bytes;
  using Result = std::conditional_t<kInt8, int8_t, float>;
  static constexpr int kLanes = Own::kLanes, kOld = 3 - kNew;

  const Own own;
  const Results<kLanes, kInt8> results;
  const int64_t step, apart, y_stride;
  Result* y;

  __attribute__((always_inline)) ThreeColumns(const TernaryDepthwiseArgs& p, int64_t channel)
      : own(p, channel),
        results(p.layer, own.rows[0]),
        step(p.step),
        apart(p.pixels[1] - p.pixels[0]),
        y_stride(p.layer.y_stride) {
    if constexpr (kInt8) {
      y = p.layer.y_q + channel;
    } else {
      y = p.layer.y + channel;
    }
  }

  // The results of kTokens tokens, the first of which is number i of its line; what belongs to channels is loaded once for them. old: the columns that the one
  // before has read, too, and then those that the next one will.
  template <int kTokens>
  __attribute__((always_inline)) void tokens(const int8_t* const (&from)[3], int64_t i, int64_t token,
                                             Bytes (&old)[kOld + 1][4]) const {
    constexpr int kColumns = 3 + (kTokens - 1) * kNew;
    Bytes q[kColumns][4];
    BITLAB_UNROLL for (int x = 0; x < kOld; ++x) BITLAB_UNROLL for (int k = 0; k < 4; ++k) q[x][k] = old[x][k];
    BITLAB_UNROLL for (int x = kOld; x < kColumns; ++x) Own::column(from, i * step + x * apart, q[x]);
    typename Results<kLanes, kInt8>::Value out[kTokens][4];
    constexpr int kParts = 4 / Isa::kSums;  // registers of int32 that a sum becomes
    BITLAB_UNROLL for (int s = 0; s < Isa::kSums; ++s) {
      Ints<kLanes> sums[kTokens][kParts];
      BITLAB_UNROLL for (int n = 0; n < kTokens; ++n) {
        typename Isa::Sum sum = own.start[s];
        BITLAB_UNROLL for (int x = 0; x < 3; ++x) sum = Isa::plus(sum, s, q[n * kNew + x], own.t[x]);
        Isa::widen(sum, sums[n]);
      }
      BITLAB_UNROLL for (int part = 0; part < kParts; ++part) {
        const int k = s * kParts + part;
        Floats<kLanes> scaled[kTokens];
        typename Results<kLanes, kInt8>::Value values[kTokens];
        BITLAB_UNROLL for (int n = 0; n < kTokens; ++n) scaled[n] = results.scaled(own.rows[k], sums[n][part], token + n);
        results.values(own.rows[k], scaled, token, values);
        BITLAB_UNROLL for (int n = 0; n < kTokens; ++n) out[n][k] = values[n];
      }
    }
    BITLAB_UNROLL for (int n = 0; n < kTokens; ++n) {
      if constexpr (kInt8) {
        const auto bytes = Isa::narrow(out[n]);
        std::memcpy(y + (token + n) * y_stride, &bytes, sizeof(bytes));
      } else {
        Isa::in_order(out[n]);
        std::memcpy(y + (token + n) * y_stride, out[n], sizeof(out[n]));
      }
    }
    BITLAB_UNROLL for (int x = 0; x < kOld; ++x) BITLAB_UNROLL for (int k = 0; k < 4; ++k) old[x][k] =
        q[kColumns - kOld + x][k];
  }
};

template <class Isa, int kNew, bool kInt8>
BITLAB_NOINLINE void three_columns(const TernaryDepthwiseArgs& p, int64_t lines, int64_t channel) {
  using Three = ThreeColumns<Isa, kNew, kInt8>;
  const Three three(p, channel);
  const int64_t width = p.width;
  for (int64_t line = 0; line < lines; ++line) {
    const int8_t* from[3];
    BITLAB_UNROLL for (int y = 0; y < 3; ++y) from[y] = p.pixels[9 * line + 3 * y] + channel;
    typename Three::Bytes old[Three::kOld + 1][4];
    BITLAB_UNROLL for (int x = 0; x < Three::kOld; ++x) Three::Own::column(from, x * three.apart, old[x]);
    int64_t i = 0;
    for (; i + 2 <= width; i += 2) three.template tokens<2>(from, i, line * width + i, old);
    if (i < width) three.template tokens<1>(from, i, line * width + i, old);
  }
}

template <class Isa, int kNew>
BITLAB_INLINE void channels_by(const TernaryDepthwiseArgs& p, int64_t lines, int64_t& channel) {
  for (; channel + Isa::kChannels <= p.layer.rows; channel += Isa::kChannels) {
    if (p.layer.y_q == nullptr) {
      three_columns<Isa, kNew, false>(p, lines, channel);
    } else {
      three_columns<Isa, kNew, true>(p, lines, channel);
    }
  }
}

// All channels that the Isas take, in their order; how many these were.
template <class... Isas>
BITLAB_INLINE int64_t depthwise_by_columns(const TernaryDepthwiseArgs& p, int64_t lines) {
  int64_t channel = 0;
  if (p.taps != 9 || p.columns != 3 || p.step == 0 || p.layer.residual != nullptr || lines <= 0) return channel;
  const int64_t apart = p.pixels[1] - p.pixels[0];
  const auto all_by = [&](auto fresh) __attribute__((always_inline)) {
    (channels_by<Isas, fresh.value>(p, lines, channel), ...);
  };
  if (p.step == apart) {
    all_by(std::integral_constant<int, 1>{});
  } else if (p.step == 2 * apart) {
    all_by(std::integral_constant<int, 2>{});
  } else {
    all_by(std::integral_constant<int, 3>{});
  }
  return channel;
}

}  // namespace
}  // namespace bitlab::kernels
