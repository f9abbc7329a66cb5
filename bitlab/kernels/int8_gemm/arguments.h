// What an int8_gemm kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

// As of ternary_gemm with one scale a row or tensor and q in one run. `weights` are those of pack_int8, `scratch` holds kInt8GemmScratchBytes,
// and depth is at most 2^17.
using Int8GemmArgs = TernaryGemmArgs;
using Int8GemmKernel = TernaryGemmKernel;

#define BITLAB_KERNEL(name, ...) Int8GemmKernel int8_gemm_##name;
#include "bitlab/kernels/int8_gemm/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
