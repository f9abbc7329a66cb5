// 64-bit Arm with the dot product instructions, on the kVn layout: a register holds 4 rows times 4 k as codes 0, 1, 2; sdot multiplies
// them by four q into int32, modulo 2^32. The excess of one q per product, the sum of q, is subtracted.
#include "bitlab/kernels/ternary_gemm/arm_body.h"

namespace bitlab::kernels {
namespace {

template <int kUnits, int kTokens>
BITLAB_INLINE void tile(const TernaryGemmArgs& p, const Weights& w, int64_t token, int64_t row, const int32_t* sums) {
  constexpr int kRegisters = 2 * kUnits;  // of 4 rows
  const uint8x16_t mask = vdupq_n_u8(3);
  const int8_t* q = p.q + token * p.q_stride;
  int32x4_t acc[kRegisters][kTokens];
  BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) acc[r][t] =
      vdupq_n_s32(-sums[t]);
  for (int64_t s = 0; s < w.steps; ++s) {
    const uint8_t* bytes = w.first + s * w.step_bytes;
    int8x16_t q16[kTokens];
    BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) q16[t] = vld1q_s8(q + t * p.q_stride + s * kVnStep);
    BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) {
      const uint8x16_t x = vld1q_u8(bytes + 16 * r);
      const int8x16_t codes0 = vreinterpretq_s8_u8(vandq_u8(x, mask)),
                      codes1 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(x, 2), mask)),
                      codes2 = vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(x, 4), mask)),
                      codes3 = vreinterpretq_s8_u8(vshrq_n_u8(x, 6));
      BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) {
        acc[r][t] = vdotq_laneq_s32(acc[r][t], codes0, q16[t], 0);
        acc[r][t] = vdotq_laneq_s32(acc[r][t], codes1, q16[t], 1);
        acc[r][t] = vdotq_laneq_s32(acc[r][t], codes2, q16[t], 2);
        acc[r][t] = vdotq_laneq_s32(acc[r][t], codes3, q16[t], 3);
      }
    }
  }
  BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) BITLAB_UNROLL for (int t = 0; t < kTokens; ++t)
      store_four(p, acc[r][t], token + t, row + 4 * r);
}

}  // namespace

void ternary_gemm_arm_dotprod(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                              int64_t row_end) {
  run(p, token_begin, token_end, row_begin, row_end);
}

}  // namespace bitlab::kernels
