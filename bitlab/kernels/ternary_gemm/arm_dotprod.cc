// 64-bit Arm with the dot product instructions: sdot multiplies codes by int8 into int32, modulo 2^32.
#include "bitlab/kernels/ternary_gemm/arm_isa.h"

namespace bitlab::kernels {
namespace {

struct DotProduct : Arm {
  static constexpr int64_t kWiden = int64_t{1} << 40;
  using Quads = int8x16_t;
  using Sum = int32x4_t;

  BITLAB_INLINE Quads broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  BITLAB_INLINE void dot(Sum& sum, Codes codes, Quads q4) { sum = vdotq_s32(sum, vreinterpretq_s8_u8(codes), q4); }
  BITLAB_INLINE Ints<4> widen(Sum sum) { return (Ints<4>)sum; }
};

}  // namespace

void ternary_gemm_arm_dotprod(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin, int64_t row_end,
                              uint8_t* scratch) {
  vn_gemm<DotProduct>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
