#include <immintrin.h>

#include "bitlab/kernels/activation_quant/arguments.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kLanes = 8;
constexpr int64_t kBlock = 4 * kLanes;

#define BITLAB_INLINE static inline __attribute__((always_inline))

// The lanes below `count`.
BITLAB_INLINE __m256i lanes_below(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

BITLAB_INLINE __m256i magnitude(__m256i bits) { return _mm256_and_si256(bits, _mm256_set1_epi32(0x7FFFFFFF)); }

// The bits of the largest |x|; they order like values, with infinity and NaN above all finite ones.
BITLAB_INLINE int32_t largest_magnitude(const float* x, int64_t count) {
  const auto* bits = reinterpret_cast<const __m256i*>(x);
  __m256i m0 = _mm256_setzero_si256(), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock, bits += 4) {
    m0 = _mm256_max_epi32(m0, magnitude(_mm256_loadu_si256(bits)));
    m1 = _mm256_max_epi32(m1, magnitude(_mm256_loadu_si256(bits + 1)));
    m2 = _mm256_max_epi32(m2, magnitude(_mm256_loadu_si256(bits + 2)));
    m3 = _mm256_max_epi32(m3, magnitude(_mm256_loadu_si256(bits + 3)));
  }
  for (; i < count; i += kLanes)
    m0 = _mm256_max_epi32(m0, magnitude(_mm256_maskload_epi32(reinterpret_cast<const int*>(x + i), lanes_below(count - i))));
  m0 = _mm256_max_epi32(_mm256_max_epi32(m0, m1), _mm256_max_epi32(m2, m3));
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(m0), _mm256_extracti128_si256(m0, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xB1));
  return _mm_cvtsi128_si32(half);
}

// rint(x * inv) as int32; |x * inv| <= 127 (1 + 2^-23), so clamping is left to the narrowing of exact integers: none exceeds 127.
BITLAB_INLINE __m256i scaled(__m256 x, __m256 inv) { return _mm256_cvtps_epi32(_mm256_mul_ps(x, inv)); }

BITLAB_INLINE void store_block(int8_t* q, __m256i v0, __m256i v1, __m256i v2, __m256i v3) {
  const __m256i words01 = _mm256_packs_epi32(v0, v1), words23 = _mm256_packs_epi32(v2, v3);
  const __m256i bytes = _mm256_packs_epi16(words01, words23);  // lanes 0 4 1 5 2 6 3 7 of four values
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q),
                      _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
}

}  // namespace

bool activation_quant_x86_avx2(const float* x, int64_t count, int8_t* q, float* a) {
  const int32_t largest = largest_magnitude(x, count);
  if (largest >= 0x7F800000) return false;
  const float absmax = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(largest)));
  const float inv = 127.0F / (absmax > 1e-5F ? absmax : 1e-5F);
  *a = 1.0F / inv;
  const __m256 factor = _mm256_set1_ps(inv);
  int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock)
    store_block(q + i, scaled(_mm256_loadu_ps(x + i), factor), scaled(_mm256_loadu_ps(x + i + 8), factor),
                scaled(_mm256_loadu_ps(x + i + 16), factor), scaled(_mm256_loadu_ps(x + i + 24), factor));
  for (; i < count; i += kLanes) {
    alignas(32) int32_t tail[kLanes];
    const __m256 values = _mm256_maskload_ps(x + i, lanes_below(count - i));
    _mm256_store_si256(reinterpret_cast<__m256i*>(tail), scaled(values, factor));
    for (int64_t j = 0; j < kLanes && i + j < count; ++j) q[i + j] = static_cast<int8_t>(tail[j]);
  }
  return true;
}

}  // namespace bitlab::kernels
