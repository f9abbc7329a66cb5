// Images in another size, channels last, as torch.nn.functional.interpolate makes them ("bounded"; nearest moves values, "ieee_exact").
//
//   x [batch, depth, height, width, channels] -> y [batch, out_d, out_h, out_w, channels]
//   y = sum over the taps of each dimension of (weights' product) x
//   The output i lies at the place (i + 0.5) n / m - 0.5 of n values, of m; with align_corners at i (n - 1) / (m - 1).
//   nearest: floor(i n / m). linear: the two around the place, at its beginning at least. cubic: the four around it by the convolution of
//   Keys 1981 with a = -0.75; what lies outside is the value at the edge.
//   nearest_exact: floor((i + 0.5) n / m). Antialiased forms widen the kernel, the triangle or Keys' with a = -0.5, by n / m where that is above 1, over
//   the values that lie within it, and divide the weights by their sum.
#pragma once

#include <array>
#include <vector>

#include "bitlab/base/thread_pool.h"

namespace bitlab::kernels {

enum class ResampleMode { kNearest, kNearestExact, kLinear, kCubic, kLinearAntialias, kCubicAntialias };

// What each output reads along one dimension: `taps` places and their weights.
struct ResampleAxis {
  int64_t input = 1, taps = 1;
  std::vector<int64_t> places{0};  // [out, taps]; -1: none, behind those that an output has
  std::vector<float> weights{1};   // [out, taps]

  int64_t out() const { return static_cast<int64_t>(places.size()) / taps; }
};
ResampleAxis resample_axis(ResampleMode mode, bool align_corners, int64_t input, int64_t out);

struct ResampleShape {
  int64_t batch = 1, channels = 1;
  std::array<ResampleAxis, 3> axes;  // depth, height, width
};

void resample(const ResampleShape& shape, const float* x, float* y, ThreadPool& pool);

}  // namespace bitlab::kernels
