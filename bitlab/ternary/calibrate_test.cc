// Steps against sorted values and against a search over them all.
#include "bitlab/ternary/calibrate.h"

#include <cmath>
#include <random>

#include <gtest/gtest.h>

namespace bitlab::ternary {
namespace {

// A bell with outliers, in pieces whose range grows.
std::vector<float> bell(int count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.7F);
  std::vector<float> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); ++i) x[i] = normal(random) * (i % 1000 == 999 ? 9.0F : 1.0F);
  return x;
}

StepCalibrator fed(const std::vector<float>& x) {
  StepCalibrator calibrator;
  const size_t cut = x.size() / 3;
  EXPECT_TRUE(calibrator.add(std::span(x).first(cut)).ok());
  EXPECT_TRUE(calibrator.add(std::span(x).subspan(cut)).ok());
  return calibrator;
}

TEST(StepCalibrator, MinMaxIsTheLargest) {
  const auto x = bell(10000, 1);
  float largest = 0;
  for (float v : x) largest = std::max(largest, std::fabs(v));
  EXPECT_FLOAT_EQ(fed(x).step(Calibration::kMinMax, 127).value(), largest / 127);
}

TEST(StepCalibrator, PercentileIsTheSortedValues) {
  auto x = bell(20000, 2);
  const StepCalibrator calibrator = fed(x);
  for (float& v : x) v = std::fabs(v);
  std::sort(x.begin(), x.end());
  for (double percentile : {50.0, 99.0, 99.9, 100.0}) {
    const double expected = static_cast<double>(x[static_cast<size_t>(percentile / 100 * 20000) - 1]);
    EXPECT_NEAR(calibrator.step(Calibration::kPercentile, 1, percentile).value(), expected, calibrator.largest() / 500);
  }
}

TEST(StepCalibrator, MseIsTheBestOfASearch) {
  const auto x = bell(20000, 3);
  const StepCalibrator calibrator = fed(x);
  const auto error = [&](double step, int limit) {
    double sum = 0;
    for (float v : x) {
      const double q = std::clamp(std::nearbyint(static_cast<double>(v) / step), -1.0 * limit, 1.0 * limit) * step;
      sum += (static_cast<double>(v) - q) * (static_cast<double>(v) - q);
    }
    return sum;
  };
  for (int limit : {7, 127}) {
    const double found = static_cast<double>(calibrator.step(Calibration::kMse, limit).value());
    double best = error(found, limit);
    for (int i = 1; i <= 100; ++i) best = std::min(best, error(calibrator.largest() * i / 100 / limit, limit));
    EXPECT_LE(error(found, limit), best * 1.02) << limit;
    EXPECT_LT(found, 0.99 * calibrator.largest() / limit) << "outliers are worth clamping";
  }
}

TEST(StepCalibrator, RefusesWhatItCannotUse) {
  StepCalibrator calibrator;
  EXPECT_EQ(calibrator.step(Calibration::kMinMax, 127).error().message, "[calibration] values, got none");
  const float bad[] = {1, NAN};
  EXPECT_EQ(calibrator.add(bad).error().code, ErrorCode::kNotFinite);
  const float zero[] = {0, 0};
  StepCalibrator silent;
  ASSERT_TRUE(silent.add(zero).ok());
  for (Calibration calibration : {Calibration::kMinMax, Calibration::kPercentile, Calibration::kMse})
    EXPECT_EQ(silent.step(calibration, 127).value(), 1e-8F);
  EXPECT_EQ(silent.step(Calibration::kPercentile, 127, 0).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(parse_calibration("percentile").value(), Calibration::kPercentile);
  EXPECT_EQ(parse_calibration("best").error().message, "[calibration] one of minmax, percentile, mse, got 'best'");
}

}  // namespace
}  // namespace bitlab::ternary
