// The roof of AVX-512 VNNI.
#include <immintrin.h>

#include "bitlab/profile/internal/products.h"

namespace bitlab::profile {
void roof_vpdpbusd(const void* data, int64_t steps);

void roof_vpdpbusd(const void* /*data*/, int64_t steps) {
  multiply<16>(steps, _mm512_set1_epi32(1), _mm512_set1_epi8(1), _mm512_set1_epi8(2),
               [](const __m512i& sum, const __m512i& a, const __m512i& b) { return _mm512_dpbusd_epi32(sum, a, b); });
}

}  // namespace bitlab::profile
