// AVX-512 without VNNI: codes times int8 by vpmaddubsw, int16 sums widened every 256 k. Range: 16 steps x 4 fields x 2 products x 2 x 127 =
// 32,512 < 2^15.
#include "bitlab/kernels/ternary_gemm/internal/x86_avx512.h"

namespace bitlab::kernels {
namespace {

struct Avx512Words : Avx512 {
  static constexpr int64_t kWiden = 16;
  using Sum = __m512i;

  BITLAB_INLINE void dot(Sum& sum, Codes codes, Quads q4) {
    sum = _mm512_add_epi16(sum, _mm512_maddubs_epi16(codes, q4));
    BITLAB_KEEP(sum);
  }
  BITLAB_INLINE Ints<16> widen(Sum sum) { return (Ints<16>)_mm512_madd_epi16(sum, _mm512_set1_epi16(1)); }
  BITLAB_INLINE int32_t sum_of(const int8_t* q, int64_t steps) {
    __m512i total = _mm512_setzero_si512();
    for (int64_t s = 0; s < steps; ++s)
      total =
          _mm512_add_epi32(total, _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q + s * kVnStep))));
    return _mm512_reduce_add_epi32(total);
  }
};

}  // namespace

void ternary_gemm_x86_avx512(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                             int64_t row_end, uint8_t* scratch) {
  vn_gemm<Avx512Words>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
