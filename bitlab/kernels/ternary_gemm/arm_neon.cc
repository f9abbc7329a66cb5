// 64-bit Arm without dot products: codes times int8 by smlal into int16, widened every 32 steps: 128 products a lane, 128 x 2 x 127 =
// 32,512 < 2^15.
#include "bitlab/kernels/ternary_gemm/internal/arm_isa.h"

namespace bitlab::kernels {
namespace {

struct Neon : Arm {
  static constexpr int kRegisters = 2, kOneTokenRegisters = 4;
  static constexpr int64_t kWiden = 32;
  using Quads = int8x8_t;
  struct Sum {
    int16x8_t rows01, rows23;
  };

  BITLAB_INLINE Quads broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, 4);
    return vreinterpret_s8_s32(vdup_n_s32(four));
  }
  BITLAB_INLINE void dot(Sum& sum, Codes codes, Quads q4) {
    const int8x16_t values = vreinterpretq_s8_u8(codes);
    sum.rows01 = vmlal_s8(sum.rows01, vget_low_s8(values), q4);
    sum.rows23 = vmlal_s8(sum.rows23, vget_high_s8(values), q4);
  }
  BITLAB_INLINE Ints<4> widen(const Sum& sum) {
    return (Ints<4>)vpaddq_s32(vpaddlq_s16(sum.rows01), vpaddlq_s16(sum.rows23));
  }
};

}  // namespace

void ternary_gemm_arm_neon(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                           int64_t row_end, uint8_t* scratch) {
  vn_gemm<Neon>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
