// 64-bit Arm with the matrix product instructions: smmla multiplies 2 rows x 8 k of codes by 2 tokens x 8 k of int8 into 2 x 2 int32, modulo
// 2^32. Odd tokens, and rows with two scales, go by dot products.
#include "bitlab/kernels/ternary_gemm/internal/arm_isa.h"

namespace bitlab::kernels {
namespace {

struct MatrixProduct : ArmDotProduct {
  static constexpr bool kHasPairs = true;

  // sum[r][t] += the products of the steps [begin, end).
  template <int kRegs, int kToks, bool kWhole>
  BITLAB_INLINE void multiply_pairs(Sum (&sum)[kRegs][kToks], const VnWeights& w, const int8_t* q, int64_t q_stride,
                                    int64_t begin, int64_t end) {
    int32x4_t low[kRegs][kToks / 2], high[kRegs][kToks / 2];  // rows 0, 1 and rows 2, 3 of a register, each for two tokens
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks / 2; ++t) low[r][t] = high[r][t] =
        vdupq_n_s32(0);
    for (int64_t s = begin; s < end; ++s) {
      Codes x[kRegs];
      load_codes<MatrixProduct, kRegs, kWhole>(x, w.first + s * w.step_bytes, w.rows - kRows * (kRegs - 1));
      int8x16_t first[kToks / 2], second[kToks / 2];  // k 0 to 7 and 8 to 15 of two tokens
      BITLAB_UNROLL for (int t = 0; t < kToks / 2; ++t) {
        const int64x2_t even = vreinterpretq_s64_s8(vld1q_s8(q + 2 * t * q_stride + s * kVnStep)),
                        odd = vreinterpretq_s64_s8(vld1q_s8(q + (2 * t + 1) * q_stride + s * kVnStep));
        first[t] = vreinterpretq_s8_s64(vzip1q_s64(even, odd));
        second[t] = vreinterpretq_s8_s64(vzip2q_s64(even, odd));
      }
      BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) {
        int32x4_t field[4];
        BITLAB_UNROLL for (int f = 0; f < 4; ++f) {
          field[f] = vreinterpretq_s32_u8(ArmDotProduct::field(x[r]));
          x[r] = next(x[r]);
        }
        const int8x16_t low_first = vreinterpretq_s8_s32(vzip1q_s32(field[0], field[1])),
                        low_second = vreinterpretq_s8_s32(vzip1q_s32(field[2], field[3])),
                        high_first = vreinterpretq_s8_s32(vzip2q_s32(field[0], field[1])),
                        high_second = vreinterpretq_s8_s32(vzip2q_s32(field[2], field[3]));
        BITLAB_UNROLL for (int t = 0; t < kToks / 2; ++t) {
          low[r][t] = vmmlaq_s32(low[r][t], low_first, first[t]);
          low[r][t] = vmmlaq_s32(low[r][t], low_second, second[t]);
          high[r][t] = vmmlaq_s32(high[r][t], high_first, first[t]);
          high[r][t] = vmmlaq_s32(high[r][t], high_second, second[t]);
        }
      }
    }
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks / 2; ++t) {
      sum[r][2 * t] += vuzp1q_s32(low[r][t], high[r][t]);
      sum[r][2 * t + 1] += vuzp2q_s32(low[r][t], high[r][t]);
    }
  }
};

}  // namespace

void ternary_gemm_arm_i8mm(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                           int64_t row_end, uint8_t* scratch) {
  vn_gemm<MatrixProduct>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
