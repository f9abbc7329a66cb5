#include "bitlab/ternary/encode.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <mutex>
#include <optional>
#include <vector>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/float_environment.h"
#include "bitlab/base/half.h"
#include "bitlab/ternary/sum.h"

namespace bitlab::ternary {
namespace {

using Weights = std::span<const float>;

// What a method needs to know of |w|, over the weights that share a scale, before it has a threshold.
enum class Statistic { kNone, kMean, kMedian, kMax };

struct Fit {
  float threshold, scale, scale_neg;
};
struct Learned {
  float scale, scale_neg;
};

// How a method finds its fit; c as in methods.def.
struct Rule {
  Statistic statistic;
  Fit (*fit)(double statistic, double c, Learned learned);
  // Whether the scale is then the best one for the threshold, in the sense of least squares: the mean of |w| over |w| > threshold.
  bool best_scale = false;
};

// rint(w / s) clamped to one is w / s beyond a half, since halves round to even; and the float quotient w / s is above a half where w is
// above s / 2, for every float.
Fit half_of(float scale) { return {scale / 2, scale, scale}; }
Fit half_of_at_least_epsilon(double scale, double /*c*/, Learned /*learned*/) {
  return half_of(std::max(static_cast<float>(scale), kScaleEpsilon));
}

template <Method>
constexpr Rule rule() = delete;  // a method of methods.def has one of those that follow
template <>
constexpr Rule rule<Method::kAbsmean>() {
  return {Statistic::kMean, half_of_at_least_epsilon};
}
template <>
constexpr Rule rule<Method::kAbsmedian>() {
  return {Statistic::kMedian, half_of_at_least_epsilon};
}
template <>
constexpr Rule rule<Method::kTwn>() {
  return {Statistic::kMean, [](double mean, double c, Learned) { return Fit{static_cast<float>(c * mean), 0, 0}; }, true};
}
template <>
constexpr Rule rule<Method::kTtq>() {
  return {Statistic::kMax, [](double most, double c, Learned learned) {
            return Fit{static_cast<float>(c * most), learned.scale, learned.scale_neg};
          }};
}
template <>
constexpr Rule rule<Method::kLsq>() {
  return {Statistic::kNone,
          [](double, double c, Learned learned) { return half_of_at_least_epsilon(std::fabs(learned.scale), c, learned); }};
}
template <>
constexpr Rule rule<Method::kFixed>() {
  return {Statistic::kNone, [](double, double c, Learned) { return Fit{static_cast<float>(c), 0, 0}; }, true};
}
template <>
constexpr Rule rule<Method::kInt8>() {
  return {Statistic::kMax,
          [](double most, double, Learned) { return half_of(std::max(static_cast<float>(most), kScaleEpsilon) / 127); }};
}

constexpr std::array kRules{
#define BITLAB_METHOD(Name, ...) rule<Method::k##Name>(),
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD
};

// The loops over weights have no branches, which lets compilers turn them into vectors.

constexpr int32_t kInfinityBits = 0x7F800000;  // bits of magnitudes are in the order of the numbers, with NaN above infinity
int32_t magnitude_bits(float v) { return std::bit_cast<int32_t>(v) & 0x7FFFFFFF; }

int32_t largest_bits(Weights w) {
  int32_t most = 0;
  for (const float v : w) most = std::max(most, magnitude_bits(v));
  return most;
}

bool all_finite(Weights w) {
  int32_t beyond = 0;
  for (const float v : w) beyond |= magnitude_bits(v) >= kInfinityBits ? 1 : 0;
  return beyond == 0;
}

int64_t count_above(Weights w, float threshold) {
  int32_t count = 0;
  for (const float v : w) count += std::fabs(v) > threshold ? 1 : 0;
  return count;
}

double sum_above(Weights w, float threshold) {
  return sum_in_block(w, [=](float v) {
    const uint32_t kept = std::bit_cast<uint32_t>(std::fabs(v)) & -static_cast<uint32_t>(std::fabs(v) > threshold);
    return static_cast<double>(std::bit_cast<float>(kept));
  });
}

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

// Where the weights of scale i lie.
struct Part {
  size_t begin, count;
};
Part part_of(const WeightSpec& spec, int64_t rows, int64_t depth, int64_t i) {
  const int64_t length = spec.granularity == Granularity::kTensor ? rows * depth : depth, groups = groups_of(spec, depth);
  const int64_t step = groups == 1 ? length : spec.group, within = i % groups * step;
  return {static_cast<size_t>(i / groups * length + within), static_cast<size_t>(std::min(step, length - within))};
}

// What a pass over some weights finds.
struct Tally {
  double sum = 0;  // of |w|, or of those above the threshold, in the order of sum.h
  int64_t kept = 0;
  int32_t most = 0;  // bits of the largest |w|
  bool finite = true;
};

constexpr size_t kPiece = 8 * kSumBlock;  // weights: what is worth another thread, and a subtree of sum.h
static_assert(std::has_single_bit(kPiece / kSumBlock));

// f(first, count) for pieces of [0, total), on the pool's threads; without a pool one call in the caller.
template <class F>
void for_pieces(ThreadPool* pool, size_t total, F f) {
  if (pool == nullptr) return f(size_t{0}, total);
  pool->run(static_cast<int64_t>((total + kPiece - 1) / kPiece), [&](int64_t i, int) {
    const size_t first = static_cast<size_t>(i) * kPiece;
    f(first, std::min(kPiece, total - first));
  });
}

template <class F>
Tally tally(ThreadPool* pool, size_t total, F f) {
  if (pool == nullptr) return f(size_t{0}, total);
  std::vector<Tally> pieces((total + kPiece - 1) / kPiece);
  for_pieces(pool, total, [&](size_t first, size_t count) { pieces[first / kPiece] = f(first, count); });
  Tally all{.sum = tree_sum(pieces.size(), [&](size_t i) { return pieces[i].sum; })};
  for (const Tally& piece : pieces) {
    all.kept += piece.kept;
    all.most = std::max(all.most, piece.most);
    all.finite = all.finite && piece.finite;
  }
  return all;
}

double sum_abs(ThreadPool* pool, Weights w) {
  return tally(pool, w.size(),
               [&](size_t first, size_t count) {
                 return Tally{
                     .sum = ordered_sum(w.subspan(first, count), [](float v) { return std::fabs(static_cast<double>(v)); })};
               })
      .sum;
}

float max_abs(ThreadPool* pool, Weights w) {
  const Tally all = tally(pool, w.size(),
                          [&](size_t first, size_t count) { return Tally{.most = largest_bits(w.subspan(first, count))}; });
  return std::bit_cast<float>(all.most);
}

constexpr int kDigitBits = 8;
using DigitCounts = std::array<uint64_t, 1 << kDigitBits>;

// How often each digit stands at `shift` of the bits of |w|, where all that is above it equals `prefix`.
DigitCounts count_digits(ThreadPool* pool, Weights w, uint32_t prefix, int shift) {
  const auto above = static_cast<uint32_t>(~uint64_t{0} << (shift + kDigitBits));
  DigitCounts counts{};
  std::mutex merging;
  for_pieces(pool, w.size(), [&](size_t first, size_t count) {
    DigitCounts own{};
    for (const float v : w.subspan(first, count)) {
      const auto bits = static_cast<uint32_t>(magnitude_bits(v));
      own[bits >> shift & (own.size() - 1)] += (bits & above) == prefix ? 1 : 0;
    }
    const std::lock_guard lock(merging);
    for (size_t i = 0; i < own.size(); ++i) counts[i] += own[i];
  });
  return counts;
}

// The lower median of |w|, digit by digit of its bits from the highest one. Counts are exact in any order, and take no memory that grows.
float median_abs(ThreadPool* pool, Weights w) {
  uint64_t rank = (w.size() - 1) / 2;  // among what equals `prefix` so far
  uint32_t prefix = 0;
  for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
    const DigitCounts counts = count_digits(pool, w, prefix, shift);
    uint32_t digit = 0;
    while (rank >= counts[digit]) rank -= counts[digit++];
    prefix |= digit << shift;
  }
  return std::bit_cast<float>(prefix);
}

// Encodes the weights that share a scale. pool: null where the caller is one of its tasks.
class PartEncoder {
 public:
  explicit PartEncoder(const WeightSpec& spec)
      : rule_(kRules.at(static_cast<size_t>(spec.method))), limit_(info(spec.method).limit), c_(coefficient(spec)) {}

  // None where a weight is not finite. t: the codes, of the length of w; empty: the fit alone is asked for.
  std::optional<Fit> encode(ThreadPool* pool, Weights w, Learned learned, std::span<int8_t> t) const {
    const double known = statistic(pool, w);
    if (!std::isfinite(known)) return std::nullopt;
    Fit fit = rule_.fit(known, c_, learned);
    const Tally written = tally(pool, w.size(), [&](size_t first, size_t count) {
      return write(fit, w.subspan(first, count), t.empty() ? t : t.subspan(first, count));
    });
    if (!written.finite) return std::nullopt;
    if (rule_.best_scale)
      fit.scale = written.kept == 0 ? 0.0F : static_cast<float>(written.sum / static_cast<double>(written.kept));
    return fit;
  }

 private:
  // A mean and a maximum are not finite where a weight is not: finite floats do not add up to more than a double holds.
  bool statistic_shows_all() const { return rule_.statistic == Statistic::kMean || rule_.statistic == Statistic::kMax; }

  double statistic(ThreadPool* pool, Weights w) const {
    switch (rule_.statistic) {
      case Statistic::kNone:
        break;
      case Statistic::kMean:
        return sum_abs(pool, w) / static_cast<double>(w.size());
      case Statistic::kMedian:
        return static_cast<double>(median_abs(pool, w));
      case Statistic::kMax:
        return static_cast<double>(max_abs(pool, w));
    }
    return 0;
  }

  // Block by block, so that what a method does behind the first step finds the weights in the cache.
  Tally write(const Fit& fit, Weights w, std::span<int8_t> t) const {
    Tally found;
    found.sum = tree_sum(sum_blocks(w.size()), [&](size_t i) {
      const Weights block = sum_block(w, i);
      if (!statistic_shows_all()) found.finite = all_finite(block) && found.finite;
      if (!t.empty()) write_codes(fit, block, sum_block(t, i));
      if (!rule_.best_scale) return 0.0;
      found.kept += count_above(block, fit.threshold);
      return sum_above(block, fit.threshold);
    });
    return found;
  }

  void write_codes(const Fit& fit, Weights w, std::span<int8_t> t) const {
    if (limit_ == 1) {
      apply_threshold(w, fit.threshold, t);
    } else {
      round_to_limit(w, fit.scale, static_cast<float>(limit_), t);
    }
  }

  Rule rule_;
  int limit_;
  double c_;
};

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
  const int64_t scales = scale_count(spec, rows, depth);
  const size_t negative = info(spec.method).asymmetric ? static_cast<size_t>(scales) : 0;
  if (out.scale.size() != static_cast<size_t>(scales) || out.scale_neg.size() != negative ||
      (!out.threshold.empty() && out.threshold.size() != out.scale.size()))
    return make_error(ErrorCode::kShapeMismatch, "[encode] {} scales and {} negative ones for {}, got {} and {}", scales,
                      negative, to_text(spec), out.scale.size(), out.scale_neg.size());
  return check_learned(spec, scales, static_cast<int64_t>(learned.scale.size()),
                       static_cast<int64_t>(learned.scale_neg.size()));
}

Status check_finite(std::string_view what, std::span<const float> values) {
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad == values.end()) return {};
  return not_finite(what, *bad, bad - values.begin());
}

// Few long parts are shared out one after another; else a task takes whole parts, which stay in its cache from one pass to the next.
bool share_parts(const ThreadPool& pool, int64_t parts, size_t longest) {
  return pool.threads() > 1 && longest > kPiece && parts < int64_t{4} * pool.threads();
}

// f(i, pool) for each part i.
template <class F>
void for_parts(ThreadPool& pool, int64_t parts, size_t longest, F f) {
  if (share_parts(pool, parts, longest)) {
    for (int64_t i = 0; i < parts; ++i) f(i, &pool);
    return;
  }
  const int64_t batch = ceil_div(static_cast<int64_t>(kPiece), static_cast<int64_t>(longest));
  pool.run(ceil_div(parts, batch), [&](int64_t task, int) {
    for (int64_t i = task * batch; i < std::min(parts, (task + 1) * batch); ++i) f(i, static_cast<ThreadPool*>(nullptr));
  });
}

}  // namespace

Status check_learned(const WeightSpec& spec, int64_t scales, int64_t positive, int64_t negative) {
  const int parameters = info(spec.method).learned_scales;
  const int64_t first = parameters > 0 ? scales : 0, second = parameters > 1 ? scales : 0;
  if (positive == first && negative == second) return {};
  return make_error(ErrorCode::kShapeMismatch, "[encode] {} and {} learned scales for {}, got {} and {}", first, second,
                    to_text(spec), positive, negative);
}

Error not_finite(std::string_view what, float value, int64_t index) {
  return make_error(ErrorCode::kNotFinite, "[encode] finite {}, got {} (index={})", what, value, index);
}

Error beyond_float16(int64_t group) {
  return make_error(ErrorCode::kNotFinite, "[encode] a scale within float16, got more (group={})", group);
}

Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, const LearnedScales& learned,
              const Encoding& out, ThreadPool* given_pool) {
  BITLAB_RETURN_IF_ERROR(validate(spec));
  BITLAB_RETURN_IF_ERROR(check_sizes(spec, w.size(), rows, depth, learned, out));
  BITLAB_RETURN_IF_ERROR(check_finite("learned scales", learned.scale));
  BITLAB_RETURN_IF_ERROR(check_finite("learned scales", learned.scale_neg));
  const ScopedFloatEnvironment environment;
  const auto own_pool = given_pool == nullptr ? make_thread_pool(1) : nullptr;
  const PartEncoder encoder(spec);
  std::atomic<bool> finite = true;
  const size_t longest = part_of(spec, rows, depth, 0).count;
  const auto encode_part = [&](int64_t index, ThreadPool* pool) {
    const Part part = part_of(spec, rows, depth, index);
    const auto i = static_cast<size_t>(index);
    const Learned own{learned.scale.empty() ? 0 : learned.scale[i], learned.scale_neg.empty() ? 0 : learned.scale_neg[i]};
    const std::optional<Fit> fit =
        encoder.encode(pool, w.subspan(part.begin, part.count), own, out.t.subspan(part.begin, part.count));
    if (!fit) {
      finite = false;
      return;
    }
    out.scale[i] = spec.granularity == Granularity::kGroup ? half_to_float(float_to_half(fit->scale)) : fit->scale;
    if (!out.scale_neg.empty()) out.scale_neg[i] = fit->scale_neg;
    if (!out.threshold.empty()) out.threshold[i] = fit->threshold;
  };
  for_parts(given_pool == nullptr ? *own_pool : *given_pool, scale_count(spec, rows, depth), longest, encode_part);
  if (!finite) return check_finite("weights", w);
  const auto bad = std::find_if(out.scale.begin(), out.scale.end(), [](float v) { return !std::isfinite(v); });
  if (bad == out.scale.end()) return {};
  return beyond_float16(bad - out.scale.begin());
}

Status initial_scales(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, std::span<float> scale,
                      std::span<float> scale_neg) {
  BITLAB_RETURN_IF_ERROR(validate(spec));
  BITLAB_RETURN_IF_ERROR(check_matrix(w.size(), rows, depth));
  const MethodInfo& method = info(spec.method);
  const auto scales = static_cast<size_t>(scale_count(spec, rows, depth));
  if (method.learned_scales == 0)
    return make_error(ErrorCode::kUnsupported, "[encode] a method with learned scales, got {}", method.name);
  if (w.size() != static_cast<size_t>(rows * depth) || scale.size() != scales ||
      scale_neg.size() != (method.asymmetric ? scales : 0))
    return make_error(ErrorCode::kShapeMismatch, "[encode] {} weights and {} scales, got {} and {}", rows * depth, scales,
                      w.size(), scale.size());
  const ScopedFloatEnvironment environment;
  const PartEncoder encoder({.method = method.asymmetric ? Method::kTwn : Method::kAbsmean});
  for (size_t i = 0; i < scales; ++i) {
    const Part own = part_of(spec, rows, depth, static_cast<int64_t>(i));
    const std::optional<Fit> fit = encoder.encode(nullptr, w.subspan(own.begin, own.count), {}, {});
    if (!fit) return check_finite("weights", w);
    scale[i] = method.asymmetric ? fit->scale : 2 * fit->scale;
    if (method.asymmetric) scale_neg[i] = scale[i];
  }
  return {};
}

}  // namespace bitlab::ternary
