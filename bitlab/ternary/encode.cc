#include "bitlab/ternary/encode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "bitlab/base/half.h"

namespace bitlab::ternary {
namespace {

constexpr size_t kLanes = 16;

// Sum of term(w[i]) in the documented order.
template <class Term>
double ordered_sum(std::span<const float> w, Term term) {
  std::array<double, kLanes> lane{};
  const size_t whole = w.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) lane[j] += term(w[i + j]);
  for (size_t i = whole; i < w.size(); ++i) lane[i - whole] += term(w[i]);
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  return lane[0];
}

double mean_abs(std::span<const float> w) {
  return ordered_sum(w, [](float v) { return std::fabs(static_cast<double>(v)); }) / static_cast<double>(w.size());
}

float median_abs(std::span<const float> w) {
  std::vector<float> size(w.size());
  std::transform(w.begin(), w.end(), size.begin(), [](float v) { return std::fabs(v); });
  const auto middle = size.begin() + static_cast<int64_t>((size.size() - 1) / 2);
  std::nth_element(size.begin(), middle, size.end());
  return *middle;
}

float max_abs(std::span<const float> w) {
  float most = 0;
  for (float v : w) most = std::max(most, std::fabs(v));
  return most;
}

// The scale that is best for a threshold, in the sense of least squares: the mean of |w| over |w| > threshold; 0 where there is none.
float best_scale(std::span<const float> w, float threshold) {
  const double kept = ordered_sum(w, [=](float v) { return std::fabs(v) > threshold ? 1.0 : 0.0; });
  if (kept == 0) return 0.0F;
  const double sum = ordered_sum(w, [=](float v) {
    const float magnitude = std::fabs(v);
    return magnitude > threshold ? static_cast<double>(magnitude) : 0.0;
  });
  return static_cast<float>(sum / kept);
}

struct Fit {
  float threshold, scale, scale_neg;
};
struct Learned {
  float scale, scale_neg;
};

// rint(w / s) clamped to one is w / s beyond a half, since halves round to even; and the float quotient w / s is above a half where w is
// above s / 2, for every float.
Fit half_of(float scale) { return {scale / 2, scale, scale}; }
Fit best_for(std::span<const float> w, float threshold) {
  const float scale = best_scale(w, threshold);
  return {threshold, scale, scale};
}

// One function a method: for the weights that share a scale. `c` as in methods.def.
Fit fit_absmean(std::span<const float> w, double /*c*/, Learned /*learned*/) {
  return half_of(std::max(static_cast<float>(mean_abs(w)), kScaleEpsilon));
}
Fit fit_absmedian(std::span<const float> w, double /*c*/, Learned /*learned*/) {
  return half_of(std::max(median_abs(w), kScaleEpsilon));
}
Fit fit_twn(std::span<const float> w, double c, Learned /*learned*/) {
  return best_for(w, static_cast<float>(c * mean_abs(w)));
}
Fit fit_ttq(std::span<const float> w, double c, Learned learned) {
  return {static_cast<float>(c * static_cast<double>(max_abs(w))), learned.scale, learned.scale_neg};
}
Fit fit_lsq(std::span<const float> /*w*/, double /*c*/, Learned learned) {
  return half_of(std::max(std::fabs(learned.scale), kScaleEpsilon));
}
Fit fit_fixed(std::span<const float> w, double c, Learned /*learned*/) { return best_for(w, static_cast<float>(c)); }

Fit fit_int8(std::span<const float> w, double /*c*/, Learned /*learned*/) {
  return half_of(std::max(max_abs(w), kScaleEpsilon) / 127);
}

using FitFunction = Fit (*)(std::span<const float>, double, Learned);
constexpr std::array<FitFunction, 7> kFits{fit_absmean, fit_absmedian, fit_twn, fit_ttq,
                                           fit_lsq,     fit_fixed,     fit_int8};  // as in methods.def

void apply_threshold(std::span<const float> w, float threshold, std::span<int8_t> t) {
  for (size_t i = 0; i < w.size(); ++i) t[i] = static_cast<int8_t>((w[i] > threshold) - (w[i] < -threshold));
}

void round_to_limit(std::span<const float> w, float scale, float limit, std::span<int8_t> t) {
  for (size_t i = 0; i < w.size(); ++i) t[i] = static_cast<int8_t>(std::clamp(std::nearbyint(w[i] / scale), -limit, limit));
}

double coefficient(const WeightSpec& spec) {
  return spec.threshold != 0 ? spec.threshold : info(spec.method).default_threshold;
}

// f(i, part) for the weights of each scale i, in order; stops at an error.
template <class Function>
Status for_each_part(const WeightSpec& spec, int64_t rows, int64_t depth, Function f) {
  const bool tensor = spec.granularity == Granularity::kTensor;
  const int64_t lines = tensor ? 1 : rows, length = tensor ? rows * depth : depth;
  const int64_t groups = groups_of(spec, depth), step = groups == 1 ? length : spec.group;
  for (int64_t i = 0; i < lines * groups; ++i) {
    const int64_t within = i % groups * step;
    BITLAB_RETURN_IF_ERROR(f(static_cast<size_t>(i), static_cast<size_t>(i / groups * length + within),
                             static_cast<size_t>(std::min(step, length - within))));
  }
  return {};
}

Status check_sizes(const WeightSpec& spec, size_t w, int64_t rows, int64_t depth, const LearnedScales& learned,
                   const Encoding& out) {
  const auto count = static_cast<size_t>(rows * depth);
  if (rows < 1 || depth < 1 || w != count || out.t.size() != count)
    return make_error(ErrorCode::kShapeMismatch, "[encode] {} weights and codes for [{}, {}], got {} and {}", count, rows,
                      depth, w, out.t.size());
  const auto scales = static_cast<size_t>(scale_count(spec, rows, depth));
  const int parameters = info(spec.method).learned_scales;
  const size_t negative = parameters == 2 ? scales : 0;
  if (out.scale.size() != scales || out.scale_neg.size() != negative ||
      (!out.threshold.empty() && out.threshold.size() != scales))
    return make_error(ErrorCode::kShapeMismatch, "[encode] {} scales and {} negative ones for {}, got {} and {}", scales,
                      negative, to_text(spec), out.scale.size(), out.scale_neg.size());
  if (learned.scale.size() != (parameters > 0 ? scales : 0) || learned.scale_neg.size() != negative)
    return make_error(ErrorCode::kShapeMismatch, "[encode] {} and {} learned scales for {}, got {} and {}",
                      parameters > 0 ? scales : 0, negative, to_text(spec), learned.scale.size(), learned.scale_neg.size());
  return {};
}

Status check_finite(std::string_view what, std::span<const float> values) {
  constexpr uint32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;
  uint32_t beyond = 0;  // without a branch, which keeps the loop at the speed of memory
  for (const float value : values) beyond |= (std::bit_cast<uint32_t>(value) & kMagnitude) >= kInfinity ? 1 : 0;
  if (beyond == 0) return {};
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  return make_error(ErrorCode::kNotFinite, "[encode] finite {}, got {} (index={})", what, *bad, bad - values.begin());
}

}  // namespace

Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, const LearnedScales& learned,
              const Encoding& out) {
  BITLAB_RETURN_IF_ERROR(validate(spec));
  BITLAB_RETURN_IF_ERROR(check_sizes(spec, w.size(), rows, depth, learned, out));
  BITLAB_RETURN_IF_ERROR(check_finite("weights", w));
  BITLAB_RETURN_IF_ERROR(check_finite("learned scales", learned.scale));
  BITLAB_RETURN_IF_ERROR(check_finite("learned scales", learned.scale_neg));
  const FitFunction function = kFits.at(static_cast<size_t>(spec.method));
  const double c = coefficient(spec);
  return for_each_part(spec, rows, depth, [&](size_t i, size_t begin, size_t count) -> Status {
    const std::span<const float> part = w.subspan(begin, count);
    const Learned own{learned.scale.empty() ? 0 : learned.scale[i], learned.scale_neg.empty() ? 0 : learned.scale_neg[i]};
    Fit fit = function(part, c, own);
    const std::span<int8_t> t = out.t.subspan(begin, count);
    if (is_ternary(spec.method)) {
      apply_threshold(part, fit.threshold, t);
    } else {
      round_to_limit(part, fit.scale, static_cast<float>(info(spec.method).limit), t);
    }
    if (spec.granularity == Granularity::kGroup) fit.scale = half_to_float(float_to_half(fit.scale));
    if (!std::isfinite(fit.scale))
      return make_error(ErrorCode::kNotFinite, "[encode] a scale within float16, got more (group={})", i);
    out.scale[i] = fit.scale;
    if (!out.scale_neg.empty()) out.scale_neg[i] = fit.scale_neg;
    if (!out.threshold.empty()) out.threshold[i] = fit.threshold;
    return {};
  });
}

Status initial_scales(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, std::span<float> scale,
                      std::span<float> scale_neg) {
  BITLAB_RETURN_IF_ERROR(validate(spec));
  const int parameters = info(spec.method).learned_scales;
  const auto scales = static_cast<size_t>(scale_count(spec, rows, depth));
  if (parameters == 0)
    return make_error(ErrorCode::kUnsupported, "[encode] a method with learned scales, got {}", name(spec.method));
  if (w.size() != static_cast<size_t>(rows * depth) || scale.size() != scales ||
      scale_neg.size() != (parameters == 2 ? scales : 0))
    return make_error(ErrorCode::kShapeMismatch, "[encode] {} weights and {} scales, got {} and {}", rows * depth, scales,
                      w.size(), scale.size());
  BITLAB_RETURN_IF_ERROR(check_finite("weights", w));
  return for_each_part(spec, rows, depth, [&](size_t i, size_t begin, size_t count) -> Status {
    const std::span<const float> part = w.subspan(begin, count);
    scale[i] =
        parameters == 1 ? 2 * fit_absmean(part, 0, {}).scale : fit_twn(part, info(Method::kTwn).default_threshold, {}).scale;
    if (parameters == 2) scale_neg[i] = scale[i];
    return {};
  });
}

}  // namespace bitlab::ternary
