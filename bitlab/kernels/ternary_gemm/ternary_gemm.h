// Product of int8 activations and ternary weights with the contract's epilogue:
//
//   y[m, n] = ((float(sum over k of q[m, k] * t[n, k]) * a[m]) * scale[n]) + bias[n]
//
// Shapes, strides and alignment: arguments.h. The sum is exact for every input with K <= 2^24; the epilogue rounds after every
// operation to float32, without fused multiply-add; the result does not depend on the kernel, the number of threads or how
// tokens and rows are split. Source of the number format: BitNet b1.58 (arXiv:2402.17764); of the kVn layout: BitLab.
#pragma once

#include <span>

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/selection.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

struct TernaryGemmRow {
  const char* name;
  FeatureSet needs;
  TernaryLayout layout;
  double fixed_cost;
  double step_cost;
  TernaryGemmKernel* run;  // null: not part of this build
};

struct TernaryGemmProblem {
  int64_t tokens, rows, depth;
};

std::span<const TernaryGemmRow> ternary_gemm_rows();

// The layout to pack a [rows, depth] weight in: that of the row with the least total cost over 1, 8 and 64 tokens. At load.
Result<TernaryLayout> select_ternary_layout(int64_t rows, int64_t depth, const Machine& machine, const Policy& policy);

// The kernel for one number of tokens, given the layout. When a plan is made, never per call.
Selection<TernaryGemmRow> explain_ternary_gemm(const TernaryGemmProblem& problem, TernaryLayout layout,
                                               const Machine& machine, const Policy& policy);
Result<const TernaryGemmRow*> select_ternary_gemm(const TernaryGemmProblem& problem, TernaryLayout layout,
                                                  const Machine& machine, const Policy& policy);

// All tokens and rows, on the pool's threads.
void ternary_gemm(const TernaryGemmRow& row, const TernaryGemmArgs& args, int64_t tokens, ThreadPool& pool);

}  // namespace bitlab::kernels
