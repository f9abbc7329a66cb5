#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/kernels/pool2d/pool2d.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

TEST(Pool2d, EqualsADirectLoop) {
  for (const Conv2dGeometry& g : {Conv2dGeometry{2, 20, 24, 24, 2, 2, 2, 2}, Conv2dGeometry{1, 3, 7, 9, 3, 2, 2, 1, 1, 0},
                                  Conv2dGeometry{3, 1, 5, 5, 3, 3, 1, 1, 1, 1}}) {
    const auto x = test::random_floats(g.batch * g.sample_values(), 4);
    std::vector<float> largest(static_cast<size_t>(g.batch * g.positions() * g.channels)), mean(largest);
    max_pool2d(g, x.data(), largest.data(), *make_thread_pool(2));
    avg_pool2d(g, x.data(), mean.data(), *make_thread_pool(2));
    size_t at = 0;
    for (int64_t b = 0; b < g.batch; ++b)
      for (int64_t oy = 0; oy < g.out_h(); ++oy)
        for (int64_t ox = 0; ox < g.out_w(); ++ox)
          for (int64_t c = 0; c < g.channels; ++c, ++at) {
            double sum = 0, most = -1e30;
            for (int64_t ky = 0; ky < g.kernel_h; ++ky)
              for (int64_t kx = 0; kx < g.kernel_w; ++kx) {
                const int64_t iy = oy * g.stride_h - g.padding_h + ky, ix = ox * g.stride_w - g.padding_w + kx;
                if (iy < 0 || iy >= g.height || ix < 0 || ix >= g.width) continue;
                const double v = x[static_cast<size_t>(((b * g.height + iy) * g.width + ix) * g.channels + c)];
                sum += v;
                most = std::max(most, v);
              }
            ASSERT_EQ(largest[at], most);
            ASSERT_NEAR(mean[at], sum / static_cast<double>(g.kernel_h * g.kernel_w), 1e-6);
          }
  }
}

TEST(Pool2d, MaximumKeepsNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Conv2dGeometry g{1, 1, 2, 2, 2, 2};
  for (size_t at = 0; at < 4; ++at) {
    std::vector<float> x{1, 2, 3, 4};
    x[at] = nan;
    float y = 0;
    max_pool2d(g, x.data(), &y, *make_thread_pool(1));
    EXPECT_TRUE(std::isnan(y)) << at;
  }
}

TEST(Elementwise, ReluKeepsNegativeZeroAndNan) {
  std::vector<float> x{
      -1.0F, -0.0F, 0.0F, 2.0F, std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::denorm_min()};
  relu(x.data(), x.data(), static_cast<int64_t>(x.size()), *make_thread_pool(1));
  EXPECT_EQ(x[0], 0.0F);
  EXPECT_FALSE(std::signbit(x[0]));
  EXPECT_TRUE(std::signbit(x[1]));
  EXPECT_EQ(x[3], 2.0F);
  EXPECT_TRUE(std::isnan(x[4]));
  EXPECT_EQ(x[5], 0.0F);
}

TEST(Elementwise, AddsAcrossBlocksAndThreads) {
  constexpr int64_t kCount = 100'003;
  const auto a = test::random_floats(kCount, 1), b = test::random_floats(kCount, 2);
  std::vector<float> y(kCount);
  add(a.data(), b.data(), y.data(), kCount, *make_thread_pool(3));
  for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(y[i], a[i] + b[i]);
}

}  // namespace
}  // namespace bitlab::kernels
