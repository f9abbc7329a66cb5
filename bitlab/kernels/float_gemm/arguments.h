// What a float_gemm kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

struct FloatGemmArgs {
  const float* w;  // [rows, depth], row-major
  int64_t rows;    // N
  int64_t depth;   // K
  const float* x;  // [tokens, depth]
  int64_t x_stride;
  const float* bias;  // [rows], or null
  float* y;           // [tokens, rows]
  int64_t y_stride;
};

using FloatGemmKernel = void(const FloatGemmArgs& args, int64_t token_begin, int64_t token_end, int64_t row_begin,
                             int64_t row_end);

#define BITLAB_KERNEL(name, ...) FloatGemmKernel float_gemm_##name;
#include "bitlab/kernels/float_gemm/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
