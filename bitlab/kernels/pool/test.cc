#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/kernels/pool/pool.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

PoolShape shape_of(const ConvGeometry& g) {
  PoolShape shape{.batch = g.batch, .channels = g.channels, .axes = {}};
  for (size_t d = 0; d < 3; ++d)
    shape.axes[d] = sliding_windows(g.input[d], g.kernel[d], g.stride[d], g.padding[d], g.dilation[d], g.out(d));
  return shape;
}

std::vector<const ElementwiseRow*> rows() { return test::runnable(elementwise_kernels()); }

TEST(Pool, EqualsADirectLoop) {
  const ConvGeometry geometries[] = {
      {.batch = 2, .channels = 20, .input = {1, 24, 24}, .kernel = {1, 2, 2}, .stride = {1, 2, 2}},
      {.batch = 1, .channels = 3, .input = {1, 7, 9}, .kernel = {1, 3, 2}, .stride = {1, 2, 1}, .padding = {0, 1, 0}},
      {.batch = 3, .channels = 1, .input = {1, 5, 5}, .kernel = {1, 3, 3}, .padding = {0, 1, 1}},
      {.batch = 2, .channels = 5, .input = {6, 5, 4}, .kernel = {3, 2, 2}, .stride = {2, 1, 2}, .padding = {1, 1, 0}},
      {.batch = 1, .channels = 2, .input = {1, 1, 11}, .kernel = {1, 1, 3}, .stride = {1, 1, 2}, .dilation = {1, 1, 2}},
      {.batch = 0, .channels = 2, .input = {1, 4, 4}, .kernel = {1, 2, 2}},
      {.batch = 2, .channels = 0, .input = {1, 4, 4}, .kernel = {1, 2, 2}},
      {.batch = 2, .channels = 2, .input = {1, 4, 1}, .kernel = {1, 2, 2}},
      {.batch = 2, .channels = 2, .input = {1, 0, 4}, .kernel = {1, 2, 2}},
  };
  for (const ElementwiseRow* row : rows())
    for (const ConvGeometry& g : geometries) {
      const auto x = test::random_floats(g.batch * g.sample_values(), 4);
      std::vector<float> largest(static_cast<size_t>(g.batch * g.positions() * g.channels)), mean(largest);
      max_pool(*row, shape_of(g), x.data(), largest.data(), *make_thread_pool(2));
      avg_pool(*row, shape_of(g), {}, x.data(), mean.data(), *make_thread_pool(2));
      size_t at = 0;
      for (int64_t b = 0; b < g.batch; ++b)
        for (int64_t o = 0; o < g.positions(); ++o)
          for (int64_t c = 0; c < g.channels; ++c, ++at) {
            const int64_t ox = o % g.out(2), oy = o / g.out(2) % g.out(1), oz = o / g.out(2) / g.out(1);
            double sum = 0, most = -1e30;
            for (int64_t kz = 0; kz < g.kernel[0]; ++kz)
              for (int64_t ky = 0; ky < g.kernel[1]; ++ky)
                for (int64_t kx = 0; kx < g.kernel[2]; ++kx) {
                  const int64_t iz = oz * g.stride[0] - g.padding[0] + kz * g.dilation[0],
                                iy = oy * g.stride[1] - g.padding[1] + ky * g.dilation[1],
                                ix = ox * g.stride[2] - g.padding[2] + kx * g.dilation[2];
                  if (iz < 0 || iz >= g.input[0] || iy < 0 || iy >= g.input[1] || ix < 0 || ix >= g.input[2]) continue;
                  const int64_t pixel = (iz * g.input[1] + iy) * g.input[2] + ix;
                  const double v = x[static_cast<size_t>((b * g.pixels() + pixel) * g.channels + c)];
                  sum += v;
                  most = std::max(most, v);
                }
            ASSERT_EQ(largest[at], most);
            ASSERT_NEAR(mean[at], sum / static_cast<double>(g.taps()), 1e-6);
          }
    }
}

// Windows that end beyond the padding, that do not count it, and of other sizes.
TEST(Pool, OtherWindowsAndDivisors) {
  const std::vector<float> x{1, 2, 3, 4, 5};
  const ElementwiseRow* row = rows().back();
  const auto run = [&](const PoolAxis& axis, PoolDivisor divisor) {
    PoolShape shape;
    shape.axes[2] = axis;
    std::vector<float> y(axis.windows.size());
    avg_pool(*row, shape, divisor, x.data(), y.data(), *make_thread_pool(2));
    return y;
  };
  const PoolAxis padded = sliding_windows(5, 3, 2, 1, 1, 3), beyond = sliding_windows(5, 2, 2, 0, 1, 3);
  EXPECT_EQ(run(padded, {}), (std::vector<float>{1, 3, 3}));
  EXPECT_EQ(run(padded, {.counts_padding = false}), (std::vector<float>{1.5, 3, 4.5}));
  EXPECT_EQ(run(padded, {.number = 2}), (std::vector<float>{1.5, 4.5, 4.5}));
  EXPECT_EQ(run(beyond, {}), (std::vector<float>{1.5, 3.5, 5}));  // of one value
  EXPECT_EQ(run(adaptive_windows(5, 3), {}), (std::vector<float>{1.5, 3, 4.5}));
  EXPECT_EQ(run(adaptive_windows(5, 7), {}), (std::vector<float>{1, 1.5, 2.5, 3, 3.5, 4.5, 5}));
}

// A window of 2^60 taps around one pixel: what is outside of the image costs nothing.
TEST(Pool, WindowsFarLargerThanTheImage) {
  constexpr int64_t kSide = 1 << 20;
  const ConvGeometry g{.input = {1, 2, 1}, .kernel = {kSide, kSide, kSide}, .padding = {kSide / 2, kSide / 2, kSide / 2}};
  const std::vector<float> x{3, 5};
  const ElementwiseRow* row = rows().back();
  std::vector<float> y(static_cast<size_t>(g.positions()));
  max_pool(*row, shape_of(g), x.data(), y.data(), *make_thread_pool(2));
  for (float v : y) EXPECT_EQ(v, 5);
  avg_pool(*row, shape_of(g), {}, x.data(), y.data(), *make_thread_pool(2));
  for (float v : y) EXPECT_EQ(v, 8 / 0x1p60F);
}

TEST(Pool, MaximumKeepsNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const ConvGeometry g{.input = {1, 2, 2}, .kernel = {1, 2, 2}};
  for (const ElementwiseRow* row : rows())
    for (size_t at = 0; at < 4; ++at) {
      std::vector<float> x{1, 2, 3, 4};
      x[at] = nan;
      float y = 0;
      max_pool(*row, shape_of(g), x.data(), &y, *make_thread_pool(1));
      EXPECT_TRUE(std::isnan(y)) << at;
    }
}

}  // namespace
}  // namespace bitlab::kernels
