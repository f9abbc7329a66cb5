// Product of float32 activations and ternary weights ("weight-only"), for layers whose activations are not quantized:
//
//   sum[m, n] = sum over k of x[m, k] * t[n, k]      in the order of simd.h: 16 partial sums, one tree
//   y = sum * scale[n]                               one scale a row or tensor; then bias, affine, ReLU and int8 as in ternary_gemm
//
// Products are exact, since t is -1, 0 or 1; the sums round, in an order that is the same on every machine.
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/selection.h"
#include "bitlab/kernels/ternary_gemm_f32/arguments.h"

namespace bitlab::kernels {

using TernaryGemmF32Row = KernelRow<TernaryGemmF32Kernel>;
KernelList<TernaryGemmF32Row> ternary_gemm_f32_kernels();

void ternary_gemm_f32(const TernaryGemmF32Row& row, const TernaryGemmF32Args& args, int64_t tokens, ThreadPool& pool);

}  // namespace bitlab::kernels
