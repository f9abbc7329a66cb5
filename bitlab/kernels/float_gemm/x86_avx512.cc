#include "bitlab/kernels/float_gemm/internal/body.h"

namespace bitlab::kernels {

void float_gemm_x86_avx512(const FloatGemmArgs& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                           int64_t row_end) {
  float_gemm_body(args, token_begin, token_end, row_begin, row_end);
}

}  // namespace bitlab::kernels
