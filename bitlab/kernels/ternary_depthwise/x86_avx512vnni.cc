// AVX-512 VNNI: 3 x 3 taps of 64, 32 or 16 channels by vpdpbusd. All else is as in AVX-512.
#include "bitlab/kernels/ternary_depthwise/internal/columns.h"

namespace bitlab::kernels {
namespace {

template <>
struct Wide<64> {
  using Bytes = __m512i;
  BITLAB_INLINE Bytes low8(Bytes a, Bytes b) { return _mm512_unpacklo_epi8(a, b); }
  BITLAB_INLINE Bytes high8(Bytes a, Bytes b) { return _mm512_unpackhi_epi8(a, b); }
  BITLAB_INLINE Bytes low16(Bytes a, Bytes b) { return _mm512_unpacklo_epi16(a, b); }
  BITLAB_INLINE Bytes high16(Bytes a, Bytes b) { return _mm512_unpackhi_epi16(a, b); }
  BITLAB_INLINE Bytes narrow(const Ints<16> (&y)[4]) {
    return _mm512_packs_epi16(_mm512_packs_epi32((__m512i)y[0], (__m512i)y[1]),
                              _mm512_packs_epi32((__m512i)y[2], (__m512i)y[3]));
  }
  // In lanes as sums are, from the order of channels, and back.
  BITLAB_INLINE void in_lanes(Floats<16> (&y)[4]) { in_order(y); }
  BITLAB_INLINE void in_order(Floats<16> (&y)[4]) {
    const __m512 a = _mm512_shuffle_f32x4((__m512)y[0], (__m512)y[1], 0x44),
                 b = _mm512_shuffle_f32x4((__m512)y[0], (__m512)y[1], 0xEE);
    const __m512 c = _mm512_shuffle_f32x4((__m512)y[2], (__m512)y[3], 0x44),
                 d = _mm512_shuffle_f32x4((__m512)y[2], (__m512)y[3], 0xEE);
    y[0] = (Floats<16>)_mm512_shuffle_f32x4(a, c, 0x88), y[1] = (Floats<16>)_mm512_shuffle_f32x4(a, c, 0xDD);
    y[2] = (Floats<16>)_mm512_shuffle_f32x4(b, d, 0x88), y[3] = (Floats<16>)_mm512_shuffle_f32x4(b, d, 0xDD);
  }
};

BITLAB_INLINE Ints<16> dot(Ints<16> sum, __m512i q, __m512i t) { return (Ints<16>)_mm512_dpbusd_epi32((__m512i)sum, q, t); }
BITLAB_INLINE Ints<8> dot(Ints<8> sum, __m256i q, __m256i t) { return (Ints<8>)_mm256_dpbusd_epi32((__m256i)sum, q, t); }
BITLAB_INLINE Ints<4> dot(Ints<4> sum, __m128i q, __m128i t) { return (Ints<4>)_mm_dpbusd_epi32((__m128i)sum, q, t); }

// Four bytes for each channel, of which the fourth is multiplied by 0.
template <int kCount>
struct Fours : Wide<kCount> {
  using Own = Wide<kCount>;
  using Bytes = typename Own::Bytes;
  using Sum = Ints<kCount / 4>;
  static constexpr int kChannels = kCount, kSums = 4;

  BITLAB_INLINE void interleave(Bytes a, Bytes b, Bytes c, Bytes d, Bytes (&out)[4]) {
    const Bytes low = Own::low8(a, b), high = Own::high8(a, b), low_rest = Own::low8(c, d), high_rest = Own::high8(c, d);
    out[0] = Own::low16(low, low_rest), out[1] = Own::high16(low, low_rest);
    out[2] = Own::low16(high, high_rest), out[3] = Own::high16(high, high_rest);
  }
  BITLAB_INLINE Sum plus(Sum sum, int s, const Bytes (&q)[4], const Bytes (&t)[4]) { return dot(sum, q[s], t[s]); }
  BITLAB_INLINE void widen(Sum sum, Sum (&out)[1]) { out[0] = sum; }
};

}  // namespace

void ternary_depthwise_x86_avx512vnni(const TernaryDepthwiseArgs& p, int64_t lines) {
  depthwise<16>(p, lines, depthwise_by_columns<Fours<64>, Fours<32>, Fours<16>>(p, lines));
}

}  // namespace bitlab::kernels
