// Every row of elementwise: against the definitions in double, bit by bit between rows, on odd counts, with special values.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNotANumber = std::numeric_limits<float>::quiet_NaN();
constexpr double kRootTwoOverPi = 0.79788456080286535588;

using Definition = double (*)(double);
struct Unary {
  Elementwise op;
  Definition f;
  double units;     // largest error in units in the last place
  double absolute;  // or of what is larger than the result: the terms that it is made of
  float from, to;
  bool is_fixed = false;  // `absolute` is not relative to x
};
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double normal_cdf(double x) { return std::erfc(-x / std::sqrt(2.0)) / 2; }

// By halving, as erf grows; near 0 by its series.
double erfinv(double y) {
  if (std::fabs(y) < 1e-4) return y * 0.88622692545275801365 * (1 + 0.26179938779914943654 * y * y);
  double low = -6, high = 6;
  for (int i = 0; i < 60; ++i) (std::erf((low + high) / 2) < y ? low : high) = (low + high) / 2;
  return (low + high) / 2;
}

const Unary kUnary[] = {
    {Elementwise::relu, [](double x) { return x < 0 ? 0 : x; }, 0, 0, -100, 100},
    {Elementwise::squared_relu, [](double x) { return x < 0 ? 0 : x * x; }, 0.51, 0, -100, 100},
    {Elementwise::exp, [](double x) { return std::exp(x); }, 2, 0, -87.2F, 88.7F},
    {Elementwise::expm1, [](double x) { return std::expm1(x); }, 5, 0, -87.2F, 88.7F},
    {Elementwise::log, [](double x) { return std::log(x); }, 2, 0, 1e-38F, 4},
    {Elementwise::log, [](double x) { return std::log(x); }, 2, 0, 4, 1e38F},
    {Elementwise::log1p, [](double x) { return std::log1p(x); }, 4, 0, -0.999F, 3},
    {Elementwise::log1p, [](double x) { return std::log1p(x); }, 4, 0, 3, 1e38F},
    {Elementwise::sqrt, [](double x) { return std::sqrt(x); }, 0.5, 0, 0, 1e38F},
    {Elementwise::rsqrt, [](double x) { return 1 / std::sqrt(x); }, 1.5, 0, 1e-30F, 1e3F},
    {Elementwise::erf, [](double x) { return std::erf(x); }, 4, 0, -12, 12},
    {Elementwise::erfinv, erfinv, 6, 0, -0.99999994F, 0.99999994F},
    {Elementwise::erfinv, erfinv, 6, 0, 0.999F, 0.99999994F},
    {Elementwise::sin, [](double x) { return std::sin(x); }, 0, 0x1p-22, -8000, 8000, true},
    {Elementwise::cos, [](double x) { return std::cos(x); }, 0, 0x1p-22, -8000, 8000, true},
    {Elementwise::sin, [](double x) { return std::sin(x); }, 2, 0, -0.7F, 0.7F},
    {Elementwise::sin, [](double x) { return std::sin(x); }, 0, 0x1p-18, -65536, 65536, true},
    {Elementwise::abs, [](double x) { return std::fabs(x); }, 0, 0, -100, 100},
    {Elementwise::floor, [](double x) { return std::floor(x); }, 0, 0, -100, 100},
    {Elementwise::ceil, [](double x) { return std::ceil(x); }, 0, 0, -100, 100},
    {Elementwise::round, [](double x) { return std::nearbyint(x); }, 0, 0, -100, 100},
    {Elementwise::round, [](double x) { return std::nearbyint(x); }, 0, 0, -3e7F, 3e7F},
    {Elementwise::sigmoid, sigmoid, 4, 0, -87, 87},
    {Elementwise::silu, [](double x) { return x * sigmoid(x); }, 5, 0, -80, 87},
    {Elementwise::tanh, [](double x) { return std::tanh(x); }, 4, 0, -20, 20},
    {Elementwise::gelu, [](double x) { return x * normal_cdf(x); }, 5, 0, -1, 20},
    {Elementwise::gelu, [](double x) { return x * normal_cdf(x); }, 80, 0, -12, -1},
    // 1 + tanh cancels: the error is one of x.
    {Elementwise::gelu_tanh, [](double x) { return 0.5 * x * (1 + std::tanh(kRootTwoOverPi * (x + 0.044715 * x * x * x))); },
     6, 4e-7, -12, 12},
};

std::vector<float> run_elementwise(const ElementwiseRow& row, Elementwise op, const std::vector<float>& a,
                                   const std::vector<float>& b = {}, int threads = 1) {
  test::GuardedBytes in(a.size() * sizeof(float)), out(a.size() * sizeof(float));
  elementwise(row, {op, in.fill<float>(a), b.data(), static_cast<int64_t>(b.size()), out.as<float>()},
              static_cast<int64_t>(a.size()), *make_thread_pool(threads));
  return {out.as<float>(), out.as<float>() + a.size()};
}

TEST(EveryElementwise, EqualsTheDefinitionInDouble) {
  for (const Unary& u : kUnary) {
    std::vector<float> x;
    for (int i = 0; i <= 200'000; ++i) x.push_back(u.from + (u.to - u.from) * (static_cast<float>(i) / 200'000.0F));
    for (float small = 1e-30F; small < 1; small *= 3)
      if (u.from < -small && small < u.to) x.insert(x.end(), {small, -small});
    for (const ElementwiseRow* row : test::runnable(elementwise_kernels())) {
      const std::vector<float> y = run_elementwise(*row, u.op, x);
      for (size_t i = 0; i < x.size(); ++i) {
        const double exact = u.f(x[i]);
        const double unit = std::ldexp(1.0, std::max(std::ilogb(exact), -126) - 23);
        ASSERT_LE(std::fabs(y[i] - exact), u.units * unit + u.absolute * (u.is_fixed ? 1 : std::fabs(x[i])))
            << row->name << " op " << static_cast<int>(u.op) << " x " << x[i] << " got " << y[i] << " expected " << exact;
      }
    }
  }
}

TEST(EveryElementwise, AtTheEnds) {
  struct Case {
    Elementwise op;
    float x, y;
  };
  const Case cases[] = {
      {Elementwise::exp, 0.0F, 1.0F},
      {Elementwise::exp, -0.0F, 1.0F},
      {Elementwise::exp, -1000.0F, 0.0F},
      {Elementwise::exp, -kInfinity, 0.0F},
      {Elementwise::exp, 89.0F, kInfinity},
      {Elementwise::exp, kInfinity, kInfinity},
      {Elementwise::exp, kNotANumber, kNotANumber},
      {Elementwise::tanh, kInfinity, 1.0F},
      {Elementwise::tanh, -kInfinity, -1.0F},
      {Elementwise::tanh, -0.0F, -0.0F},
      {Elementwise::tanh, kNotANumber, kNotANumber},
      {Elementwise::sigmoid, kInfinity, 1.0F},
      {Elementwise::sigmoid, -kInfinity, 0.0F},
      {Elementwise::sigmoid, kNotANumber, kNotANumber},
      {Elementwise::gelu, kNotANumber, kNotANumber},
      {Elementwise::gelu, 100.0F, 100.0F},
      {Elementwise::gelu, 0.0F, 0.0F},
      {Elementwise::log, 0.0F, -kInfinity},
      {Elementwise::log, -1.0F, kNotANumber},
      {Elementwise::log, kInfinity, kInfinity},
      {Elementwise::log, 1.0F, 0.0F},
      {Elementwise::log1p, -1.0F, -kInfinity},
      {Elementwise::log1p, -2.0F, kNotANumber},
      {Elementwise::log1p, 1e-30F, 1e-30F},
      {Elementwise::log1p, kInfinity, kInfinity},
      {Elementwise::expm1, -1000.0F, -1.0F},
      {Elementwise::expm1, kInfinity, kInfinity},
      {Elementwise::expm1, kNotANumber, kNotANumber},
      {Elementwise::sqrt, -1.0F, kNotANumber},
      {Elementwise::sqrt, -0.0F, -0.0F},
      {Elementwise::rsqrt, 0.0F, kInfinity},
      {Elementwise::rsqrt, kInfinity, 0.0F},
      {Elementwise::erf, kInfinity, 1.0F},
      {Elementwise::erf, -kInfinity, -1.0F},
      {Elementwise::erf, kNotANumber, kNotANumber},
      {Elementwise::erfinv, 1.0F, kInfinity},
      {Elementwise::erfinv, -1.0F, -kInfinity},
      {Elementwise::erfinv, 1.5F, kNotANumber},
      {Elementwise::erfinv, kNotANumber, kNotANumber},
      {Elementwise::sin, -0.0F, -0.0F},
      {Elementwise::sin, kInfinity, kNotANumber},
      {Elementwise::cos, 0.0F, 1.0F},
      {Elementwise::cos, kNotANumber, kNotANumber},
      {Elementwise::abs, -0.0F, 0.0F},
      {Elementwise::abs, -kInfinity, kInfinity},
      {Elementwise::floor, -0.0F, -0.0F},
      {Elementwise::floor, -0.3F, -1.0F},
      {Elementwise::floor, kInfinity, kInfinity},
      {Elementwise::floor, kNotANumber, kNotANumber},
      {Elementwise::ceil, -0.3F, -0.0F},
      {Elementwise::ceil, 1e30F, 1e30F},
      {Elementwise::round, 0.5F, 0.0F},
      {Elementwise::round, -0.5F, -0.0F},
      {Elementwise::round, 2.5F, 2.0F},
      {Elementwise::relu, -0.0F, -0.0F},
      {Elementwise::relu, kNotANumber, kNotANumber},
      {Elementwise::relu, kInfinity, kInfinity},
      {Elementwise::silu, kNotANumber, kNotANumber},
      {Elementwise::relu, -std::numeric_limits<float>::denorm_min(), 0.0F},
  };
  for (const ElementwiseRow* row : test::runnable(elementwise_kernels()))
    for (const Case& c : cases) {
      const float y = run_elementwise(*row, c.op, {c.x})[0];
      if (std::isnan(c.y)) {
        EXPECT_TRUE(std::isnan(y)) << row->name << " " << static_cast<int>(c.op);
      } else {
        EXPECT_TRUE(test::same_bits({&y, 1}, {&c.y, 1}))
            << row->name << " " << static_cast<int>(c.op) << " " << c.x << " " << y;
      }
    }
}

TEST(EveryElementwise, ArithmeticIsIeee) {
  for (const ElementwiseRow* row : test::runnable(elementwise_kernels()))
    for (int64_t count : {0, 1, 2, 15, 16, 17, 33, 1000, 40'000})
      for (int64_t period : {int64_t{1}, int64_t{5}, int64_t{16}, int64_t{37}, count}) {
        const auto a = test::random_floats(count, 1), b = test::random_floats(period, 2);
        const auto add = run_elementwise(*row, Elementwise::add, a, b, 2),
                   sub = run_elementwise(*row, Elementwise::sub, a, b), mul = run_elementwise(*row, Elementwise::mul, a, b),
                   div = run_elementwise(*row, Elementwise::div, a, b),
                   least = run_elementwise(*row, Elementwise::minimum, a, b),
                   most = run_elementwise(*row, Elementwise::maximum, a, b);
        for (size_t i = 0; i < a.size(); ++i) {
          const float other = b[i % static_cast<size_t>(period)];
          ASSERT_EQ(add[i], a[i] + other);
          ASSERT_EQ(sub[i], a[i] - other);
          ASSERT_EQ(mul[i], a[i] * other);
          ASSERT_EQ(div[i], a[i] / other);
          ASSERT_EQ(least[i], std::min(a[i], other));
          ASSERT_EQ(most[i], std::max(a[i], other));
        }
      }
}

// All quadrants, far apart sizes, both zeros and infinities.
TEST(EveryElementwise, AnglesEqualTheDefinitionInDouble) {
  std::vector<float> across = test::random_floats(100'001, 5, 3.0F), up = test::random_floats(100'001, 6, 3.0F);
  const std::vector<float> ends{0.0F, -0.0F, kInfinity, -kInfinity, 1.0F, -1.0F, 1e-40F, -1e38F, 3e-39F, kNotANumber};
  for (const float a : ends)
    for (const float b : ends) across.push_back(a), up.push_back(b);
  for (size_t i = 0; i < 50'000; ++i) across[i] = std::ldexp(across[i], static_cast<int>(i % 60) - 30);
  std::vector<float> first;
  for (const ElementwiseRow* row : test::runnable(elementwise_kernels())) {
    const std::vector<float> y = run_elementwise(*row, Elementwise::atan2, up, across);
    if (first.empty()) first = y;
    EXPECT_TRUE(test::same_bits(y, first)) << row->name;
    for (size_t i = 0; i < y.size(); ++i) {
      const double exact = std::atan2(double{up[i]}, double{across[i]});
      if (std::isnan(exact)) {
        ASSERT_TRUE(std::isnan(y[i])) << up[i] << " " << across[i];
        continue;
      }
      const double unit = std::ldexp(1.0, std::max(std::ilogb(exact), -126) - 23);
      ASSERT_LE(std::fabs(y[i] - exact), 3 * unit) << row->name << " " << up[i] << " " << across[i] << " got " << y[i];
      ASSERT_EQ(std::signbit(y[i]), std::signbit(exact)) << up[i] << " " << across[i];
    }
  }
}

TEST(EveryElementwise, ExtremesKeepNan) {
  for (const ElementwiseRow* row : test::runnable(elementwise_kernels()))
    for (const Elementwise op : {Elementwise::minimum, Elementwise::maximum}) {
      const auto y = run_elementwise(*row, op, {kNotANumber, 1.0F, kNotANumber}, {1.0F, kNotANumber, kNotANumber});
      for (const float value : y) EXPECT_TRUE(std::isnan(value));
    }
}

TEST(EveryElementwise, RowsAndThreadsGiveTheSameBits) {
  auto x = test::random_floats(50'001, 3, 8.0F);
  x[7] = kInfinity, x[8] = -kInfinity;
  for (const Unary& u : kUnary) {
    const auto expected = run_elementwise(*test::runnable(elementwise_kernels()).front(), u.op, x);
    for (const ElementwiseRow* row : test::runnable(elementwise_kernels()))
      for (int threads : {1, 3})
        EXPECT_EQ(std::memcmp(run_elementwise(*row, u.op, x, {}, threads).data(), expected.data(), 4 * x.size()), 0);
  }
}

}  // namespace
}  // namespace bitlab::kernels
