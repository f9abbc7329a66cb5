// A float32 two-dimensional convolution for layers that are kept in float: patches gathered in tiles, then float_gemm.
//
//   x [batch, height, width, channels] -> y [batch, out_h, out_w, rows], both channels last; w [rows, depth] in (kh, kw, c)
#pragma once

#include "bitlab/kernels/conv2d_geometry.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"

namespace bitlab::kernels {

int64_t float_conv2d_scratch_bytes(const Conv2dGeometry& geometry, int threads);

// `scratch` is aligned to 64 and holds float_conv2d_scratch_bytes for at least pool.threads() threads.
void float_conv2d(const FloatGemmRow& kernel, const float* w, const float* bias, int64_t rows,
                  const Conv2dGeometry& geometry, const float* x, float* y, uint8_t* scratch, ThreadPool& pool);

}  // namespace bitlab::kernels
