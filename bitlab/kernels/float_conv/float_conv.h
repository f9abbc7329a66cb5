// A float32 convolution for layers that are kept in float: patches gathered in tiles, then float_gemm.
//
//   x [batch, depth, height, width, channels] -> y [batch, out_d, out_h, out_w, rows], both channels last
//   w [rows, K] in panels, with K in the order (kd, kh, kw, c); with groups, each group's rows one after the other
#pragma once

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"

namespace bitlab::kernels {

int64_t float_conv_scratch_bytes(const ConvGeometry& geometry, int threads);

// `after`, where it is given, is called for ranges of y that are written, while they are in the cache; together they are all of it.
// `scratch` is aligned to 64 and holds float_conv_scratch_bytes for at least pool.threads() threads.
void float_conv(const FloatGemmRow& kernel, const float* panels, const float* bias, int64_t rows,
                const ConvGeometry& geometry, const float* x, float* y, uint8_t* scratch, ThreadPool& pool,
                const RangeTask* after = nullptr);

}  // namespace bitlab::kernels
