#include "bitlab/ternary/encode.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "bitlab/base/aligned_buffer.h"
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
  // By masks, which compilers turn into vectors.
  const auto kept_bits = [=](float v) {
    const float magnitude = std::fabs(v);
    return std::bit_cast<uint32_t>(magnitude) & -static_cast<uint32_t>(magnitude > threshold);
  };
  int64_t kept = 0;
  for (const float v : w) kept += std::fabs(v) > threshold ? 1 : 0;
  if (kept == 0) return 0.0F;
  const double sum = ordered_sum(w, [=](float v) { return static_cast<double>(std::bit_cast<float>(kept_bits(v))); });
  return static_cast<float>(sum / static_cast<double>(kept));
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

// clamp(rint(w / scale), -limit, limit): adding 1.5 * 2^23 leaves no bits behind the point, and the addition rounds as rint does.
void round_to_limit(std::span<const float> w, float scale, float limit, std::span<int8_t> t) {
  constexpr float kNoFraction = 12582912.0F;
  for (size_t i = 0; i < w.size(); ++i) {
    const float clamped = std::max(-limit, std::min(w[i] / scale, limit)), rounded = (clamped + kNoFraction) - kNoFraction;
    t[i] = static_cast<int8_t>(static_cast<int32_t>(rounded));
  }
}

double coefficient(const WeightSpec& spec) {
  return spec.threshold != 0 ? spec.threshold : info(spec.method).default_threshold;
}

// Where the weights of scale i lie.
struct Part {
  size_t begin, count;
};
Part part_of(const WeightSpec& spec, int64_t rows, int64_t depth, int64_t i) {
  const int64_t length = spec.granularity == Granularity::kTensor ? rows * depth : depth, groups = groups_of(spec, depth);
  const int64_t step = groups == 1 ? length : spec.group, within = i % groups * step;
  return {static_cast<size_t>(i / groups * length + within), static_cast<size_t>(std::min(step, length - within))};
}

constexpr int64_t kChunk = 1 << 15;  // weights: what is worth another thread

// f(first, count) for pieces of [0, total) on the pool's threads.
template <class F>
void in_pieces(ThreadPool& pool, int64_t total, int64_t piece, F f) {
  pool.run(ceil_div(total, piece), [&](int64_t i, int) { f(i * piece, std::min(piece, total - i * piece)); });
}

// Nothing has no mean: scales need weights.
Status check_matrix(size_t w, int64_t rows, int64_t depth) {
  if (rows >= 1 && depth >= 1 && depth <= std::numeric_limits<int64_t>::max() / rows) return {};
  return make_error(ErrorCode::kShapeMismatch, "[encode] at least one row and one column, got [{}, {}] and {} weights", rows,
                    depth, w);
}

Status check_sizes(const WeightSpec& spec, size_t w, int64_t rows, int64_t depth, const LearnedScales& learned,
                   const Encoding& out) {
  BITLAB_RETURN_IF_ERROR(check_matrix(w, rows, depth));
  const auto count = static_cast<size_t>(rows * depth);
  if (w != count || out.t.size() != count)
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

// Without a branch, which keeps the loop at the speed of memory.
bool all_finite(std::span<const float> values) {
  constexpr uint32_t kMagnitude = 0x7FFFFFFF, kInfinity = 0x7F800000;
  uint32_t beyond = 0;
  for (const float value : values) beyond |= (std::bit_cast<uint32_t>(value) & kMagnitude) >= kInfinity ? 1 : 0;
  return beyond == 0;
}

Status check_finite(std::string_view what, std::span<const float> values, ThreadPool& pool) {
  std::atomic<bool> finite = true;
  in_pieces(pool, static_cast<int64_t>(values.size()), kChunk, [&](int64_t first, int64_t count) {
    if (!all_finite(values.subspan(static_cast<size_t>(first), static_cast<size_t>(count)))) finite = false;
  });
  if (finite) return {};
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  return make_error(ErrorCode::kNotFinite, "[encode] finite {}, got {} (index={})", what, *bad, bad - values.begin());
}

void write_codes(const WeightSpec& spec, const Fit& fit, std::span<const float> w, std::span<int8_t> t) {
  if (is_ternary(spec.method)) {
    apply_threshold(w, fit.threshold, t);
  } else {
    round_to_limit(w, fit.scale, static_cast<float>(info(spec.method).limit), t);
  }
}

}  // namespace

Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, const LearnedScales& learned,
              const Encoding& out, ThreadPool* given_pool) {
  BITLAB_RETURN_IF_ERROR(validate(spec));
  BITLAB_RETURN_IF_ERROR(check_sizes(spec, w.size(), rows, depth, learned, out));
  const auto own_pool = given_pool == nullptr ? make_thread_pool(1) : nullptr;
  ThreadPool& pool = given_pool == nullptr ? *own_pool : *given_pool;
  BITLAB_RETURN_IF_ERROR(check_finite("weights", w, pool));
  BITLAB_RETURN_IF_ERROR(check_finite("learned scales", learned.scale, pool));
  BITLAB_RETURN_IF_ERROR(check_finite("learned scales", learned.scale_neg, pool));
  const FitFunction function = kFits.at(static_cast<size_t>(spec.method));
  const double c = coefficient(spec);
  const auto fit = [&](size_t i, std::span<const float> part) {
    Fit found = function(
        part, c, {learned.scale.empty() ? 0 : learned.scale[i], learned.scale_neg.empty() ? 0 : learned.scale_neg[i]});
    if (spec.granularity == Granularity::kGroup) found.scale = half_to_float(float_to_half(found.scale));
    out.scale[i] = found.scale;
    if (!out.scale_neg.empty()) out.scale_neg[i] = found.scale_neg;
    if (!out.threshold.empty()) out.threshold[i] = found.threshold;
    return found;
  };
  const int64_t scales = scale_count(spec, rows, depth);
  if (scales == 1) {
    const Fit whole = fit(0, w);
    in_pieces(pool, static_cast<int64_t>(w.size()), kChunk, [&](int64_t first, int64_t count) {
      const auto begin = static_cast<size_t>(first), size = static_cast<size_t>(count);
      write_codes(spec, whole, w.subspan(begin, size), out.t.subspan(begin, size));
    });
  } else {
    // A median's memory is taken by the caller's thread: a task must not throw.
    const int64_t piece = spec.method == Method::kAbsmedian ? scales : ceil_div(kChunk * scales, rows * depth);
    in_pieces(pool, scales, piece, [&](int64_t first, int64_t count) {
      for (int64_t i = first; i < first + count; ++i) {
        const Part part = part_of(spec, rows, depth, i);
        const std::span<const float> own = w.subspan(part.begin, part.count);
        write_codes(spec, fit(static_cast<size_t>(i), own), own, out.t.subspan(part.begin, part.count));
      }
    });
  }
  const auto bad = std::find_if(out.scale.begin(), out.scale.end(), [](float v) { return !std::isfinite(v); });
  if (bad == out.scale.end()) return {};
  return make_error(ErrorCode::kNotFinite, "[encode] a scale within float16, got more (group={})", bad - out.scale.begin());
}

Status initial_scales(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, std::span<float> scale,
                      std::span<float> scale_neg) {
  BITLAB_RETURN_IF_ERROR(validate(spec));
  BITLAB_RETURN_IF_ERROR(check_matrix(w.size(), rows, depth));
  const int parameters = info(spec.method).learned_scales;
  const auto scales = static_cast<size_t>(scale_count(spec, rows, depth));
  if (parameters == 0)
    return make_error(ErrorCode::kUnsupported, "[encode] a method with learned scales, got {}", name(spec.method));
  if (w.size() != static_cast<size_t>(rows * depth) || scale.size() != scales ||
      scale_neg.size() != (parameters == 2 ? scales : 0))
    return make_error(ErrorCode::kShapeMismatch, "[encode] {} weights and {} scales, got {} and {}", rows * depth, scales,
                      w.size(), scale.size());
  BITLAB_RETURN_IF_ERROR(check_finite("weights", w, *make_thread_pool(1)));
  for (size_t i = 0; i < scales; ++i) {
    const Part own = part_of(spec, rows, depth, static_cast<int64_t>(i));
    const std::span<const float> part = w.subspan(own.begin, own.count);
    scale[i] =
        parameters == 1 ? 2 * fit_absmean(part, 0, {}).scale : fit_twn(part, info(Method::kTwn).default_threshold, {}).scale;
    if (parameters == 2) scale_neg[i] = scale[i];
  }
  return {};
}

}  // namespace bitlab::ternary
