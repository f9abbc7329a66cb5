// The roofs of AVX-512.
#include <cstdint>
#include <immintrin.h>

namespace bitlab::profile {
void roof_fma_avx512(const void* data, int64_t steps);
void roof_read_avx512(const void* data, int64_t bytes);

// Sixteen independent sums: more than the latency of two products a cycle.
void roof_fma_avx512(const void* /*data*/, int64_t steps) {
  __m512 sum[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  __m512 a = _mm512_set1_ps(1), b = _mm512_set1_ps(2);
  asm volatile("" : "+v"(a), "+v"(b));
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      sum[i] = _mm512_fmadd_ps(a, b, sum[i]);
      asm volatile("" : "+v"(sum[i]));
    }
  }
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
