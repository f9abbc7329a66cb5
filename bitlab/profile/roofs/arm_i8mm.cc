// The roof of 8-bit matrix products.
#include <arm_neon.h>
#include <cstdint>

namespace bitlab::profile {
void roof_smmla(const void* data, int64_t steps);

// Sixteen independent sums: more than the latency of a product.
void roof_smmla(const void* /*data*/, int64_t steps) {
  int32x4_t sum[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sum[i] = vdupq_n_s32(i);
  int8x16_t a = vdupq_n_s8(1), b = a;
  asm volatile("" : "+w"(a), "+w"(b));
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      sum[i] = vmmlaq_s32(sum[i], a, b);
      asm volatile("" : "+w"(sum[i]));
    }
  }
}

}  // namespace bitlab::profile
