#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/float_conv2d/float_conv2d.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

// The documented order, written out: lane k mod 16, then a tree of halves.
float ordered_dot(const float* x, const float* w, int64_t depth) {
  float lane[16] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const float product = x[k] * w[k];
    lane[k % 16] += product;
  }
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

TEST(FloatGemm, EveryKernelHasTheDocumentedOrderAndIsNearTheExactSum) {
  for (const FloatGemmRow& row : float_gemm_rows()) {
    if (row.run == nullptr || !row.needs.minus(this_machine().features).empty()) continue;
    for (int64_t depth : {1, 5, 15, 16, 17, 100, 513})
      for (int64_t rows : {1, 3, 4, 9, 130}) {
        constexpr int64_t kTokens = 18;
        const auto x = test::random_floats(kTokens * depth, 1), w = test::random_floats(rows * depth, 2),
                   b = test::random_floats(rows, 3);
        std::vector<float> y(static_cast<size_t>(kTokens * rows));
        const FloatGemmArgs args{w.data(), rows, depth, x.data(), depth, b.data(), y.data(), rows};
        float_gemm(row, args, kTokens, *make_thread_pool(2));
        for (int64_t m = 0; m < kTokens; ++m)
          for (int64_t n = 0; n < rows; ++n) {
            const float found = y[static_cast<size_t>(m * rows + n)];
            ASSERT_EQ(found, ordered_dot(&x[static_cast<size_t>(m * depth)], &w[static_cast<size_t>(n * depth)], depth) +
                                 b[static_cast<size_t>(n)])
                << row.name;
            double exact = b[static_cast<size_t>(n)], magnitude = std::fabs(exact);
            for (int64_t k = 0; k < depth; ++k) {
              const double product =
                  double{x[static_cast<size_t>(m * depth + k)]} * double{w[static_cast<size_t>(n * depth + k)]};
              exact += product;
              magnitude += std::fabs(product);
            }
            ASSERT_NEAR(found, exact, 1e-6 * magnitude) << row.name;
          }
      }
  }
}

TEST(FloatConv2d, EqualsADirectSum) {
  for (const Conv2dGeometry& g : {Conv2dGeometry{2, 3, 9, 7, 3, 3, 2, 1, 1, 1}, Conv2dGeometry{1, 1, 28, 28, 5, 5},
                                  Conv2dGeometry{1, 4, 8, 9, 2, 3, 1, 2, 1, 2, 1, 2}}) {
    constexpr int64_t kFilters = 6;
    const auto x = test::random_floats(g.batch * g.sample_values(), 1), w = test::random_floats(kFilters * g.depth(), 2);
    std::vector<float> y(static_cast<size_t>(g.batch * g.positions() * kFilters));
    AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(float_conv2d_scratch_bytes(g, 2)));
    float_conv2d(**select_float_gemm(this_machine(), {}), w.data(), nullptr, kFilters, g, x.data(), y.data(), scratch.data(),
                 *make_thread_pool(2));
    size_t at = 0;
    for (int64_t b = 0; b < g.batch; ++b)
      for (int64_t oy = 0; oy < g.out_h(); ++oy)
        for (int64_t ox = 0; ox < g.out_w(); ++ox)
          for (int64_t n = 0; n < kFilters; ++n, ++at) {
            double sum = 0;
            for (int64_t ky = 0; ky < g.kernel_h; ++ky)
              for (int64_t kx = 0; kx < g.kernel_w; ++kx) {
                const int64_t iy = oy * g.stride_h - g.padding_h + ky * g.dilation_h,
                              ix = ox * g.stride_w - g.padding_w + kx * g.dilation_w;
                if (iy < 0 || iy >= g.height || ix < 0 || ix >= g.width) continue;
                for (int64_t c = 0; c < g.channels; ++c)
                  sum += double{x[static_cast<size_t>(((b * g.height + iy) * g.width + ix) * g.channels + c)]} *
                         double{w[static_cast<size_t>(((n * g.kernel_h + ky) * g.kernel_w + kx) * g.channels + c)]};
              }
            ASSERT_NEAR(y[at], sum, 1e-4);
          }
  }
}

TEST(FloatGemmList, HasTheRowsThatItsReviewersKnow) { EXPECT_EQ(float_gemm_rows().size(), 2U); }

}  // namespace
}  // namespace bitlab::kernels
