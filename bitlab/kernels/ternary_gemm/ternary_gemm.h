// Product of int8 activations and ternary weights with the contract's epilogue (docs/numerics.md):
//
//   acc[m, n] = sum over k of q[m, k] * t[n, k]                                      exact for every input with K <= 2^24
//   y = (float(acc) * a[m]) * scale[n]                                               one scale a row or tensor
//   y = (float(acc over t = +1) * a[m]) * scale[n] - (float(acc over t = -1) * a[m]) * scale_neg[n]      asymmetric, acc of -t q
//   y = (sum over groups, ascending from 0, of float(acc of the group) * scale[n, group]) * a[m]         groups of 64, 128 or 256 k
//   y = y + bias[n];  y = y * alpha[n];  y = y + beta[n];  y = y + residual[m, n]    where given
//   y = y < 0 ? 0 : y;  y = min(max(y, low), high)                                   where asked for; NaN stays
//   y_q = clamp(rint(y * y_inv), -y_limit, y_limit)                                  where int8 is asked for; half to even
//
// Shapes, strides and alignment: arguments.h. Every operation rounds to float32, without fused multiply-add; the result does not
// depend on the kernel, the number of threads or how tokens and rows are split. Sources of the number formats: BitNet b1.58
// (arXiv:2402.17764), TTQ (arXiv:1612.01064) for two scales; of the kVn layout: BitLab.
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/selection.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

enum class TernaryGemmServes : uint8_t { kPlainOnly, kAllScales };

struct TernaryGemmCost {
  double fixed, step, pass;  // nanoseconds; kernels.def says of what
  int64_t lanes;
  double single = 0;
};

struct TernaryGemmScratch {
  int64_t bytes = 0, bytes_a_k = 0;
};

struct TernaryGemmRow {
  const char* name;
  FeatureSet needs;
  TernaryLayout layout;
  TernaryGemmServes serves;
  TernaryGemmCost cost;
  TernaryGemmScratch scratch;
  TernaryGemmKernel* run;  // null: not part of this build
};

struct TernaryGemmProblem {
  int64_t tokens, rows, depth;
  int64_t group = 0;        // k that share a scale; 0: the whole row
  bool asymmetric = false;  // a second scale for t = -1
  bool operator==(const TernaryGemmProblem&) const = default;
};

KernelList<TernaryGemmRow> ternary_gemm_kernels();

// The layout to pack a [rows, depth] weight in: that of the row with the least total cost over 1, 8 and 64 tokens. At load.
Result<TernaryLayout> select_ternary_layout(int64_t rows, int64_t depth, const Machine& machine, const Policy& policy);

// The kernel for one number of tokens, given the layout. When a plan is made, never per call.
Selection<TernaryGemmRow> explain_ternary_gemm(const TernaryGemmProblem& problem, TernaryLayout layout,
                                               const Machine& machine, const Policy& policy);
Result<const TernaryGemmRow*> select_ternary_gemm(const TernaryGemmProblem& problem, TernaryLayout layout,
                                                  const Machine& machine, const Policy& policy);

// What one call of row.run needs, in bytes; a multiple of 64.
int64_t ternary_gemm_scratch_bytes(const TernaryGemmRow& row, int64_t depth, int64_t group = 0);

// All tokens and rows, on the pool's threads. `scratch` is aligned to 64 and holds ternary_gemm_scratch_bytes for each thread.
void ternary_gemm(const TernaryGemmRow& row, const TernaryGemmArgs& args, int64_t tokens, uint8_t* scratch,
                  ThreadPool& pool);

}  // namespace bitlab::kernels
