// The roof of AVX-512 VNNI.
#include <cstdint>
#include <immintrin.h>

namespace bitlab::profile {
void roof_vpdpbusd(const void* data, int64_t steps);

// Sixteen independent sums: more than the latency of a product.
void roof_vpdpbusd(const void* /*data*/, int64_t steps) {
  __m512i sum[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sum[i] = _mm512_set1_epi32(i);
  __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(2);
  asm volatile("" : "+v"(a), "+v"(b));
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
      asm volatile("" : "+v"(sum[i]));
    }
  }
}

}  // namespace bitlab::profile
