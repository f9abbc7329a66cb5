// AVX2: 3 x 3 taps of 32 or 16 channels by vpmaddubsw, and other taps 8 channels at a time.
#include "bitlab/kernels/ternary_depthwise/internal/columns.h"

namespace bitlab::kernels {
namespace {

BITLAB_INLINE __m256i products(__m256i q, __m256i t) { return _mm256_maddubs_epi16(q, t); }
BITLAB_INLINE __m128i products(__m128i q, __m128i t) { return _mm_maddubs_epi16(q, t); }

// Two bytes for each channel, twice: of the upper two lines of a column, and of the third and one that is multiplied by 0. int16 holds the sums:
// 9 x 255 < 2^15.
template <int kCount>
struct Twos : Wide<kCount> {
  using Own = Wide<kCount>;
  using Bytes = typename Own::Bytes;
  using Sum = typename Lanes<kCount / 2>::Words;
  static constexpr int kChannels = kCount, kSums = 2;

  BITLAB_INLINE void interleave(Bytes a, Bytes b, Bytes c, Bytes d, Bytes (&out)[4]) {
    out[0] = Own::low8(a, b), out[1] = Own::high8(a, b), out[2] = Own::low8(c, d), out[3] = Own::high8(c, d);
  }
  BITLAB_INLINE Sum plus(Sum sum, int s, const Bytes (&q)[4], const Bytes (&t)[4]) {
    return sum + (Sum)products(q[s], t[s]) + (Sum)products(q[2 + s], t[2 + s]);
  }
  BITLAB_INLINE void widen(Sum sum, Ints<kCount / 4> (&out)[2]) {
    const auto words = (Bytes)sum;  // in the upper half of each int32, which is shifted down with its sign
    out[0] = (Ints<kCount / 4>)Own::low16(words, words) >> 16;
    out[1] = (Ints<kCount / 4>)Own::high16(words, words) >> 16;
  }
};

}  // namespace

void ternary_depthwise_x86_avx2(const TernaryDepthwiseArgs& p, int64_t lines) {
  depthwise<8>(p, lines, depthwise_by_columns<Twos<32>, Twos<16>>(p, lines));
}

}  // namespace bitlab::kernels
