// The roof of fused float products in AVX2.
#include <immintrin.h>

#include "bitlab/profile/internal/products.h"

namespace bitlab::profile {
void roof_fma_avx2(const void* data, int64_t steps);

void roof_fma_avx2(const void* /*data*/, int64_t steps) {
  multiply<12>(steps, _mm256_set1_ps(1), _mm256_set1_ps(1), _mm256_set1_ps(2),
               [](const __m256& sum, const __m256& a, const __m256& b) { return _mm256_fmadd_ps(a, b, sum); });
}

}  // namespace bitlab::profile
