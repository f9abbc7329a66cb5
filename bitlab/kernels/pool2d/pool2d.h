// Pooling over two-dimensional windows, channels last.
//
//   x [batch, height, width, channels] -> y [batch, out_h, out_w, channels]
//   max: the largest value of the window inside the image; NaN if one is in it ("ieee_exact")
//   avg: sum in the order (kh, kw), padding counted as zeros, divided by kernel_h * kernel_w ("bounded")
#pragma once

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/conv2d_geometry.h"

namespace bitlab::kernels {

void max_pool2d(const Conv2dGeometry& geometry, const float* x, float* y, ThreadPool& pool);
void avg_pool2d(const Conv2dGeometry& geometry, const float* x, float* y, ThreadPool& pool);

}  // namespace bitlab::kernels
