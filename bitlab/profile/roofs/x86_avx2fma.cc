// The roof of fused float products in AVX2.
#include <cstdint>
#include <immintrin.h>

namespace bitlab::profile {
void roof_fma_avx2(const void* data, int64_t steps);

// Twelve independent sums: more than the latency of two products a cycle.
void roof_fma_avx2(const void* /*data*/, int64_t steps) {
  __m256 sum[12];
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sum[i] = _mm256_set1_ps(static_cast<float>(i));
  __m256 a = _mm256_set1_ps(1), b = _mm256_set1_ps(2);
  asm volatile("" : "+x"(a), "+x"(b));
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) {
      sum[i] = _mm256_fmadd_ps(a, b, sum[i]);
      asm volatile("" : "+x"(sum[i]));
    }
  }
}

}  // namespace bitlab::profile
