// 64-bit Arm with the dot product instructions: sdot multiplies codes by int8 into int32, modulo 2^32.
#include "bitlab/kernels/ternary_gemm/internal/arm_isa.h"

namespace bitlab::kernels {

void ternary_gemm_arm_dotprod(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                              int64_t row_end, uint8_t* scratch) {
  vn_gemm<ArmDotProduct>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
