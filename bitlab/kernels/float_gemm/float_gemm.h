// Float32 product for layers that are kept in float:
//
//   y[m, n] = (sum over k of x[m, k] * w[n, k]) + bias[n]
//
// The sum runs in the order of simd.h, so the result is the same on every machine; it differs from LibTorch's by the rounding of
// another order ("bounded").
#pragma once

#include <span>

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/float_gemm/arguments.h"
#include "bitlab/kernels/selection.h"

namespace bitlab::kernels {

struct FloatGemmRow {
  const char* name;
  FeatureSet needs;
  double product_cost;
  FloatGemmKernel* run;  // null: not part of this build
};

std::span<const FloatGemmRow> float_gemm_rows();
Selection<FloatGemmRow> explain_float_gemm(const Machine& machine, const Policy& policy);
Result<const FloatGemmRow*> select_float_gemm(const Machine& machine, const Policy& policy);

void float_gemm(const FloatGemmRow& row, const FloatGemmArgs& args, int64_t tokens, ThreadPool& pool);

}  // namespace bitlab::kernels
