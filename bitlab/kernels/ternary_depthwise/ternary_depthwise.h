// Depthwise convolution: every channel has one filter of its own.
//
//   acc[token, c] = sum over taps of t[tap, c] * q[pixel(token, tap), c]     then the epilogue of ternary_gemm
//
// A product per tap and channel is too short for ternary_gemm, and few enough for codes expanded at each call: the resident copy stays at
// two bits. Exactness, scales and errors: ternary_gemm.h.
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/kernels/selection.h"
#include "bitlab/kernels/ternary_depthwise/arguments.h"
#include "bitlab/kernels/ternary_gemm/pack.h"

namespace bitlab::kernels {

using TernaryDepthwiseRow = KernelRow<TernaryDepthwiseKernel>;
KernelList<TernaryDepthwiseRow> ternary_depthwise_kernels();

// Scratch memory, aligned to 64, of ternary_depthwise.
int64_t ternary_depthwise_scratch_bytes(const ConvGeometry& geometry, int threads);

// The whole convolution: q int8 [batch, pixels, channels], weights [channels, taps] in kRows. `layer` has the epilogue and the results of the first output
// pixel; its a is that of the first sample, and a_stride goes from sample to sample. Where `after` is given it gets ranges of results that are written.
void ternary_depthwise(const TernaryDepthwiseRow& row, const PackedTernary& weights, const TernaryGemmArgs& layer,
                       const ConvGeometry& geometry, const int8_t* q, uint8_t* scratch, ThreadPool& pool,
                       const RangeTask* after);

}  // namespace bitlab::kernels
