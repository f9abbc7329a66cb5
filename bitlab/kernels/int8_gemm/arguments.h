// What an int8_gemm kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

// As of ternary_gemm with one scale a row; `weights` are those of pack_int8.
using Int8GemmArgs = TernaryGemmArgs;
using Int8GemmKernel = TernaryGemmKernel;

#define BITLAB_KERNEL(name, ...) Int8GemmKernel int8_gemm_##name;
#include "bitlab/kernels/int8_gemm/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
