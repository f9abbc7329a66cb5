// Pooling over windows of one to three dimensions, channels last.
//
//   x [batch, depth, height, width, channels] -> y [batch, out_d, out_h, out_w, channels]
//   max: the largest value of the window inside the image; NaN if one is in it ("ieee_exact")
//   avg: sum in the order (kd, kh, kw), padding counted as zeros, divided by the number of values ("bounded")
#pragma once

#include <array>
#include <vector>

#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/elementwise/elementwise.h"

namespace bitlab::kernels {

// One window along one dimension: the values first, first + dilation, ... inside the image.
struct PoolWindow {
  int64_t first = 0, taps = 0;
  int64_t span = 0;  // with its padding
};

struct PoolAxis {
  int64_t input = 1, dilation = 1;
  std::vector<PoolWindow> windows{{0, 1, 1}};
};
// The first `out` windows of a kernel, which end with the padding behind the image at the latest.
PoolAxis sliding_windows(int64_t input, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation, int64_t out);
// The window i of `out` is [floor(i input / out), ceil((i + 1) input / out)).
PoolAxis adaptive_windows(int64_t input, int64_t out);

struct PoolShape {
  int64_t batch = 1, channels = 1;
  std::array<PoolAxis, 3> axes;  // depth, height, width

  int64_t out(size_t axis) const { return static_cast<int64_t>(axes[axis].windows.size()); }
};

// What an average divides by: the values of the window inside the image, with its padding, or a number.
struct PoolDivisor {
  bool counts_padding = true;
  int64_t number = 0;  // 0: none
};

void max_pool(const ElementwiseRow& row, const PoolShape& shape, const float* x, float* y, ThreadPool& pool);
void avg_pool(const ElementwiseRow& row, const PoolShape& shape, PoolDivisor divisor, const float* x, float* y,
              ThreadPool& pool);

}  // namespace bitlab::kernels
