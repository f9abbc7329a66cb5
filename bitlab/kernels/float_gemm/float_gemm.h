// Float32 product for layers that are kept in float:
//
//   y[m, n] = s_K + bias[n],   s_0 = 0,   s_{k+1} = fma(x[m, k], w[n, k], s_k)
//
// Each output is summed in the order of k, every step rounded once (IEEE 754 fusedMultiplyAdd), whichever outputs a vector, a tile or a thread
// holds: the same bits on every machine. They differ from LibTorch's by the rounding of another order ("bounded"). A sum that is NaN is the NaN
// of simd.h.
//
// w is packed once; tiles of outputs stay in registers, and k is cut so that a few panels stay in the cache next to them.
// Goto, van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
#pragma once

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/float_gemm/arguments.h"
#include "bitlab/kernels/selection.h"

namespace bitlab::kernels {

using FloatGemmRow = KernelRow<FloatGemmKernel>;
KernelList<FloatGemmRow> float_gemm_kernels();

// Bytes that the panels of a matrix take; they are aligned to 64.
constexpr int64_t float_panel_bytes(int64_t rows, int64_t depth) {
  return rows * depth * static_cast<int64_t>(sizeof(float));
}
// Where element [row, k] of a matrix lies in them.
constexpr int64_t float_panel_index(int64_t rows, int64_t depth, int64_t row, int64_t k) {
  const int64_t n = row / kFloatPanel * kFloatPanel, width = rows - n < kFloatPanel ? rows - n : kFloatPanel;
  return n * depth + k * width + row - n;
}
// From w [rows, depth], and from its transpose [depth, rows], both row-major.
void pack_float_rows(const float* w, int64_t rows, int64_t depth, float* panels);
void pack_float_columns(const float* w, int64_t rows, int64_t depth, float* panels);

void float_gemm(const FloatGemmRow& row, const FloatGemmArgs& args, int64_t tokens, ThreadPool& pool);

}  // namespace bitlab::kernels
