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
#include "bitlab/base/internal/float_environment.h"
#include "bitlab/base/internal/half.h"
#include "bitlab/ternary/internal/draw.h"
#include "bitlab/ternary/internal/method.h"
#include "bitlab/ternary/sum.h"

namespace bitlab::ternary {
namespace {

using Weights = std::span<const float>;

struct Fit {
  float threshold, scale, scale_neg;
};
// The learned parameters of the weights that share them.
struct OwnLearned {
  float scale, scale_neg, threshold;
};

// rint(w / s) clamped to one is w / s beyond a half, since halves round to even; and the float quotient w / s is above a half where w is
// above s / 2, for every float. So a threshold makes the codes of every ternary method.
//
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

template <class Keep>
int64_t count_where(Weights w, Keep keep) {
  int32_t count = 0;
  for (const float v : w) count += keep(v) ? 1 : 0;
  return count;
}

// The sum of |w| where keep(w).
template <class Keep>
double sum_where(Weights w, Keep keep) {
  return sum_in_block(w, [=](float v) {
    const uint32_t kept = std::bit_cast<uint32_t>(std::fabs(v)) & -static_cast<uint32_t>(keep(v));
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

// The neighbours of w / scale, the farther one where its distance is above a random number; `first`: the place of w[0].
void round_at_random(std::span<const float> w, float scale, float limit, uint64_t key, size_t first, std::span<int8_t> t) {
  for (size_t i = 0; i < w.size(); ++i) {
    const float size = std::min(std::fabs(w[i]) / scale, limit), below = std::floor(size);
    const float rounded = below + (uniform(key, first + i) < size - below ? 1.0F : 0.0F);
    t[i] = static_cast<int8_t>(w[i] < 0 ? -rounded : rounded);
  }
}

// The weights of a row that a pattern keeps, zeros for the others. Not-finite values are the largest, so that one of them is left.
void keep_largest(Pattern pattern, Weights row, std::span<float> kept) {
  const auto block = static_cast<size_t>(pattern.of);
  for (size_t begin = 0; begin < row.size(); begin += block) {
    const size_t end = std::min(begin + block, row.size());
    for (size_t i = begin; i < end; ++i) {
      int ahead = 0;
      for (size_t j = begin; j < end; ++j) {
        const int32_t own = magnitude_bits(row[i]), other = magnitude_bits(row[j]);
        ahead += (other > own || (other == own && j < i)) ? 1 : 0;
      }
      kept[i] = ahead < pattern.kept ? row[i] : 0.0F;
    }
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

// Two sums that are made together: of all or the positive weights, and of the negative ones.
struct Sums {
  double all = 0, negative = 0;
  Sums operator+(const Sums& other) const { return {all + other.all, negative + other.negative}; }
};

// What a pass over some weights finds.
struct Tally {
  Sums sums;  // of |w|, or of those above the threshold, in the order of sum.h
  int64_t kept = 0, kept_neg = 0;
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
  Tally all{.sums = tree_sum(pieces.size(), [&](size_t i) { return pieces[i].sums; })};
  for (const Tally& piece : pieces) {
    all.kept += piece.kept;
    all.kept_neg += piece.kept_neg;
    all.most = std::max(all.most, piece.most);
    all.finite = all.finite && piece.finite;
  }
  return all;
}

double sum_abs(ThreadPool* pool, Weights w) {
  return tally(pool, w.size(),
               [&](size_t first, size_t count) {
                 return Tally{.sums = {.all = ordered_sum(w.subspan(first, count),
                                                          [](float v) { return std::fabs(static_cast<double>(v)); })}};
               })
      .sums.all;
}

float max_abs(ThreadPool* pool, Weights w) {
  const Tally all = tally(pool, w.size(), [&](size_t first, size_t count) {
    Tally piece;
    piece.most = largest_bits(w.subspan(first, count));
    return piece;
  });
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

float mean_of(double sum, int64_t count) { return count == 0 ? 0.0F : static_cast<float>(sum / static_cast<double>(count)); }

// The weights that share a scale, and what is left of them by a sparse pattern; `begin` is the place of the first one.
struct Shared {
  Weights w, kept;
  size_t begin;
};

// Encodes the weights that share a scale. pool: null where the caller is one of its tasks.
class PartEncoder {
 public:
  explicit PartEncoder(const WeightSpec& spec)
      : rule_(rule(spec.method)),
        limit_(static_cast<float>(info(spec.method).limit)),
        c_(coefficient(spec)),
        is_drawn_(spec.draw != 0),
        key_(draw_key(spec.draw)) {}

  // None where a weight is not finite. t: the codes, of the length of w.
  std::optional<Fit> encode(ThreadPool* pool, const Shared& part, const OwnLearned& learned, std::span<int8_t> t) const {
    const double measured = measure(pool, part.w, learned);
    if (!std::isfinite(measured)) return std::nullopt;
    Fit fit = begin_fit(measured, learned);
    const Tally written = tally(pool, part.w.size(), [&](size_t first, size_t count) {
      return write(fit, {part.w.subspan(first, count), part.kept.subspan(first, count), part.begin + first},
                   t.subspan(first, count));
    });
    if (!written.finite) return std::nullopt;
    if (finds_best()) fit.scale = mean_of(written.sums.all, written.kept);
    if (rule_.scale == MethodRule::Scale::kBest) fit.scale_neg = fit.scale;
    if (rule_.scale == MethodRule::Scale::kBestOfEachSign) fit.scale_neg = mean_of(written.sums.negative, written.kept_neg);
    return fit;
  }

 private:
  using Measure = MethodRule::Measure;

  bool finds_best() const {
    return rule_.scale == MethodRule::Scale::kBest || rule_.scale == MethodRule::Scale::kBestOfEachSign;
  }
  // A mean and a maximum are not finite where a weight is not: finite floats do not add up to more than a double holds.
  bool measure_shows_all() const { return rule_.measure == Measure::kMean || rule_.measure == Measure::kMax; }

  double measure(ThreadPool* pool, Weights w, const OwnLearned& learned) const {
    switch (rule_.measure) {
      case Measure::kOne:
        return 1;
      case Measure::kMean:
        return sum_abs(pool, w) / static_cast<double>(w.size());
      case Measure::kMedian:
        return static_cast<double>(median_abs(pool, w));
      case Measure::kMax:
        return static_cast<double>(max_abs(pool, w));
      case Measure::kLearnedScale:
        return std::fabs(static_cast<double>(learned.scale));
      case Measure::kLearnedThreshold:
        return std::fabs(static_cast<double>(learned.threshold));
    }
    return 0;
  }

  // All but the best scales, which take a pass over what is above the threshold.
  Fit begin_fit(double measured, const OwnLearned& learned) const {
    Fit fit{};
    if (rule_.scale == MethodRule::Scale::kLearned) fit.scale = learned.scale, fit.scale_neg = learned.scale_neg;
    if (rule_.scale == MethodRule::Scale::kMeasure)
      fit.scale = fit.scale_neg = std::max(static_cast<float>(measured), kScaleEpsilon) / limit_;
    switch (rule_.threshold) {
      case MethodRule::Threshold::kHalfScale:
        fit.threshold = fit.scale / 2;
        break;
      case MethodRule::Threshold::kTimesC:
        fit.threshold = static_cast<float>(c_ * measured);
        break;
      case MethodRule::Threshold::kMeasure:
        fit.threshold = static_cast<float>(measured);
        break;
    }
    return fit;
  }

  // Block by block, so that what a method does behind the first step finds the weights in the cache.
  Tally write(const Fit& fit, const Shared& piece, std::span<int8_t> t) const {
    Tally found;
    found.sums = tree_sum(sum_blocks(piece.kept.size()), [&](size_t i) {
      const Weights block = sum_block(piece.kept, i);
      if (!measure_shows_all()) found.finite = all_finite(block) && found.finite;
      write_codes(fit, block, piece.begin + i * kSumBlock, sum_block(t, i));
      return finds_best() ? sums_above(fit.threshold, block, found) : Sums{};
    });
    return found;
  }

  Sums sums_above(float threshold, Weights w, Tally& found) const {
    if (rule_.scale == MethodRule::Scale::kBest) {
      const auto above = [=](float v) { return std::fabs(v) > threshold; };
      found.kept += count_where(w, above);
      return {sum_where(w, above), 0};
    }
    const auto positive = [=](float v) { return v > threshold; };
    const auto negative = [=](float v) { return v < -threshold; };
    found.kept += count_where(w, positive);
    found.kept_neg += count_where(w, negative);
    return {sum_where(w, positive), sum_where(w, negative)};
  }

  void write_codes(const Fit& fit, Weights w, size_t first, std::span<int8_t> t) const {
    if (is_drawn_) {
      round_at_random(w, fit.scale, limit_, key_, first, t);
    } else if (limit_ == 1) {
      apply_threshold(w, fit.threshold, t);
    } else {
      round_to_limit(w, fit.scale, limit_, t);
    }
  }

  const MethodRule& rule_;
  float limit_;
  double c_;
  bool is_drawn_;
  uint64_t key_;
};

// Nothing has no mean: scales need weights.
Status check_matrix(size_t w, int64_t rows, int64_t depth) {
  if (rows >= 1 && depth >= 1 && depth <= std::numeric_limits<int64_t>::max() / rows) return {};
  return make_error(ErrorCode::kShapeMismatch, "[encode] at least one row and one column, got [{}, {}] and {} weights", rows,
                    depth, w);
}

Status check_sizes(const WeightSpec& spec, size_t w, int64_t rows, int64_t depth, Learned learned, const Encoding& out) {
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
  std::vector<int64_t> counts;
  for (const Parameter parameter : info(spec.method).learned)
    counts.push_back(static_cast<int64_t>(learned[parameter].size()));
  return check_learned(spec, scales, counts);
}

Status check_finite(std::string_view what, std::span<const float> values) {
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  if (bad == values.end()) return {};
  return not_finite(what, *bad, bad - values.begin());
}

std::string listed(std::span<const int64_t> numbers) {
  std::string text;
  for (const int64_t number : numbers) text.append(text.empty() ? "" : ", ").append(std::to_string(number));
  return text;
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

// A copy of w [rows, ...] with zeros where a pattern keeps nothing; nothing for dense weights.
Result<AlignedBuffer> kept_by(Pattern pattern, Weights w, int64_t rows, ThreadPool& pool) {
  if (pattern.of == 0) return AlignedBuffer();
  BITLAB_TRY(AlignedBuffer copy, AlignedBuffer::allocate(w.size_bytes()));
  const std::span<float> kept(reinterpret_cast<float*>(copy.data()), w.size());
  const size_t depth = w.size() / static_cast<size_t>(rows);
  for_parts(pool, rows, depth, [&](int64_t row, ThreadPool*) {
    const size_t first = static_cast<size_t>(row) * depth;
    keep_largest(pattern, w.subspan(first, depth), kept.subspan(first, depth));
  });
  return copy;
}

}  // namespace

Status check_learned(const WeightSpec& spec, int64_t scales, std::span<const int64_t> counts) {
  const std::vector<int64_t> expected(info(spec.method).learned.size(), scales);
  if (std::equal(counts.begin(), counts.end(), expected.begin(), expected.end())) return {};
  return make_error(ErrorCode::kShapeMismatch, "[encode] learned parameters of [{}] numbers for {}, got [{}]",
                    listed(expected), to_text(spec), listed(counts));
}

Failure not_finite(std::string_view what, float value, int64_t index) {
  return make_error(ErrorCode::kNotFinite, "[encode] finite {}, got {} (index={})", what, value, index);
}

Failure beyond_float16(int64_t group) {
  return make_error(ErrorCode::kNotFinite, "[encode] a scale within float16, got more (group={})", group);
}

Status encode(const WeightSpec& spec, std::span<const float> w, int64_t rows, int64_t depth, const Learned& learned,
              const Encoding& out, ThreadPool* given_pool) {
  BITLAB_RETURN_IF_ERROR(validate(spec));
  BITLAB_RETURN_IF_ERROR(check_sizes(spec, w.size(), rows, depth, learned, out));
  for (const std::span<const float> values : {learned.scale, learned.scale_neg, learned.threshold})
    BITLAB_RETURN_IF_ERROR(check_finite("learned parameters", values));
  const ScopedFloatEnvironment environment;
  const auto own_pool = given_pool == nullptr ? make_thread_pool(1) : nullptr;
  ThreadPool& threads = given_pool == nullptr ? *own_pool : *given_pool;
  BITLAB_TRY(const AlignedBuffer copy, kept_by(pattern(spec.sparsity), w, rows, threads));
  const Weights kept =
      spec.sparsity == Sparsity::kDense ? w : Weights(reinterpret_cast<const float*>(copy.data()), w.size());
  const PartEncoder encoder(spec);
  std::atomic<bool> finite = true;
  const size_t longest = part_of(spec, rows, depth, 0).count;
  const auto encode_part = [&](int64_t index, ThreadPool* pool) {
    const Part part = part_of(spec, rows, depth, index);
    const auto i = static_cast<size_t>(index);
    const auto own = [&](std::span<const float> values) { return values.empty() ? 0.0F : values[i]; };
    const Shared shared{w.subspan(part.begin, part.count), kept.subspan(part.begin, part.count), part.begin};
    const std::optional<Fit> fit =
        encoder.encode(pool, shared, {own(learned.scale), own(learned.scale_neg), own(learned.threshold)},
                       out.t.subspan(part.begin, part.count));
    if (!fit) {
      finite = false;
      return;
    }
    out.scale[i] = spec.granularity == Granularity::kGroup ? half_to_float(float_to_half(fit->scale)) : fit->scale;
    if (!out.scale_neg.empty()) out.scale_neg[i] = fit->scale_neg;
    if (!out.threshold.empty()) out.threshold[i] = fit->threshold;
  };
  for_parts(threads, scale_count(spec, rows, depth), longest, encode_part);
  if (!finite) return check_finite("weights", w);
  const auto bad = std::find_if(out.scale.begin(), out.scale.end(), [](float v) { return !std::isfinite(v); });
  if (bad == out.scale.end()) return {};
  return beyond_float16(bad - out.scale.begin());
}

}  // namespace bitlab::ternary
