// Images at the places of a grid: against the definition in double, with every mode and padding; places far outside and NaN.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "bitlab/kernels/grid_sample/grid_sample.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

// By walking from edge to edge until the place is between them.
double mirrored(double place, double least, double most) {
  if (least == most) return 0;
  while (place < least || place > most) place = place < least ? 2 * least - place : 2 * most - place;
  return place;
}

double place_of(const GridSample& s, double g, int64_t size) {
  const auto n = static_cast<double>(size);
  double place = s.align_corners ? (g + 1) / 2 * (n - 1) : ((g + 1) * n - 1) / 2;
  if (s.padding == GridPadding::kReflection)
    place = s.align_corners ? mirrored(place, 0, n - 1) : mirrored(place, -0.5, n - 0.5);
  return s.padding == GridPadding::kZeros ? place : std::min(std::max(place, 0.0), n - 1);
}

double value_at(const GridSample& s, const float* image, double x, double y) {
  const auto at = [&](double v, double u) {
    const bool inside = v >= 0 && v < static_cast<double>(s.height) && u >= 0 && u < static_cast<double>(s.width);
    return inside ? double{image[static_cast<int64_t>(v) * s.width + static_cast<int64_t>(u)]} : 0.0;
  };
  if (s.is_nearest) return at(std::nearbyint(y), std::nearbyint(x));
  const double left = std::floor(x), top = std::floor(y), u = x - left, v = y - top;
  return at(top, left) * (1 - u) * (1 - v) + at(top, left + 1) * u * (1 - v) + at(top + 1, left) * (1 - u) * v +
         at(top + 1, left + 1) * u * v;
}

std::vector<float> sampled(const GridSample& s, const std::vector<float>& x, const std::vector<float>& grid, int threads) {
  std::vector<float> y(static_cast<size_t>(s.batch * s.channels * s.places));
  grid_sample(s, x.data(), grid.data(), y.data(), *make_thread_pool(threads));
  return y;
}

void check(const GridSample& s) {
  const auto x = test::random_floats(s.batch * s.channels * s.height * s.width, 3);
  auto grid = test::random_floats(s.batch * s.places * 2, 4, 1.7F);
  // Nearest values change where a place is rounded: eighths of values are not rounded at all, nor halves.
  if (s.is_nearest)
    for (size_t i = 0; i < grid.size(); ++i) {
      const auto n = static_cast<float>(i % 2 == 0 ? s.width : s.height);
      const float place = std::floor(grid[i] * n) + 0.125F * static_cast<float>(i % 3);
      grid[i] = s.align_corners ? (n > 1 ? 2 * place / (n - 1) - 1 : 0) : (2 * place + 1) / n - 1;
    }
  const auto y = sampled(s, x, grid, 1);
  EXPECT_TRUE(test::same_bits(y, sampled(s, x, grid, 3)));
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t c = 0; c < s.channels; ++c)
      for (int64_t i = 0; i < s.places; ++i) {
        const float* image = x.data() + (b * s.channels + c) * s.height * s.width;
        const auto at = static_cast<size_t>(2 * (b * s.places + i));
        const double expected = value_at(s, image, place_of(s, grid[at], s.width), place_of(s, grid[at + 1], s.height));
        ASSERT_NEAR(y[static_cast<size_t>((b * s.channels + c) * s.places + i)], expected, 2e-5)
            << s.is_nearest << s.align_corners << static_cast<int>(s.padding) << " at " << grid[at] << ", " << grid[at + 1];
      }
}

TEST(GridSample, EqualsTheDefinitionInDouble) {
  for (const GridPadding padding : {GridPadding::kZeros, GridPadding::kBorder, GridPadding::kReflection})
    for (const bool align : {false, true})
      for (const bool is_nearest : {false, true}) {
        check({2, 3, 5, 7, 101, is_nearest, align, padding});
        check({1, 2, 1, 4, 33, is_nearest, align, padding});
      }
}

// Nothing is read outside the image, wherever a grid points.
TEST(GridSample, ReadsWithinTheImage) {
  constexpr float kEndless = std::numeric_limits<float>::infinity(), kMost = std::numeric_limits<float>::max();
  const float far[] = {kEndless, -kEndless, kMost, -kMost, std::numeric_limits<float>::quiet_NaN(), 1e10F};
  std::vector<float> grid;
  for (const float u : far)
    for (const float v : far) grid.insert(grid.end(), {u, v});
  for (const GridPadding padding : {GridPadding::kZeros, GridPadding::kBorder, GridPadding::kReflection})
    for (const bool is_nearest : {false, true}) {
      const GridSample s{1, 1, 2, 3, static_cast<int64_t>(grid.size()) / 2, is_nearest, false, padding};
      const std::vector<float> values{1, 2, 3, 4, 5, 6};
      test::GuardedBytes image(6 * sizeof(float));
      std::vector<float> y(grid.size() / 2);
      grid_sample(s, image.fill<float>(values), grid.data(), y.data(), *make_thread_pool(1));
      for (const float value : y)
        EXPECT_TRUE(padding == GridPadding::kZeros ? value == 0 : value >= 1 && value <= 6) << value;
    }
}

}  // namespace
}  // namespace bitlab::kernels
