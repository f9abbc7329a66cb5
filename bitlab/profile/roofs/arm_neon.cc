// The roof of float products in NEON.
#include <arm_neon.h>

#include "bitlab/profile/internal/products.h"

namespace bitlab::profile {
void roof_fmla(const void* data, int64_t steps);

void roof_fmla(const void* /*data*/, int64_t steps) {
  multiply<16>(steps, vdupq_n_f32(1), vdupq_n_f32(1), vdupq_n_f32(1),
               [](float32x4_t sum, float32x4_t a, float32x4_t b) { return vfmaq_f32(sum, a, b); });
}

}  // namespace bitlab::profile
