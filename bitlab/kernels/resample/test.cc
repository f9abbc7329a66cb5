// Images in another size: against the definition in double, with every mode; of a size that is 1, or the same.
#include <cmath>

#include <gtest/gtest.h>

#include "bitlab/kernels/resample/resample.h"
#include "bitlab/kernels/test_support.h"

namespace bitlab::kernels {
namespace {

// The mean of a row under a kernel that is as wide as an output, in double: each value counts where its middle lies.
double antialiased(bool is_cubic, const std::vector<double>& row, int64_t i, int64_t out) {
  const double ratio = static_cast<double>(row.size()) / static_cast<double>(out), width = std::max(ratio, 1.0);
  double sum = 0, weights = 0;
  for (size_t at = 0; at < row.size(); ++at) {
    const double d = std::fabs(static_cast<double>(at) + 0.5 - (static_cast<double>(i) + 0.5) * ratio) / width;
    const double keys = d < 1 ? 1.5 * d * d * d - 2.5 * d * d + 1 : d < 2 ? -0.5 * d * d * d + 2.5 * d * d - 4 * d + 2 : 0;
    const double weight = is_cubic ? keys : std::max(1 - d, 0.0);
    sum += weight * row[at], weights += weight;
  }
  return sum / weights;
}

// The value at a place between the values of a row, in double.
double value_at(ResampleMode mode, bool align, const std::vector<double>& row, int64_t i, int64_t out) {
  const auto n = static_cast<int64_t>(row.size());
  const auto at = [&](int64_t place) { return row[static_cast<size_t>(std::clamp<int64_t>(place, 0, n - 1))]; };
  if (mode == ResampleMode::kNearest) return at(i * n / out);
  if (mode == ResampleMode::kNearestExact)
    return at(static_cast<int64_t>(
        std::floor((static_cast<double>(i) + 0.5) * static_cast<double>(n) / static_cast<double>(out))));
  if (mode == ResampleMode::kLinearAntialias || mode == ResampleMode::kCubicAntialias)
    return antialiased(mode == ResampleMode::kCubicAntialias, row, i, out);
  const double ratio = align ? (out > 1 ? static_cast<double>(n - 1) / static_cast<double>(out - 1) : 0)
                             : static_cast<double>(n) / static_cast<double>(out);
  double place = align ? static_cast<double>(i) * ratio : (static_cast<double>(i) + 0.5) * ratio - 0.5;
  if (mode == ResampleMode::kLinear) {
    place = std::max(place, 0.0);
    const auto whole = static_cast<int64_t>(place);
    const double part = place - static_cast<double>(whole);
    return at(whole) * (1 - part) + at(whole + 1) * part;
  }
  double sum = 0;
  const auto whole = static_cast<int64_t>(std::floor(place));
  for (int64_t tap = whole - 1; tap <= whole + 2; ++tap) {
    const double d = std::fabs(place - static_cast<double>(tap)), a = -0.75;
    sum +=
        at(tap) * (d <= 1 ? (a + 2) * d * d * d - (a + 3) * d * d + 1 : a * d * d * d - 5 * a * d * d + 8 * a * d - 4 * a);
  }
  return sum;
}

// Along the width, then the height, then the depth.
TEST(Resample, EqualsTheDefinitionInDouble) {
  using Sizes = std::array<int64_t, 3>;
  constexpr int64_t kBatch = 2, kChannels = 3;
  const std::pair<Sizes, Sizes> sizes[] = {{{1, 1, 7}, {1, 1, 11}}, {{1, 5, 4}, {1, 3, 9}}, {{3, 2, 5}, {4, 7, 2}},
                                           {{1, 1, 1}, {1, 5, 3}},  {{1, 4, 6}, {1, 1, 1}}, {{1, 4, 6}, {1, 8, 12}}};
  for (const ResampleMode mode : {ResampleMode::kNearest, ResampleMode::kNearestExact, ResampleMode::kLinear,
                                  ResampleMode::kCubic, ResampleMode::kLinearAntialias, ResampleMode::kCubicAntialias})
    for (const bool align : {false, true})
      for (const auto& [in, out] : sizes) {
        if (mode != ResampleMode::kLinear && mode != ResampleMode::kCubic && align) continue;
        const auto volume = [](const Sizes& s) { return s[0] * s[1] * s[2]; };
        const auto x = test::random_floats(kBatch * volume(in) * kChannels, 3);
        ResampleShape shape{.batch = kBatch, .channels = kChannels, .axes = {}};
        for (size_t d = 0; d < 3; ++d) shape.axes[d] = resample_axis(mode, align, in[d], out[d]);
        std::vector<float> y(static_cast<size_t>(kBatch * volume(out) * kChannels));
        resample(shape, x.data(), y.data(), *make_thread_pool(2));
        for (int64_t b = 0; b < kBatch; ++b)
          for (int64_t c = 0; c < kChannels; ++c)
            for (int64_t o = 0; o < volume(out); ++o) {
              std::vector<double> planes;
              for (int64_t z = 0; z < in[0]; ++z) {
                std::vector<double> lines;
                for (int64_t v = 0; v < in[1]; ++v) {
                  std::vector<double> row;
                  for (int64_t u = 0; u < in[2]; ++u)
                    row.push_back(x[static_cast<size_t>((((b * in[0] + z) * in[1] + v) * in[2] + u) * kChannels + c)]);
                  lines.push_back(value_at(mode, align, row, o % out[2], out[2]));
                }
                planes.push_back(value_at(mode, align, lines, o / out[2] % out[1], out[1]));
              }
              const double expected = value_at(mode, align, planes, o / out[2] / out[1], out[0]);
              ASSERT_NEAR(y[static_cast<size_t>((b * volume(out) + o) * kChannels + c)], expected, 2e-6);
            }
      }
}

}  // namespace
}  // namespace bitlab::kernels
