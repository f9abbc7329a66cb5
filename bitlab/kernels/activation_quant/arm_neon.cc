// 64-bit Arm: 16 values at a time.
#include <arm_neon.h>

#include "bitlab/kernels/activation_quant/internal/body.h"

namespace bitlab::kernels {
namespace {

struct Neon {
  static constexpr int kWidth = 4;
  BITLAB_INLINE void store_block(int8_t* q, const Floats<4> (&values)[4]) {
    int16x4_t words[4];
    for (int v = 0; v < 4; ++v) words[v] = vqmovn_s32(vcvtnq_s32_f32((float32x4_t)values[v]));
    const int8x8_t low = vqmovn_s16(vcombine_s16(words[0], words[1])), high = vqmovn_s16(vcombine_s16(words[2], words[3]));
    vst1q_s8(q, vcombine_s8(low, high));
  }
};

}  // namespace

bool activation_quant_arm_neon(const float* x, int64_t count, ActivationScale scale, int8_t* q, float* a) {
  return quantize<Neon>(x, count, scale, q, a);
}

}  // namespace bitlab::kernels
