// AVX2: 32 values at a time.
#include <immintrin.h>

#include "bitlab/kernels/activation_quant/internal/body.h"

namespace bitlab::kernels {
namespace {

struct Avx2 {
  static constexpr int kWidth = 8;
  BITLAB_INLINE void store_block(int8_t* q, const Floats<8> (&values)[4]) {
    const __m256i words01 = _mm256_packs_epi32(_mm256_cvtps_epi32(values[0]), _mm256_cvtps_epi32(values[1])),
                  words23 = _mm256_packs_epi32(_mm256_cvtps_epi32(values[2]), _mm256_cvtps_epi32(values[3]));
    const __m256i bytes = _mm256_packs_epi16(words01, words23);  // lanes 0 4 1 5 2 6 3 7 of four values
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q),
                        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }
};

}  // namespace

bool activation_quant_x86_avx2(const float* x, int64_t count, ActivationScale scale, int8_t* q, float* a) {
  return quantize<Avx2>(x, count, scale, q, a);
}

}  // namespace bitlab::kernels
