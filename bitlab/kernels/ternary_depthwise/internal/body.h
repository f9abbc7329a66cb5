// The one source of the ternary_depthwise kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/ternary_depthwise/arguments.h"
#include "bitlab/kernels/ternary_gemm/epilogue.h"

namespace bitlab::kernels {
namespace {

// kWidth channels of a pixel, of which `count` exist. int16 holds the sums of 256 taps: 256 x 127 = 32,512 < 2^15.
template <int kWidth>
BITLAB_INLINE Ints<kWidth> channels_of(const TernaryDepthwiseArgs& p, const int8_t* const* pixels, int64_t channel,
                                       int64_t count) {
  using Words = typename Lanes<kWidth>::Words;
  constexpr int64_t kWiden = 256;
  Ints<kWidth> acc{};
  for (int64_t begin = 0; begin < p.taps; begin += kWiden) {
    const int64_t end = begin + kWiden < p.taps ? begin + kWiden : p.taps;
    Words sum{};
    for (int64_t tap = begin; tap < end; ++tap) {
      typename Lanes<kWidth>::Bytes q{};
      Words t{};
      const int8_t* from = pixels[tap] + channel;
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
      sum += __builtin_convertvector(q, Words) * t;
    }
    acc += __builtin_convertvector(sum, Ints<kWidth>);
  }
  return acc;
}

template <int kWidth>
BITLAB_INLINE void depthwise(const TernaryDepthwiseArgs& p, int64_t token_begin, int64_t token_end) {
  for (int64_t channel = 0; channel < p.layer.rows; channel += kWidth) {
    const auto constants = RowConstants<kWidth>::of(p.layer, channel);
    for (int64_t token = token_begin; token < token_end; ++token)
      finish_sum<kWidth>(p.layer, constants, channels_of<kWidth>(p, p.pixels + token * p.taps, channel, constants.count),
                         token);
  }
}

}  // namespace
}  // namespace bitlab::kernels
