#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/conv_test_shapes.h"
#include "bitlab/kernels/float_conv/float_conv.h"
#include "bitlab/kernels/float_gemm/float_gemm.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

TEST(FloatGemm, EveryKernelHasTheDocumentedOrderAndIsNearTheExactSum) {
  for (const FloatGemmRow* row : test::runnable(float_gemm_kernels())) {
    for (int64_t depth : {0, 1, 5, 15, 16, 17, 100, 513})
      for (int64_t rows : {0, 1, 3, 4, 9, 130}) {
        constexpr int64_t kTokens = 18;
        const auto x = test::random_floats(kTokens * depth, 1), w = test::random_floats(rows * depth, 2),
                   b = test::random_floats(rows, 3);
        std::vector<float> y(static_cast<size_t>(kTokens * rows));
        const FloatGemmArgs args{w.data(), rows, depth, x.data(), depth, b.data(), y.data(), rows};
        float_gemm(*row, args, kTokens, *make_thread_pool(2));
        for (int64_t m = 0; m < kTokens; ++m)
          for (int64_t n = 0; n < rows; ++n) {
            const float found = y[static_cast<size_t>(m * rows + n)];
            const auto xm = std::span(x).subspan(static_cast<size_t>(m * depth), static_cast<size_t>(depth)),
                       wn = std::span(w).subspan(static_cast<size_t>(n * depth), static_cast<size_t>(depth));
            ASSERT_EQ(found, test::ordered_dot(xm, wn) + b[static_cast<size_t>(n)]) << row->name;
            double exact = b[static_cast<size_t>(n)], magnitude = std::fabs(exact);
            for (size_t k = 0; k < xm.size(); ++k) {
              const double product = double{xm[k]} * double{wn[k]};
              exact += product;
              magnitude += std::fabs(product);
            }
            ASSERT_NEAR(found, exact, 1e-6 * magnitude) << row->name;
          }
      }
  }
}

// Integer-valued floats sum exactly, so the oracle's integer sums are the answer in every order.
TEST(FloatConv, EqualsTheOracleOnIntegers) {
  for (const ternary::oracle::ConvShape& s : test::conv_shapes()) {
    const ConvGeometry g = test::geometry_of(s);
    const auto q = test::random_int8(g.batch * g.sample_values(), 1, -127, 127),
               t = test::random_int8(s.filters * g.depth(), 2, -1, 1);
    const auto last = test::transposed(q, g.batch, g.channels, g.pixels());
    const std::vector<float> x(last.begin(), last.end()), w(t.begin(), t.end());
    std::vector<float> y(static_cast<size_t>(g.batch * g.positions() * s.filters));
    AlignedBuffer scratch = *AlignedBuffer::allocate(static_cast<size_t>(float_conv_scratch_bytes(g, 2)));
    float_conv(**select(float_gemm_kernels(), this_machine(), {}), w.data(), nullptr, s.filters, g, x.data(), y.data(),
               scratch.data(), *make_thread_pool(2));
    const auto sums = ternary::oracle::conv_sums(q, t, s);
    EXPECT_EQ(test::transposed(y, g.batch, g.positions(), s.filters), std::vector<float>(sums.begin(), sums.end()));
  }
}

TEST(FloatGemmList, HasTheRowsThatItsReviewersKnow) { EXPECT_EQ(float_gemm_kernels().rows.size(), 2U); }

}  // namespace
}  // namespace bitlab::kernels
