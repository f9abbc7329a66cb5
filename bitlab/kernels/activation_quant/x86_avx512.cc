// AVX-512: 64 values at a time.
#include <immintrin.h>

#include "bitlab/kernels/activation_quant/internal/body.h"

namespace bitlab::kernels {
namespace {

struct Avx512 {
  static constexpr int kWidth = 16;
  BITLAB_INLINE void store_block(int8_t* q, const Floats<16> (&values)[4]) {
    const __m512i words01 = _mm512_packs_epi32(_mm512_cvtps_epi32(values[0]), _mm512_cvtps_epi32(values[1])),
                  words23 = _mm512_packs_epi32(_mm512_cvtps_epi32(values[2]), _mm512_cvtps_epi32(values[3]));
    const __m512i bytes = _mm512_packs_epi16(words01, words23);  // four of each register in every quarter
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(q, _mm512_permutexvar_epi32(order, bytes));
  }
};

}  // namespace

bool activation_quant_x86_avx512(const float* x, int64_t count, ActivationScale scale, int8_t* q, float* a) {
  return quantize<Avx512>(x, count, scale, q, a);
}

}  // namespace bitlab::kernels
