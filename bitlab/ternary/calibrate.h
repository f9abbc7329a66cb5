// The step of static activations from values that a network has seen: how much a unit of q stands for, spec.h.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "bitlab/base/result.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::ternary {

enum class Calibration {
  kMinMax,      // step = max|x| / limit: nothing is clamped
  kPercentile,  // step = the given percentile of |x|, / limit: outliers are clamped
  kMse,  // the step of 100 fractions of min-max's that minimizes sum (x - step clamp(rint(x / step)))^2; Choukroun et al. 2019,
         // arXiv:1902.06822
};
std::string_view name(Calibration calibration);           // "minmax", "percentile", "mse"
std::span<const std::string_view> names_of(Calibration);  // all of them
Result<Calibration> parse_calibration(std::string_view text);

// Collects |x| in a histogram whose range doubles when a larger value comes: its size does not depend on how much it has seen.
class StepCalibrator {
 public:
  StepCalibrator();
  // Error: NotFinite.
  Status add(std::span<const float> x);
  // limit: act_limit(kind); percentile in (0, 100]. At least 1e-8. Errors: InvalidArgument (nothing seen, a percentile out of range).
  Result<float> step(Calibration calibration, int limit, double percentile = 99.9) const;
  double largest() const { return largest_; }

 private:
  void widen(double value);
  double percentile_of(double percentile) const;
  double squared_error(double step, int limit) const;
  double centre(size_t bin) const { return (static_cast<double>(bin) + 0.5) * width_; }

  std::vector<int64_t> counts_;
  int64_t total_ = 0;
  double width_ = 0;  // of a bin; 0 before the first value above 0
  double largest_ = 0;
};

}  // namespace bitlab::ternary
