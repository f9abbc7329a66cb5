// The roof of 8-bit matrix products.
#include <arm_neon.h>

#include "bitlab/profile/internal/products.h"

namespace bitlab::profile {
void roof_smmla(const void* data, int64_t steps);

void roof_smmla(const void* /*data*/, int64_t steps) {
  multiply<16>(steps, vdupq_n_s32(1), vdupq_n_s8(1), vdupq_n_s8(1),
               [](int32x4_t sum, int8x16_t a, int8x16_t b) { return vmmlaq_s32(sum, a, b); });
}

}  // namespace bitlab::profile
