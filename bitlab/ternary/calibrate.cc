#include "bitlab/ternary/calibrate.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace bitlab::ternary {
namespace {

constexpr size_t kBins = 4096;
constexpr double kLeastCalibrated = 1e-8;
constexpr std::array<std::string_view, 3> kNames{"minmax", "percentile", "mse"};

}  // namespace

std::string_view name(Calibration calibration) { return kNames.at(static_cast<size_t>(calibration)); }

std::span<const std::string_view> names_of(Calibration) { return kNames; }

Result<Calibration> parse_calibration(std::string_view text) {
  const auto found = std::find(kNames.begin(), kNames.end(), text);
  if (found != kNames.end()) return static_cast<Calibration>(found - kNames.begin());
  return make_error(ErrorCode::kUnknownName, "[calibration] one of minmax, percentile, mse, got '{}'", text);
}

StepCalibrator::StepCalibrator() : counts_(kBins) {}

// Makes room for a value: the first one lies in the middle, later ones double the range.
void StepCalibrator::widen(double value) {
  if (width_ == 0) width_ = 2 * value / static_cast<double>(kBins);
  while (value >= width_ * static_cast<double>(kBins)) {
    for (size_t i = 0; i < kBins / 2; ++i) counts_[i] = counts_[2 * i] + counts_[2 * i + 1];
    std::fill(counts_.begin() + kBins / 2, counts_.end(), 0);
    width_ *= 2;
  }
}

Status StepCalibrator::add(std::span<const float> x) {
  for (const float value : x) {
    if (!std::isfinite(value)) return make_error(ErrorCode::kNotFinite, "[calibration] finite values, got {}", value);
    const double magnitude = std::fabs(static_cast<double>(value));
    largest_ = std::max(largest_, magnitude);
    ++total_;
    if (magnitude == 0) {
      ++counts_[0];
      continue;
    }
    widen(magnitude);
    ++counts_[static_cast<size_t>(magnitude / width_)];
  }
  return {};
}

// The upper edge of the bin that holds it.
double StepCalibrator::percentile_of(double percentile) const {
  const double wanted = percentile / 100 * static_cast<double>(total_);
  int64_t seen = 0;
  for (size_t i = 0; i < kBins; ++i) {
    seen += counts_[i];
    if (static_cast<double>(seen) >= wanted) return std::min(static_cast<double>(i + 1) * width_, largest_);
  }
  return largest_;
}

double StepCalibrator::squared_error(double step, int limit) const {
  double error = 0;
  for (size_t i = 0; i < kBins; ++i) {
    if (counts_[i] == 0) continue;
    const double value = centre(i), quantized = step * std::min(std::nearbyint(value / step), static_cast<double>(limit));
    error += static_cast<double>(counts_[i]) * (value - quantized) * (value - quantized);
  }
  return error;
}

Result<float> StepCalibrator::step(Calibration calibration, int limit, double percentile) const {
  if (total_ == 0) return make_error(ErrorCode::kInvalidArgument, "[calibration] values, got none");
  if (!(percentile > 0 && percentile <= 100))
    return make_error(ErrorCode::kInvalidArgument, "[calibration] a percentile above 0 up to 100, got {}", percentile);
  double range = calibration == Calibration::kPercentile ? percentile_of(percentile) : largest_;
  if (calibration == Calibration::kMse && range > 0) {
    constexpr int kCandidates = 100;
    double best = std::numeric_limits<double>::infinity();
    for (int i = 1; i <= kCandidates; ++i) {
      const double candidate = largest_ * i / kCandidates, error = squared_error(candidate / limit, limit);
      if (error < best) best = error, range = candidate;
    }
  }
  return static_cast<float>(std::max(range / limit, kLeastCalibrated));
}

}  // namespace bitlab::ternary
