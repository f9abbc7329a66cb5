// Depthwise convolution: every channel has one filter of its own.
//
//   acc[token, c] = sum over taps of t[tap, c] * q[pixel(token, tap), c]     then the epilogue of ternary_gemm
//
// A product per tap and channel is too short for ternary_gemm, and few enough for codes expanded at each call: the resident copy stays at
// two bits. Exactness, scales and errors: ternary_gemm.h.
#pragma once

#include "bitlab/kernels/selection.h"
#include "bitlab/kernels/ternary_depthwise/arguments.h"

namespace bitlab::kernels {

using TernaryDepthwiseRow = KernelRow<TernaryDepthwiseKernel>;
KernelList<TernaryDepthwiseRow> ternary_depthwise_kernels();

}  // namespace bitlab::kernels
