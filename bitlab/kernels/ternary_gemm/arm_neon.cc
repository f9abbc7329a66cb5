// 64-bit Arm without dot products, on the kVn layout: codes 0, 1, 2 times int8 by smlal into int16, widened every 32 steps:
// 128 products a lane, 128 x 2 x 127 = 32,512 < 2^15. The excess of one q per product, the sum of q, is subtracted.
#include "bitlab/kernels/ternary_gemm/arm_body.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kWiden = 32;  // steps between widenings

BITLAB_INLINE int8x8_t broadcast4(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, 4);
  return vreinterpret_s8_s32(vdup_n_s32(four));
}

template <int kUnits, int kTokens>
BITLAB_INLINE void tile(const TernaryGemmArgs& p, const Weights& w, int64_t token, int64_t row, const int32_t* sums) {
  constexpr int kRegisters = 2 * kUnits;  // of 4 rows; each has two int16 sums, of 2 rows times 4 k
  const uint8x16_t mask = vdupq_n_u8(3);
  const int8_t* q = p.q + token * p.q_stride;
  int32x4_t acc[kRegisters][kTokens][2];
  BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) acc[r][t][0] =
      acc[r][t][1] = vdupq_n_s32(0);
  for (int64_t begin = 0; begin < w.steps; begin += kWiden) {
    const int64_t end = begin + kWiden < w.steps ? begin + kWiden : w.steps;
    int16x8_t sum[kRegisters][kTokens][2];
    BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) sum[r][t][0] =
        sum[r][t][1] = vdupq_n_s16(0);
    for (int64_t s = begin; s < end; ++s) {
      const uint8_t* bytes = w.first + s * w.step_bytes;
      uint8x16_t x[kRegisters];
      BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) x[r] = vld1q_u8(bytes + 16 * r);
      BITLAB_UNROLL for (int f = 0; f < 4; ++f) {
        int8x16_t codes[kRegisters];
        BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) {
          codes[r] = vreinterpretq_s8_u8(vandq_u8(x[r], mask));
          x[r] = vshrq_n_u8(x[r], 2);
        }
        BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) {
          const int8x8_t q4 = broadcast4(q + t * p.q_stride + s * kVnStep + 4 * f);
          BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) {
            sum[r][t][0] = vmlal_s8(sum[r][t][0], vget_low_s8(codes[r]), q4);
            sum[r][t][1] = vmlal_s8(sum[r][t][1], vget_high_s8(codes[r]), q4);
          }
        }
      }
    }
    BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) {
      acc[r][t][0] = vpadalq_s16(acc[r][t][0], sum[r][t][0]);
      acc[r][t][1] = vpadalq_s16(acc[r][t][1], sum[r][t][1]);
    }
  }
  BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) {
    const int32x4_t biased = vpaddq_s32(acc[r][t][0], acc[r][t][1]);
    store_four(p, vsubq_s32(biased, vdupq_n_s32(sums[t])), token + t, row + 4 * r);
  }
}

}  // namespace

void ternary_gemm_arm_neon(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                           int64_t row_end) {
  run(p, token_begin, token_end, row_begin, row_end);
}

}  // namespace bitlab::kernels
