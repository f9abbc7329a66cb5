// A ternary two-dimensional convolution on float activations: activation_quant per sample, patches gathered in tiles (there is no
// full im2col buffer), ternary_gemm. The one implementation behind bitlab::ternary_conv2d of LibTorch and of the runtime.
//
//   x [batch, height, width, channels] float32 -> y [batch, out_h, out_w, rows] float32, both channels last
//   weight [rows, depth] with depth in the order (kh, kw, c); padding with zeros
#pragma once

#include "bitlab/kernels/conv2d_geometry.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"

namespace bitlab::kernels {

// What selection is asked for: a tile of patches is the number of tokens.
TernaryGemmProblem ternary_conv2d_problem(const Conv2dGeometry& geometry, int64_t rows);

int64_t ternary_conv2d_scratch_bytes(const TernaryKernels& kernels, const Conv2dGeometry& geometry, int threads);

// `scratch` is aligned to 64 and holds ternary_conv2d_scratch_bytes for at least pool.threads() threads. Error: NotFinite.
Status ternary_conv2d(const TernaryKernels& kernels, const TernaryWeight& weight, const Conv2dGeometry& geometry,
                      const float* x, float* y, uint8_t* scratch, ThreadPool& pool);

}  // namespace bitlab::kernels
