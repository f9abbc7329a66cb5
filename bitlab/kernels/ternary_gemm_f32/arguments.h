// What a ternary_gemm_f32 kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

struct TernaryGemmF32Args {
  // Weights in layout kRows, scales, epilogue and results as in ternary_gemm; q and a are not used.
  TernaryGemmArgs layer;
  const float* x;  // [tokens, depth]
  int64_t x_stride;
};

using TernaryGemmF32Kernel = void(const TernaryGemmF32Args& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                                  int64_t row_end);

#define BITLAB_KERNEL(name, ...) TernaryGemmF32Kernel ternary_gemm_f32_##name;
#include "bitlab/kernels/ternary_gemm_f32/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
