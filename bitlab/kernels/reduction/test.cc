// Every row of reduction: against the definitions in double, bit by bit between rows, threads and splits.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "bitlab/kernels/reduction/reduction.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

constexpr Reduction kReductions[] = {Reduction::kSoftmax, Reduction::kWeights, Reduction::kLayerNorm, Reduction::kRmsNorm,
                                     Reduction::kSum,     Reduction::kMean,    Reduction::kMax,       Reduction::kMin};
constexpr int64_t kReducedColumns[] = {1, 2, 10, 15, 16, 17, 33, 100, 768, 4097};
constexpr int64_t kReducedRows = 5;

bool is_softmax(Reduction op) { return op <= Reduction::kWeights; }
bool keeps_columns(Reduction op) { return op <= Reduction::kRmsNorm; }

std::vector<float> run_reduction(const ReductionRow& row, ReductionArgs args, const std::vector<float>& x, int64_t columns,
                                 int threads = 1) {
  const int64_t rows = static_cast<int64_t>(x.size()) / columns;
  const auto results = static_cast<size_t>(keeps_columns(args.op) ? rows * columns : rows);
  test::GuardedBytes in(x.size() * sizeof(float)), out(results * sizeof(float));
  args.x = in.fill<float>(x);
  args.y = out.as<float>();
  std::vector<float> totals(static_cast<size_t>(rows));
  if (args.total == nullptr) args.total = totals.data();
  args.columns = columns;
  reduction(row, args, rows, *make_thread_pool(threads));
  return {out.as<float>(), out.as<float>() + results};
}

// The definition for one row, in double.
std::vector<double> reduction_in_double(const ReductionArgs& p, std::span<const float> x) {
  const auto n = static_cast<double>(x.size());
  double sum = 0, squares = 0, exponentials = 0, most = -INFINITY, least = INFINITY;
  std::vector<double> z(x.begin(), x.end());
  for (size_t i = 0; i < z.size(); ++i)
    if (is_softmax(p.op)) z[i] = z[i] * p.scale + (p.mask == nullptr ? 0 : p.mask[static_cast<int64_t>(i) * p.mask_step]);
  for (double v : z) sum += v, most = std::max(most, v), least = std::min(least, v);
  const double mean = p.op == Reduction::kLayerNorm ? sum / n : 0;
  for (double v : z) squares += (v - mean) * (v - mean), exponentials += std::exp(v - most);
  std::vector<double> y;
  if (p.op == Reduction::kSum) return {sum};
  if (p.op == Reduction::kMean) return {sum / n};
  if (p.op == Reduction::kMax) return {most};
  if (p.op == Reduction::kMin) return {least};
  for (size_t i = 0; i < x.size(); ++i) {
    if (is_softmax(p.op)) {
      y.push_back(std::exp(z[i] - most) / (p.op == Reduction::kSoftmax ? exponentials : 1));
    } else {
      const double w = p.weight == nullptr ? 1 : p.weight[i], b = p.bias == nullptr ? 0 : p.bias[i];
      y.push_back((x[i] - mean) / std::sqrt(squares / n + p.eps) * w + b);
    }
  }
  return y;
}

// A sum of nothing is 0, a mean of nothing none; rows of nothing, and no rows.
TEST(EveryReduction, OfNothing) {
  for (const ReductionRow* row : test::runnable(reduction_kernels()))
    for (Reduction op : kReductions) {
      std::vector<float> y(kReducedRows, 1e30F), totals(kReducedRows, 1e30F);
      reduction(*row, {.op = op, .columns = 0, .total = totals.data(), .y = y.data()}, kReducedRows, *make_thread_pool(2));
      const float expected = op == Reduction::kSum    ? 0.0F
                             : op == Reduction::kMean ? NAN
                             : op == Reduction::kMax  ? -INFINITY
                             : op == Reduction::kMin  ? INFINITY
                                                      : 1e30F;
      for (float value : y) EXPECT_TRUE(value == expected || (std::isnan(value) && std::isnan(expected))) << value;
      for (float total : totals) EXPECT_EQ(total, op == Reduction::kWeights ? 0 : 1e30F);
      reduction(*row, {.op = op, .columns = 3}, 0, *make_thread_pool(2));
    }
}

TEST(EveryReduction, EqualsTheDefinitionInDouble) {
  for (const ReductionRow* row : test::runnable(reduction_kernels()))
    for (int64_t columns : kReducedColumns)
      for (Reduction op : kReductions) {
        const auto x = test::random_floats(kReducedRows * columns, 8, 10.0F), w = test::random_floats(columns, 9),
                   b = test::random_floats(columns, 10);
        const bool affine = columns % 2 == 0;
        const ReductionArgs args{.op = op,
                                 .weight = affine ? w.data() : nullptr,
                                 .bias = columns % 4 == 0 ? b.data() : nullptr,
                                 .eps = 1e-5F,
                                 .scale = affine ? 0.3F : 1,
                                 .mask = columns % 3 == 0 ? b.data() : nullptr,
                                 .mask_step = affine ? 1 : 0};
        const auto y = run_reduction(*row, args, x, columns);
        for (int64_t r = 0; r < kReducedRows; ++r) {
          const auto exact = reduction_in_double(
              args, std::span(x).subspan(static_cast<size_t>(r * columns), static_cast<size_t>(columns)));
          for (size_t i = 0; i < exact.size(); ++i) {
            const double got = y[static_cast<size_t>(r) * exact.size() + i];
            // Softmax: x - max is rounded, so the error is relative. Sums and norms: rounding of terms of size 10 in float32.
            const double bound = is_softmax(op)          ? 1e-5 * exact[i] + 1e-30
                                 : op >= Reduction::kMax ? 0
                                 : op == Reduction::kSum ? 1e-5 * static_cast<double>(columns)
                                                         : 2e-5;
            ASSERT_NEAR(got, exact[i], bound) << row->name << " op " << static_cast<int>(op) << " columns " << columns;
          }
        }
      }
}

TEST(EveryReduction, RowsThreadsAndSplitsGiveTheSameBits) {
  for (int64_t columns : kReducedColumns)
    for (Reduction op : kReductions) {
      const auto x = test::random_floats(40 * columns, 11, 3.0F);
      const ReductionArgs args{.op = op, .eps = 1e-6F};
      const auto whole = run_reduction(*test::runnable(reduction_kernels()).front(), args, x, columns);
      for (const ReductionRow* row : test::runnable(reduction_kernels()))
        for (int threads : {1, 3}) EXPECT_TRUE(test::same_bits(run_reduction(*row, args, x, columns, threads), whole));
      std::vector<float> parts;
      for (int64_t r = 0; r < 40; ++r) {
        const auto begin = x.begin() + r * columns;
        const auto part =
            run_reduction(*test::runnable(reduction_kernels()).back(), args, {begin, begin + columns}, columns);
        parts.insert(parts.end(), part.begin(), part.end());
      }
      EXPECT_TRUE(test::same_bits(parts, whole));
    }
}

TEST(EveryReduction, WeightsAreSoftmaxBeforeTheDivision) {
  for (const ReductionRow* row : test::runnable(reduction_kernels()))
    for (int64_t columns : kReducedColumns) {
      const auto x = test::random_floats(kReducedRows * columns, 8), mask = test::random_floats(columns, 9);
      std::vector<float> totals(kReducedRows);
      ReductionArgs args{.op = Reduction::kWeights, .scale = 0.7F, .mask = mask.data(), .total = totals.data()};
      auto weights = run_reduction(*row, args, x, columns);
      for (size_t i = 0; i < weights.size(); ++i) weights[i] /= totals[i / static_cast<size_t>(columns)];
      args.op = Reduction::kSoftmax;
      EXPECT_TRUE(test::same_bits(weights, run_reduction(*row, args, x, columns))) << row->name << " " << columns;
    }
}

// A mask is -inf; a constant row has no variance; a large mean does not eat the differences.
TEST(EveryReduction, HardRows) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const ReductionRow* row : test::runnable(reduction_kernels())) {
    EXPECT_EQ(run_reduction(*row, {.op = Reduction::kSoftmax}, {-inf, 3.0F, -inf}, 3), (std::vector<float>{0, 1, 0}));
    EXPECT_EQ(run_reduction(*row, {.op = Reduction::kSoftmax}, {1e30F, 1e30F}, 2), (std::vector<float>{0.5F, 0.5F}));
    EXPECT_EQ(run_reduction(*row, {.op = Reduction::kLayerNorm, .eps = 1e-5F}, std::vector<float>(20, 7.0F), 20),
              std::vector<float>(20, 0.0F));
    std::vector<float> shifted;
    for (int i = 0; i < 18; ++i) shifted.push_back(i % 2 == 0 ? 10'000.0F : 10'002.0F);
    const auto y = run_reduction(*row, {.op = Reduction::kLayerNorm, .eps = 0}, shifted, 18);
    for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], i % 2 == 0 ? -1.0F : 1.0F, 1e-6F);
    EXPECT_TRUE(std::isnan(run_reduction(*row, {.op = Reduction::kMax}, {1.0F, std::nanf(""), 3.0F}, 3)[0]));
    EXPECT_TRUE(std::isnan(run_reduction(*row, {.op = Reduction::kMin}, {1.0F, std::nanf(""), 3.0F}, 3)[0]));
  }
}

}  // namespace
}  // namespace bitlab::kernels
