// AVX2: sixteen products in two registers.
#include "bitlab/kernels/ternary_gemm_f32/internal/body.h"

namespace bitlab::kernels {

void ternary_gemm_f32_x86_avx2(const TernaryGemmF32Args& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                               int64_t row_end) {
  weight_only(args, token_begin, token_end, row_begin, row_end);
}

}  // namespace bitlab::kernels
