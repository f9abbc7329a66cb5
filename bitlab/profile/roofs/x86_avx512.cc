// The roofs of AVX-512.
#include <immintrin.h>

#include "bitlab/profile/internal/products.h"

namespace bitlab::profile {
void roof_fma_avx512(const void* data, int64_t steps);
void roof_read_avx512(const void* data, int64_t bytes);

void roof_fma_avx512(const void* /*data*/, int64_t steps) {
  multiply<16>(steps, _mm512_set1_ps(1), _mm512_set1_ps(1), _mm512_set1_ps(2),
               [](const __m512& sum, const __m512& a, const __m512& b) { return _mm512_fmadd_ps(a, b, sum); });
}

void roof_read_avx512(const void* data, int64_t bytes) {
  const auto* p = static_cast<const uint8_t*>(data);
  __m512i x = _mm512_setzero_si512(), y = x, z = x, w = x;
  for (int64_t i = 0; i < bytes; i += 256) {
    for (int64_t line = 0; line < 256; line += 64)
      _mm_prefetch(reinterpret_cast<const char*>(p) + i + 4096 + line, _MM_HINT_T0);
    x = _mm512_or_si512(x, _mm512_loadu_si512(p + i));
    y = _mm512_or_si512(y, _mm512_loadu_si512(p + i + 64));
    z = _mm512_or_si512(z, _mm512_loadu_si512(p + i + 128));
    w = _mm512_or_si512(w, _mm512_loadu_si512(p + i + 192));
  }
  x = _mm512_or_si512(_mm512_or_si512(x, y), _mm512_or_si512(z, w));
  asm volatile("" : "+v"(x));
}

}  // namespace bitlab::profile
