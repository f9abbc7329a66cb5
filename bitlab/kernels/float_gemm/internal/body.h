// The one source of the float_gemm kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/float_gemm/arguments.h"
#include "bitlab/kernels/internal/simd.h"

namespace bitlab::kernels {
namespace {

// One token times kRows rows: the token's values are loaded once for all of them.
template <int kRows>
BITLAB_ALWAYS_INLINE void rows_of(const FloatGemmArgs& p, int64_t m, int64_t n) {
  const float* x = p.x + m * p.x_stride;
  F32x16 sum[kRows];
  for (F32x16& s : sum) s = 0.0F;
  int64_t k = 0;
  for (; k + kLanes <= p.depth; k += kLanes) {
    const F32x16 a = load(x + k);
    for (int r = 0; r < kRows; ++r) sum[r] += a * load(p.w + (n + r) * p.depth + k);
  }
  if (k < p.depth) {
    const F32x16 a = load_some(x + k, p.depth - k);
    for (int r = 0; r < kRows; ++r) sum[r] += a * load_some(p.w + (n + r) * p.depth + k, p.depth - k);
  }
  for (int r = 0; r < kRows; ++r) {
    const float total = tree_sum(sum[r]);
    p.y[m * p.y_stride + n + r] = p.bias == nullptr ? total : total + p.bias[n + r];
  }
}

BITLAB_ALWAYS_INLINE void float_gemm_body(const FloatGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                                          int64_t row_end) {
  for (int64_t m = token_begin; m < token_end; ++m) {
    int64_t n = row_begin;
    for (; n + 4 <= row_end; n += 4) rows_of<4>(p, m, n);
    for (; n < row_end; ++n) rows_of<1>(p, m, n);
  }
}

}  // namespace
}  // namespace bitlab::kernels
