// Float32 product for layers that are kept in float:
//
//   y[m, n] = (sum over k of x[m, k] * w[n, k]) + bias[n]
//
// The sum runs in the order of simd.h, so the result is the same on every machine; it differs from LibTorch's by the rounding of
// another order ("bounded").
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/float_gemm/arguments.h"
#include "bitlab/kernels/selection.h"

namespace bitlab::kernels {

using FloatGemmRow = KernelRow<FloatGemmKernel>;
KernelList<FloatGemmRow> float_gemm_kernels();

void float_gemm(const FloatGemmRow& row, const FloatGemmArgs& args, int64_t tokens, ThreadPool& pool);

}  // namespace bitlab::kernels
