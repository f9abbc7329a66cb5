#include <cmath>
#include <limits>
#include <utility>

#include <gtest/gtest.h>

#include "bitlab/kernels/activation_quant/activation_quant.h"
#include "bitlab/kernels/test_support.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::kernels {
namespace {

using test::GuardedBytes;

class EveryActivationQuant : public ::testing::TestWithParam<size_t> {
 protected:
  const ActivationQuantRow& row() const { return activation_quant_kernels().rows[GetParam()]; }
  void SetUp() override {
    if (const std::string reason = test::why_not_here(row()); !reason.empty()) GTEST_SKIP() << reason;
  }
  void check(const std::vector<float>& x) {
    GuardedBytes x_memory(x.size() * sizeof(float)), q_memory(x.size());
    float a = 0;
    ASSERT_TRUE(row().run(x_memory.fill<float>(x), static_cast<int64_t>(x.size()), {}, q_memory.as<int8_t>(), &a));
    const auto expected = ternary::oracle::quantize(x);
    EXPECT_EQ(a, expected.scale);
    EXPECT_TRUE(std::equal(expected.q.begin(), expected.q.end(), q_memory.as<int8_t>())) << x.size() << " values";
  }
};

TEST_P(EveryActivationQuant, EqualsTheOracleForEveryLength) {
  for (int64_t count = 0; count <= 130; ++count) check(test::random_floats(count, static_cast<uint32_t>(count)));
  for (int64_t count : {1000, 8640, 65537}) check(test::random_floats(count, 3));
}

TEST_P(EveryActivationQuant, RoundsHalvesToEven) {
  // inv is exactly 1: the values are their own quotients.
  std::vector<float> halves{127.0F};
  for (int i = -126; i < 126; ++i) halves.push_back(static_cast<float>(i) + 0.5F);
  check(halves);
}

TEST_P(EveryActivationQuant, HandlesExtremes) {
  constexpr float kMax = std::numeric_limits<float>::max(), kTiny = std::numeric_limits<float>::denorm_min();
  check(std::vector<float>(40, 0.0F));
  check(std::vector<float>(40, -0.0F));
  check({kMax, -kMax, 1.0F, kTiny, -kTiny, 0.0F, kMax / 254, -kMax / 254, 3.0F});
  check({kTiny, -kTiny, 1e-6F, -1e-6F, 1e-5F, 9.9e-6F});
  check({-5.0F, 4.99999F, 4.9803915F});
}

TEST_P(EveryActivationQuant, TakesAStaticScaleAndFourBits) {
  for (float limit : {127.0F, 7.0F})
    for (float inv : {0.0F, 3.3F, 40.0F, 1e6F}) {
      const auto x = test::random_floats(203, 5);
      std::vector<int8_t> q(x.size());
      float a = 0, absmax = 1e-5F;
      ASSERT_TRUE(row().run(x.data(), 203, {limit, inv}, q.data(), &a));
      for (float v : x) absmax = std::max(absmax, std::fabs(v));
      const float expected = inv == 0 ? limit / absmax : inv;
      EXPECT_EQ(a, 1.0F / expected);
      for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(q[i], ternary::oracle::requantize(x[i], expected, limit)) << x[i];
    }
}

TEST_P(EveryActivationQuant, RefusesWhatIsNotFinite) {
  for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                    std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN()})
    for (size_t at : {size_t{0}, size_t{31}, size_t{32}, size_t{69}}) {
      std::vector<float> x = test::random_floats(70, 1);
      x[at] = bad;
      std::vector<int8_t> q(x.size());
      float a;
      EXPECT_FALSE(row().run(x.data(), 70, {}, q.data(), &a)) << bad << " at " << at;
    }
}

INSTANTIATE_TEST_SUITE_P(ActivationQuant, EveryActivationQuant,
                         ::testing::Range<size_t>(0, activation_quant_kernels().rows.size()),
                         [](const auto& param) { return std::string(activation_quant_kernels().rows[param.param].name); });

TEST(ActivationQuant, PadsRowsWithZerosOnAnyNumberOfThreads) {
  constexpr int64_t kRows = 300, kColumns = 21, kStride = 32;
  const auto x = test::random_floats(kRows * kColumns, 9);
  for (int threads : {1, 2, 4}) {
    std::vector<int8_t> q(kRows * kStride, 55);
    std::vector<float> a(kRows);
    ASSERT_TRUE(activation_quant(*activation_quant_kernels().rows.data(), "test", x.data(), kRows, kColumns, kColumns,
                                 q.data(), kStride, a.data(), *make_thread_pool(threads))
                    .ok());
    for (int64_t m = 0; m < kRows; ++m) {
      const auto expected = ternary::oracle::quantize(std::span(x).subspan(static_cast<size_t>(m * kColumns), kColumns));
      ASSERT_EQ(a[static_cast<size_t>(m)], expected.scale);
      for (int64_t k = 0; k < kStride; ++k)
        ASSERT_EQ(q[static_cast<size_t>(m * kStride + k)], k < kColumns ? expected.q[static_cast<size_t>(k)] : 0);
    }
  }
}

// What a convolution's sample is: cut where it is one and there are several threads.
TEST(ActivationQuant, LongRowsAreTheSameOnAnyNumberOfThreads) {
  constexpr float kLargest = 16;
  for (const int64_t columns : {32769, 200704, 1000003})
    for (const int64_t largest : {int64_t{0}, columns / 2, columns - 1})
      for (const ActivationScale scale : {ActivationScale{}, ActivationScale{7, 0}, ActivationScale{127, 90}}) {
        std::vector<float> x = test::random_floats(columns, 7);
        x[static_cast<size_t>(largest)] = -kLargest;
        const float inv = scale.inv == 0 ? scale.limit / kLargest : scale.inv;
        for (int threads : {1, 2, 3, 8}) {
          std::vector<int8_t> q(x.size());
          float a = 0;
          const auto pool = make_thread_pool(threads);
          const auto run = [&] {
            return activation_quant(*select(activation_quant_kernels(), this_machine(), {}).value(), "test", x.data(), 1,
                                    columns, columns, q.data(), columns, &a, *pool, scale);
          };
          ASSERT_TRUE(run().ok());
          ASSERT_EQ(a, 1.0F / inv);
          for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(q[i], ternary::oracle::requantize(x[i], inv, scale.limit)) << i;
          const float finite = std::exchange(x[static_cast<size_t>(largest)], std::numeric_limits<float>::quiet_NaN());
          EXPECT_EQ(run().error().code, ErrorCode::kNotFinite) << threads;
          x[static_cast<size_t>(largest)] = finite;
        }
      }
}

TEST(ActivationQuant, NamesTheOperationAndRowOfABadValue) {
  std::vector<float> x(6, 1.0F);
  x[4] = std::numeric_limits<float>::quiet_NaN();
  std::vector<int8_t> q(6);
  std::vector<float> a(2);
  const Status status = activation_quant(*activation_quant_kernels().rows.data(), "ternary_linear", x.data(), 2, 3, 3,
                                         q.data(), 3, a.data(), *make_thread_pool(1));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kNotFinite);
  EXPECT_EQ(status.error().message, "[ternary_linear] finite input, got NaN or infinity (row=1)");
}

TEST(ActivationQuantList, HasTheRowsThatItsReviewersKnow) { EXPECT_EQ(activation_quant_kernels().rows.size(), 4U); }

}  // namespace
}  // namespace bitlab::kernels
