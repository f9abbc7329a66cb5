// The roofs of AVX2.
#include <immintrin.h>

#include "bitlab/profile/internal/products.h"

namespace bitlab::profile {
void roof_vpmaddubsw(const void* data, int64_t steps);
void roof_read_avx2(const void* data, int64_t bytes);

// A product and the addition of its int16 sums.
void roof_vpmaddubsw(const void* /*data*/, int64_t steps) {
  multiply<8, 16>(steps, _mm256_set1_epi32(1), _mm256_set1_epi8(1), _mm256_set1_epi8(2),
                  [](const __m256i& sum, __m256i& a, __m256i& b) {
                    BITLAB_UNKNOWN(a);  // or the product would be made once for all
                    BITLAB_UNKNOWN(b);
                    return _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b));
                  });
}

void roof_read_avx2(const void* data, int64_t bytes) {
  const auto* p = static_cast<const uint8_t*>(data);
  __m256i x = _mm256_setzero_si256(), y = x, z = x, w = x;
  for (int64_t i = 0; i < bytes; i += 128) {
    for (int64_t line = 0; line < 128; line += 64)
      _mm_prefetch(reinterpret_cast<const char*>(p) + i + 4096 + line, _MM_HINT_T0);
    x = _mm256_or_si256(x, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i)));
    y = _mm256_or_si256(y, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 32)));
    z = _mm256_or_si256(z, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 64)));
    w = _mm256_or_si256(w, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + i + 96)));
  }
  x = _mm256_or_si256(_mm256_or_si256(x, y), _mm256_or_si256(z, w));
  asm volatile("" : "+x"(x));
}

}  // namespace bitlab::profile
