#include "bitlab/ops/internal/encode.h"

#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/round.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/ops/internal/torch_pool.h"
#include "bitlab/ternary/internal/draw.h"
#include "bitlab/ternary/internal/method.h"
#include "bitlab/ternary/sum.h"

namespace bitlab::ops {
namespace {

using ternary::MethodRule;

// Scales of groups are a matrix.
at::Tensor by_row(const Latent& from, const at::Tensor& scales) {
  return from.spec.granularity == ternary::Granularity::kGroup ? scales.view({from.rows(), -1}) : scales;
}

// The numbers of what is learned.
std::vector<int64_t> counts_of(const std::vector<at::Tensor>& learned) {
  std::vector<int64_t> counts;
  for (const at::Tensor& values : learned) counts.push_back(values.numel());
  return counts;
}

}  // namespace

namespace cpu {

Encoded encode(const Latent& from) {
  const auto span = []<class T>(const at::Tensor& tensor, T*) {
    return std::span<T>(static_cast<T*>(tensor.data_ptr()), static_cast<size_t>(tensor.numel()));
  };
  constexpr float* kFloats = nullptr;
  constexpr int8_t* kCodes = nullptr;
  const int64_t scales = from.scales();
  const auto options = from.w.options();
  const Encoded to{at::empty(from.w.sizes(), options.dtype(at::kChar)), at::empty({scales}, options),
                   at::empty({info(from.spec.method).asymmetric ? scales : 0}, options), at::empty({scales}, options)};
  check_learned(from.spec, scales, counts_of(from.learned)).value();
  ternary::Learned learned;
  for (size_t i = 0; i < from.learned.size(); ++i)
    learned[info(from.spec.method).learned[i]] = span(from.learned[i], kFloats);
  TorchPool pool;
  ternary::encode(from.spec, span(from.w, kFloats), from.rows(), from.depth(), learned,
                  {span(to.t, kCodes), span(to.scale, kFloats), span(to.scale_neg, kFloats), span(to.threshold, kFloats)},
                  &pool)
      .value();
  return {to.t, by_row(from, to.scale), to.scale_neg, by_row(from, to.threshold)};
}

}  // namespace cpu

namespace any_device {
namespace {

at::Tensor padded(const at::Tensor& x, int64_t length) {
  return x.size(1) == length ? x : at::constant_pad_nd(x, {0, length - x.size(1)});
}

// ternary/sum.h along the rows of float32 [parts, length]: float64 [parts].
at::Tensor ordered_sum(const at::Tensor& x) {
  constexpr auto kBlock = static_cast<int64_t>(ternary::kSumBlock), kLanes = static_cast<int64_t>(ternary::kSumLanes);
  const int64_t block = std::min(kBlock, round_up(x.size(1), kLanes)), blocks = ceil_div(x.size(1), block);
  const at::Tensor values = padded(x, blocks * block).view({x.size(0), blocks, block / kLanes, kLanes});
  at::Tensor sum = at::zeros({x.size(0), blocks, kLanes}, x.options().dtype(at::kDouble));
  for (int64_t i = 0; i < block / kLanes; ++i) sum.add_(values.select(2, i));
  for (int64_t width = kLanes / 2; width > 0; width /= 2) sum = sum.narrow(2, 0, width).add(sum.narrow(2, width, width));
  sum = sum.squeeze(2);
  while (sum.size(1) > 1) {
    sum = padded(sum, round_up(sum.size(1), 2));
    sum = sum.slice(1, 0, std::nullopt, 2).add(sum.slice(1, 1, std::nullopt, 2));
  }
  return sum.squeeze(1);
}

// sparsity.def: zeros for what a pattern does not keep. A stable sort leaves equal values as they stand.
at::Tensor kept_by(ternary::Sparsity sparsity, const at::Tensor& w) {
  const auto [kept, of] = ternary::pattern(sparsity);
  if (of == 0) return w;
  const at::Tensor blocks = padded(w, round_up(w.size(1), of)).view({-1, of});
  const at::Tensor order = std::get<1>(at::sort(blocks.abs(), /*stable=*/true, /*dim=*/1, /*descending=*/true));
  const at::Tensor mask =
      at::zeros_like(blocks, blocks.options().dtype(at::kBool)).scatter(1, order.narrow(1, 0, kept), true);
  const at::Tensor pruned = at::where(mask, blocks, at::zeros({}, blocks.options()));
  return pruned.view({w.size(0), -1}).narrow(1, 0, w.size(1));
}

at::Tensor shifted_right(const at::Tensor& z, int bits) {  // as of unsigned numbers
  return z.bitwise_right_shift(bits).bitwise_and_((int64_t{1} << (64 - bits)) - 1);
}

// ternary/internal/draw.h for the places of a matrix, in int64, whose products and sums are those modulo 2^64.
at::Tensor random_numbers(int64_t draw, const at::Tensor& w) {
  const auto number = [](uint64_t bits) { return static_cast<int64_t>(bits); };
  at::Tensor z = at::arange(w.numel(), w.options().dtype(at::kLong)).mul_(number(ternary::kDrawIncrement));
  z.add_(number(ternary::draw_key(draw)));
  for (size_t i = 0; i < 2; ++i)
    z.bitwise_xor_(shifted_right(z, ternary::kDrawShifts[i])).mul_(number(ternary::kDrawFactors[i]));
  z.bitwise_xor_(shifted_right(z, ternary::kDrawShifts[2]));
  const at::Tensor bits = shifted_right(z, 64 - ternary::kDrawBits);
  return bits.to(at::kFloat).mul_(1.0F / (1 << ternary::kDrawBits)).view_as(w);
}

// The weights that share a scale, as the rows of a matrix.
struct Parts {
  const Latent& from;
  int64_t groups, length;
  at::Tensor size;   // float32 [parts, length], |w|; zeros behind the weights of a short group
  at::Tensor kept;   // w, and zeros for what a sparse pattern leaves out
  at::Tensor count;  // int64 [parts]: weights

  explicit Parts(const Latent& latent) : from(latent), groups(groups_of(from.spec, from.depth())) {
    const bool grouped = from.spec.granularity == ternary::Granularity::kGroup;
    length = is_whole() ? from.w.numel() : grouped ? from.spec.group : from.depth();
    size = shaped(from.w).abs();
    kept = shaped(kept_by(from.spec.sparsity, from.w));
    count = at::full({from.scales() / groups, groups}, length, from.w.options().dtype(at::kLong));
    if (!is_whole()) count.select(1, groups - 1).fill_(from.depth() - (groups - 1) * length);
    count = count.view(-1);
  }

  bool is_whole() const { return from.spec.granularity == ternary::Granularity::kTensor; }
  // A matrix [rows, depth] by parts.
  at::Tensor shaped(const at::Tensor& matrix) const {
    return is_whole() ? matrix.reshape({1, -1}) : padded(matrix, groups * length).reshape({-1, length});
  }

  at::Tensor mean() const { return ordered_sum(size).div(count.to(at::kDouble)); }

  // The lower one of two in the middle.
  at::Tensor median() const {
    const at::Tensor behind = at::arange(size.size(1), count.options()).ge(count.unsqueeze(1));
    const at::Tensor sorted = std::get<0>(at::sort(size.masked_fill(behind, std::numeric_limits<double>::infinity()), 1));
    return sorted.gather(1, (count - 1).div(2, "floor").unsqueeze(1)).squeeze(1);
  }

  // The mean of |w| over a choice of what is kept; 0 where there is none.
  at::Tensor mean_of(const at::Tensor& chosen) const {
    const at::Tensor sum = ordered_sum(at::where(chosen, kept.abs(), at::zeros({}, kept.options())));
    return sum.div(chosen.sum(1).clamp_min(1).to(at::kDouble)).to(at::kFloat);
  }
};

// float64 [parts]
at::Tensor measured(const Latent& from, const Parts& parts) {
  switch (rule(from.spec.method).measure) {
    case MethodRule::Measure::kOne:
      return at::ones_like(parts.count, at::kDouble);
    case MethodRule::Measure::kMean:
      return parts.mean();
    case MethodRule::Measure::kMedian:
      return parts.median().to(at::kDouble);
    case MethodRule::Measure::kMax:
      return at::amax(parts.size, 1).to(at::kDouble);
    case MethodRule::Measure::kLearnedScale:
    case MethodRule::Measure::kLearnedThreshold:
      return from.learned[0].abs().to(at::kDouble);
  }
  return {};
}

struct Fit {
  at::Tensor threshold, scale, scale_neg;  // float32 [parts]
};

// The rules of ternary/internal/method.h.
Fit fit(const Latent& from, const Parts& parts) {
  const MethodRule& how = rule(from.spec.method);
  const at::Tensor m = measured(from, parts);
  Fit found;
  if (how.scale == MethodRule::Scale::kLearned)
    found.scale = from.learned[0].clone(), found.scale_neg = from.learned[1].clone();
  if (how.scale == MethodRule::Scale::kMeasure) {
    const at::Tensor least = m.to(at::kFloat).clamp_min(ternary::kScaleEpsilon);
    found.scale = least.div(at::full_like(least, info(from.spec.method).limit));
  }
  if (how.threshold == MethodRule::Threshold::kHalfScale) found.threshold = found.scale * 0.5;
  if (how.threshold == MethodRule::Threshold::kTimesC) found.threshold = m.mul(coefficient(from.spec)).to(at::kFloat);
  if (how.threshold == MethodRule::Threshold::kMeasure) found.threshold = m.to(at::kFloat);
  const at::Tensor threshold = found.threshold.unsqueeze(1);
  if (how.scale == MethodRule::Scale::kBest) found.scale = parts.mean_of(parts.kept.abs().gt(threshold));
  if (how.scale == MethodRule::Scale::kBestOfEachSign) {
    found.scale = parts.mean_of(parts.kept.gt(threshold));
    found.scale_neg = parts.mean_of(parts.kept.lt(threshold.neg()));
  }
  return found;
}

at::Tensor codes(const Latent& from, const Parts& parts, const Fit& found) {
  const at::Tensor threshold = found.threshold.unsqueeze(1), scale = found.scale.unsqueeze(1);
  const int limit = info(from.spec.method).limit;
  at::Tensor t;
  if (from.spec.draw != 0) {
    const at::Tensor size = parts.kept.abs().div(scale).clamp_max(limit), below = size.floor();
    const at::Tensor up = parts.shaped(random_numbers(from.spec.draw, from.w)).lt(size.sub(below));
    t = below.add(up).mul_(parts.kept.sign()).to(at::kChar);
  } else if (limit == 1) {
    t = parts.kept.gt(threshold).to(at::kChar).sub_(parts.kept.lt(threshold.neg()).to(at::kChar));
  } else {
    t = at::round(parts.kept.div(scale).clamp_(-limit, limit)).to(at::kChar);
  }
  return t.view({from.rows(), -1}).narrow(1, 0, from.depth()).contiguous();
}

// The device is asked once where all is well.
void require_finite(const Latent& from, const Parts& parts, const at::Tensor& scale) {
  at::Tensor finite = at::isfinite(at::amax(parts.size)).logical_and(at::isfinite(scale).all());
  for (const at::Tensor& learned : from.learned) finite = finite.logical_and(at::isfinite(learned).all());
  if (finite.item<bool>()) return;
  std::vector<at::Tensor> all = from.learned;
  all.push_back(from.w);
  for (const at::Tensor& values : all) {
    if (at::isfinite(values).all().item<bool>()) continue;
    const int64_t index = first_not_finite(values);
    const char* what = values.is_same(from.w) ? "weights" : "learned parameters";
    throw Exception(ternary::not_finite(what, values.flatten()[index].item<float>(), index));
  }
  throw Exception(ternary::beyond_float16(first_not_finite(scale)));
}

}  // namespace

int64_t first_not_finite(const at::Tensor& values) {
  return at::isfinite(values).logical_not().to(at::kByte).flatten().argmax().item<int64_t>();
}

Encoded encode(const Latent& from) {
  ternary::check_learned(from.spec, from.scales(), counts_of(from.learned)).value();
  const Parts parts(from);
  const Fit found = fit(from, parts);
  const bool grouped = from.spec.granularity == ternary::Granularity::kGroup;
  const at::Tensor scale = grouped ? found.scale.to(at::kHalf).to(at::kFloat) : found.scale;
  require_finite(from, parts, scale);
  return {codes(from, parts, found), by_row(from, scale),
          found.scale_neg.defined() ? found.scale_neg : at::empty({0}, from.w.options()), by_row(from, found.threshold)};
}

}  // namespace any_device
}  // namespace bitlab::ops
