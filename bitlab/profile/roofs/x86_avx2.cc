// The roofs of AVX2.
#include <cstdint>
#include <immintrin.h>

namespace bitlab::profile {
void roof_vpmaddubsw(const void* data, int64_t steps);
void roof_read_avx2(const void* data, int64_t bytes);

// A product and the addition of its int16 sums, eight independent ones, each step twice.
void roof_vpmaddubsw(const void* /*data*/, int64_t steps) {
  __m256i sum[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sum[i] = _mm256_set1_epi32(i);
  __m256i a = _mm256_set1_epi8(1), b = _mm256_set1_epi8(2);
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      asm volatile("" : "+x"(a), "+x"(b));
      sum[i % 8] = _mm256_add_epi16(sum[i % 8], _mm256_maddubs_epi16(a, b));
      asm volatile("" : "+x"(sum[i % 8]));
    }
  }
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
