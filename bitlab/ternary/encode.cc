#include "bitlab/ternary/encode.h"

#include <algorithm>
#include <array>
#include <cmath>

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

// Each encoder handles the weights that share one scale, and returns it.
float encode_absmean(std::span<const float> w, std::span<int8_t> t) {
  const float scale = std::max(static_cast<float>(mean_abs(w)), kScaleEpsilon);
  // rint(w / s) clamped to one is |w / s| > 1/2, since halves round to even.
  for (size_t i = 0; i < w.size(); ++i) {
    const float ratio = w[i] / scale;
    t[i] = static_cast<int8_t>((ratio > 0.5F) - (ratio < -0.5F));
  }
  return scale;
}

float encode_twn(std::span<const float> w, std::span<int8_t> t) {
  const auto threshold = static_cast<float>(0.7 * mean_abs(w));
  size_t kept = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    t[i] = static_cast<int8_t>((w[i] > threshold) - (w[i] < -threshold));
    kept += t[i] != 0;
  }
  if (kept == 0) return 0.0F;
  const double sum = ordered_sum(w, [threshold](float v) {
    const float magnitude = std::fabs(v);
    return magnitude > threshold ? static_cast<double>(magnitude) : 0.0;
  });
  return static_cast<float>(sum / static_cast<double>(kept));
}

using Encoder = float (*)(std::span<const float>, std::span<int8_t>);
constexpr std::array<Encoder, 2> kEncoders{encode_absmean, encode_twn};  // in the order of methods.def

}  // namespace

Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, std::span<int8_t> t,
              std::span<float> scale) {
  const auto count = static_cast<size_t>(rows * depth);
  const auto scales = static_cast<size_t>(scale_count(spec.granularity, rows));
  if (rows < 1 || depth < 1 || w.size() != count || t.size() != count || scale.size() != scales)
    return make_error(ErrorCode::kShapeMismatch, "[encode] {} weights, {} codes and {} scales for [{}, {}], got {}, {}, {}",
                      count, count, scales, rows, depth, w.size(), t.size(), scale.size());
  const auto bad = std::find_if(w.begin(), w.end(), [](float v) { return !std::isfinite(v); });
  if (bad != w.end())
    return make_error(ErrorCode::kNotFinite, "[encode] finite weights, got {} (index={})", *bad, bad - w.begin());
  const Encoder encoder = kEncoders.at(static_cast<size_t>(spec.method));
  const size_t part = count / scales;
  for (size_t i = 0; i < scales; ++i) scale[i] = encoder(w.subspan(i * part, part), t.subspan(i * part, part));
  return {};
}

}  // namespace bitlab::ternary
