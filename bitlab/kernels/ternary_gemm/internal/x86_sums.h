// Sums of q on x86: of eight parts of a token, and of those of four tokens.
#pragma once

#include <immintrin.h>

#include "bitlab/kernels/ternary_gemm/epilogue.h"

namespace bitlab::kernels {
namespace {

BITLAB_INLINE int32_t sum_of_parts(__m256i parts) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(parts), _mm256_extracti128_si256(parts, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_srli_epi64(two, 32)));
}

BITLAB_INLINE void store_sums_of_parts(__m256i a, __m256i b, __m256i c, __m256i d, int32_t* sums) {
  const __m256i all = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(sums), four);
}

}  // namespace
}  // namespace bitlab::kernels
