// Pooling over windows of one to three dimensions, channels last.
//
//   x [batch, depth, height, width, channels] -> y [batch, out_d, out_h, out_w, channels]
//   max: the largest value of the window inside the image; NaN if one is in it ("ieee_exact")
//   avg: sum in the order (kd, kh, kw), padding counted as zeros, divided by the number of taps ("bounded")
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/conv_geometry.h"

namespace bitlab::kernels {

void max_pool(const ConvGeometry& geometry, const float* x, float* y, ThreadPool& pool);
void avg_pool(const ConvGeometry& geometry, const float* x, float* y, ThreadPool& pool);

}  // namespace bitlab::kernels
