#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/softmax/softmax.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

TEST(Softmax, TheExponentialIsWithinTwoUnitsInTheLastPlace) {
  double worst = 0;
  for (float x = 0.0F; x > -87.3F; x -= 1.7e-4F) {
    const double exact = std::exp(static_cast<double>(x));
    const double unit = std::ldexp(1.0, std::ilogb(exact) - 23);
    worst = std::max(worst, std::fabs(exp_nonpositive(x) - exact) / unit);
  }
  EXPECT_LT(worst, 2.0);
}

TEST(Softmax, TheExponentialAtItsEnds) {
  EXPECT_EQ(exp_nonpositive(0.0F), 1.0F);
  EXPECT_EQ(exp_nonpositive(-0.0F), 1.0F);
  EXPECT_EQ(exp_nonpositive(-1000.0F), 0.0F);
  EXPECT_EQ(exp_nonpositive(-INFINITY), 0.0F);
  EXPECT_TRUE(std::isnan(exp_nonpositive(NAN)));
}

TEST(Softmax, EqualsTheDefinitionInDouble) {
  for (int64_t columns : {1, 2, 10, 16, 17, 100}) {
    constexpr int64_t kRows = 5;
    const auto x = test::random_floats(kRows * columns, 8, 10.0F);
    std::vector<float> y(x.size());
    softmax(x.data(), y.data(), kRows, columns, *make_thread_pool(2));
    for (int64_t r = 0; r < kRows; ++r) {
      double sum = 0;
      for (int64_t i = 0; i < columns; ++i) sum += std::exp(double{x[static_cast<size_t>(r * columns + i)]});
      for (int64_t i = 0; i < columns; ++i) {
        // The difference x - max is rounded to float32, hence the tolerance.
        const double expected = std::exp(double{x[static_cast<size_t>(r * columns + i)]}) / sum;
        ASSERT_NEAR(y[static_cast<size_t>(r * columns + i)], expected, 5e-6 * expected + 1e-30);
      }
    }
  }
}

}  // namespace
}  // namespace bitlab::kernels
