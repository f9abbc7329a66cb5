// quantize_weight, quantize_activation, ternary_pack.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/round.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/activation_quant/activation_quant.h"
#include "bitlab/ops/check.h"
#include "bitlab/ops/implementations.h"
#include "bitlab/ops/layout.h"
#include "bitlab/ops/torch_pool.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/encode.h"
#include "bitlab/ternary/sum.h"

namespace bitlab::ops {
namespace {

// What an encoder reads.
struct Latent {
  ternary::WeightSpec spec;
  at::Tensor w;                     // float32 [rows, depth], contiguous
  at::Tensor learned, learned_neg;  // float32, of the method's learned scales; else without values
  int64_t rows() const { return w.size(0); }
  int64_t depth() const { return w.size(1); }
  int64_t scales() const { return scale_count(spec, rows(), depth()); }
};

struct Encoded {
  at::Tensor t;                            // int8 [rows, depth]
  at::Tensor scale, scale_neg, threshold;  // float32
};

template <class T>
std::span<T> span_of(const at::Tensor& tensor) {
  return {static_cast<T*>(tensor.data_ptr()), static_cast<size_t>(tensor.numel())};
}

// Values in one dimension.
at::Tensor plain_or_empty(const char* op, const char* name, const OptionalTensor& tensor) {
  if (!tensor || !tensor->defined()) return at::empty({0}, at::kFloat);
  require_float32(op, name, *tensor);
  return tensor->contiguous().view(-1);
}

// Groups of a convolution lie within one tap, as kernels read them.
void check_groups(const char* op, const at::Tensor& weight, const WeightLayout& layout, const ternary::WeightSpec& spec) {
  if (spec.granularity != ternary::Granularity::kGroup || weight.dim() == 2) return;
  c10::SymInt taps = 1;
  for (int64_t i = 2; i < weight.dim(); ++i) taps *= weight.sym_size(i);
  const c10::SymInt channels = layout.depth() / taps;
  require(channels % spec.group == 0, ErrorCode::kUnsupported,
          "[{}] channels in multiples of the group {} (or tensor or channel scales), got {}", op, spec.group, show(weight));
}

Latent latent(const char* op, const at::Tensor& weight, const WeightLayout& layout, std::string_view text,
              const OptionalTensor& learned, const OptionalTensor& learned_neg) {
  require_float32(op, "weight", weight);
  const auto spec = ternary::parse_weight_spec(text).value();
  check_groups(op, weight, layout, spec);
  Latent result{spec, layout.to_matrix(weight), plain_or_empty(op, "learned", learned),
                plain_or_empty(op, "learned_neg", learned_neg)};
  const int64_t most = ternary::max_depth(!is_ternary(spec.method));
  require(result.depth() <= most, ErrorCode::kUnsupported, "[{}] K of at most {} for {}, got {}", op, most,
          name(spec.method), result.depth());
  return result;
}

// Scales of groups are a matrix.
at::Tensor by_row(const Latent& from, const at::Tensor& scales) {
  return from.spec.granularity == ternary::Granularity::kGroup ? scales.view({from.rows(), -1}) : scales;
}

FourTensors in_layout(const at::Tensor& weight, const WeightLayout& layout, const Encoded& encoded) {
  at::Tensor t = layout.from_matrix(encoded.t);
  if (weight.dim() > 2) t = t.contiguous(weight.suggest_memory_format());
  return {std::move(t), encoded.scale, encoded.scale_neg, encoded.threshold};
}

// x whose rows are contiguous blocks of memory, in its own memory format where that is so already.
at::Tensor row_blocks(const at::Tensor& x, int64_t start_dim) {
  if (start_dim == 1 && x.is_non_overlapping_and_dense() && x.stride(0) * x.size(0) == x.numel()) return x;
  return x.contiguous();
}

int64_t wrap_dim(const char* op, const at::Tensor& x, int64_t start_dim) {
  const int64_t dim = start_dim < 0 ? start_dim + x.dim() : start_dim;
  require(dim >= 0 && dim < x.dim(), ErrorCode::kInvalidArgument, "[{}] start_dim in [-{}, {}), got {}", op, x.dim(),
          x.dim(), start_dim);
  return dim;
}

// The shape of x with 1 from `dim` on.
c10::SymDimVector scale_shape(const at::Tensor& x, int64_t dim) {
  c10::SymDimVector shape(x.sym_sizes().begin(), x.sym_sizes().end());
  for (auto i = static_cast<size_t>(dim); i < shape.size(); ++i) shape[i] = 1;
  return shape;
}

// A kind that quantizes, with its step where it has one.
struct Quantization {
  float limit;
  const at::Tensor* step = nullptr;
  Quantization(const char* op, std::string_view activation, const OptionalTensor& act_scale) {
    const ternary::ActKind kind = ternary::parse_act_kind(activation).value();
    require(kind != ternary::ActKind::kNone, ErrorCode::kUnsupported, "[{}] int8 or int4 activations, got none", op);
    const bool given = act_scale && act_scale->defined();
    require(given == is_static(kind), ErrorCode::kInvalidArgument,
            "[{}] act_scale for static activations alone, got {} for {}", op, given ? "one" : "none", activation);
    limit = static_cast<float>(act_limit(kind));
    if (!given) return;
    require_float32(op, "act_scale", *act_scale);
    require(act_scale->sym_numel() == 1, ErrorCode::kShapeMismatch, "[{}] act_scale [1], got {}", op, show(*act_scale));
    step = &*act_scale;
  }
};

}  // namespace

namespace cpu {
namespace {

Encoded encode(const Latent& from) {
  const int64_t scales = from.scales();
  const auto options = from.w.options();
  const Encoded to{at::empty(from.w.sizes(), options.dtype(at::kChar)), at::empty({scales}, options),
                   at::empty({info(from.spec.method).asymmetric ? scales : 0}, options), at::empty({scales}, options)};
  TorchPool pool;
  ternary::encode(
      from.spec, span_of<const float>(from.w), from.rows(), from.depth(),
      {span_of<const float>(from.learned), span_of<const float>(from.learned_neg)},
      {span_of<int8_t>(to.t), span_of<float>(to.scale), span_of<float>(to.scale_neg), span_of<float>(to.threshold)}, &pool)
      .value();
  return {to.t, by_row(from, to.scale), to.scale_neg, by_row(from, to.threshold)};
}

}  // namespace

FourTensors quantize_weight(const at::Tensor& weight, std::string_view spec, const OptionalTensor& learned,
                            const OptionalTensor& learned_neg, bool transposed, int64_t groups) {
  constexpr const char* kOp = "quantize_weight";
  const WeightLayout layout(kOp, weight, transposed, groups);
  return in_layout(weight, layout, encode(latent(kOp, weight, layout, spec, learned, learned_neg)));
}

ThreeTensors ternary_pack(const at::Tensor& weight, std::string_view spec, const OptionalTensor& learned,
                          const OptionalTensor& learned_neg, bool transposed, int64_t groups) {
  constexpr const char* kOp = "ternary_pack";
  const WeightLayout layout(kOp, weight, transposed, groups);
  const Latent from = latent(kOp, weight, layout, spec, learned, learned_neg);
  const Encoded encoded = encode(from);
  if (!is_ternary(from.spec.method)) return {encoded.t, encoded.scale, encoded.scale_neg};
  const at::Tensor codes =
      at::empty({from.rows(), ternary::code_row_bytes(from.depth())}, encoded.t.options().dtype(at::kByte));
  ternary::pack_codes(span_of<const int8_t>(encoded.t), from.rows(), from.depth(), span_of<uint8_t>(codes));
  return {codes, encoded.scale.dim() == 2 ? encoded.scale.to(at::kHalf) : encoded.scale, encoded.scale_neg};
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                               const OptionalTensor& act_scale) {
  constexpr const char* kOp = "quantize_activation";
  const Quantization quantization(kOp, activation, act_scale);
  require_float32(kOp, "x", x);
  const int64_t dim = wrap_dim(kOp, x, start_dim);
  const at::Tensor blocks = row_blocks(x, dim);
  const at::Tensor q = at::empty_like(blocks, blocks.options().dtype(at::kChar));
  const at::Tensor a = at::empty_symint(scale_shape(x, dim), x.options());
  if (x.numel() == 0) return {q, a.fill_(1.0)};
  const int64_t rows = a.numel(), columns = x.numel() / rows;
  TorchPool pool;
  kernels::activation_quant(
      activation_quant_kernel(), kOp, blocks.const_data_ptr<float>(), rows, columns, columns, q.mutable_data_ptr<int8_t>(),
      columns, a.mutable_data_ptr<float>(), pool,
      {quantization.limit, quantization.step == nullptr ? 0.0F : 1.0F / checked_step(kOp, *quantization.step)})
      .value();
  return {q, a};
}

}  // namespace cpu

// In operators of LibTorch, whose results IEEE 754 fixes: the bits of the CPU on every device that has float64. Divisors are tensors of the
// device, since some devices multiply by the reciprocal of a number instead.
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

// The weights that share a scale, as the rows of a matrix.
struct Parts {
  at::Tensor w, size;  // float32 [parts, length] and |w|; zeros behind the weights of a short group
  at::Tensor count;    // int64 [parts]: weights

  explicit Parts(const Latent& from) {
    const int64_t rows = from.rows(), depth = from.depth(), groups = groups_of(from.spec, depth);
    const bool whole = from.spec.granularity == ternary::Granularity::kTensor;
    const int64_t length = whole                                                   ? rows * depth
                           : from.spec.granularity == ternary::Granularity::kGroup ? from.spec.group
                                                                                   : depth;
    w = whole ? from.w.view({1, -1}) : padded(from.w, groups * length).view({-1, length});
    size = w.abs();
    count = at::full({from.scales() / groups, groups}, length, w.options().dtype(at::kLong));
    if (!whole) count.select(1, groups - 1).fill_(depth - (groups - 1) * length);
    count = count.view(-1);
  }

  at::Tensor mean() const { return ordered_sum(size).div(count.to(at::kDouble)); }
  at::Tensor largest() const { return at::amax(size, 1); }

  // The lower one of two in the middle.
  at::Tensor median() const {
    const at::Tensor behind = at::arange(size.size(1), count.options()).ge(count.unsqueeze(1));
    const at::Tensor sorted = std::get<0>(at::sort(size.masked_fill(behind, std::numeric_limits<double>::infinity()), 1));
    return sorted.gather(1, (count - 1).div(2, "floor").unsqueeze(1)).squeeze(1);
  }

  // The mean of |w| over |w| > threshold; 0 where there is none.
  at::Tensor best_scale(const at::Tensor& threshold) const {
    const at::Tensor kept = size.gt(threshold.unsqueeze(1));
    const at::Tensor sum = ordered_sum(at::where(kept, size, at::zeros({}, size.options())));
    return sum.div(kept.sum(1).clamp_min(1).to(at::kDouble)).to(at::kFloat);
  }
};

struct Fit {
  at::Tensor threshold, scale;  // float32 [parts]
};

Fit half_of(const at::Tensor& scale) { return {scale * 0.5, scale}; }
Fit half_of_at_least_epsilon(const at::Tensor& scale) {
  return half_of(scale.to(at::kFloat).clamp_min(ternary::kScaleEpsilon));
}
Fit best_for(const Parts& parts, const at::Tensor& threshold) { return {threshold, parts.best_scale(threshold)}; }

// The rules of ternary/encode.cc.
Fit fit(const Latent& from, const Parts& parts) {
  const double c = coefficient(from.spec);
  switch (from.spec.method) {
    case ternary::Method::kAbsmean:
      return half_of_at_least_epsilon(parts.mean());
    case ternary::Method::kAbsmedian:
      return half_of_at_least_epsilon(parts.median());
    case ternary::Method::kTwn:
      return best_for(parts, parts.mean().mul(c).to(at::kFloat));
    case ternary::Method::kTtq:
      return {parts.largest().to(at::kDouble).mul(c).to(at::kFloat), from.learned.clone()};
    case ternary::Method::kLsq:
      return half_of_at_least_epsilon(from.learned.abs());
    case ternary::Method::kFixed:
      return best_for(parts, at::full({from.scales()}, c, from.w.options()));
    case ternary::Method::kInt8: {
      const at::Tensor most = parts.largest().clamp_min(ternary::kScaleEpsilon);
      return half_of(most.div(at::full_like(most, info(from.spec.method).limit)));
    }
  }
  return {};
}

at::Tensor codes(const Latent& from, const Parts& parts, const Fit& found) {
  const at::Tensor threshold = found.threshold.unsqueeze(1);
  const int limit = info(from.spec.method).limit;
  const at::Tensor t = is_ternary(from.spec.method)
                           ? parts.w.gt(threshold).to(at::kChar).sub_(parts.w.lt(threshold.neg()).to(at::kChar))
                           : at::round(parts.w.div(found.scale.unsqueeze(1)).clamp_(-limit, limit)).to(at::kChar);
  return t.view({from.rows(), -1}).narrow(1, 0, from.depth()).contiguous();
}

int64_t first_not_finite(const at::Tensor& values) {
  return at::isfinite(values).logical_not().to(at::kByte).flatten().argmax().item<int64_t>();
}

// The device is asked once where all is well.
void require_finite(const Latent& from, const Parts& parts, const at::Tensor& scale) {
  at::Tensor finite = at::isfinite(at::amax(parts.size)).logical_and(at::isfinite(scale).all());
  for (const at::Tensor& learned : {from.learned, from.learned_neg})
    if (learned.numel() > 0) finite = finite.logical_and(at::isfinite(learned).all());
  if (finite.item<bool>()) return;
  for (const at::Tensor& values : {from.learned, from.learned_neg, from.w}) {
    if (values.numel() == 0 || at::isfinite(values).all().item<bool>()) continue;
    const int64_t index = first_not_finite(values);
    const char* what = values.is_same(from.w) ? "weights" : "learned scales";
    throw Exception(ternary::not_finite(what, values.flatten()[index].item<float>(), index));
  }
  throw Exception(ternary::beyond_float16(first_not_finite(scale)));
}

Encoded encode(const Latent& from) {
  ternary::check_learned(from.spec, from.scales(), from.learned.numel(), from.learned_neg.numel()).value();
  const Parts parts(from);
  const Fit found = fit(from, parts);
  const bool grouped = from.spec.granularity == ternary::Granularity::kGroup;
  const at::Tensor scale = grouped ? found.scale.to(at::kHalf).to(at::kFloat) : found.scale;
  require_finite(from, parts, scale);
  return {codes(from, parts, found), by_row(from, scale),
          info(from.spec.method).asymmetric ? from.learned_neg.clone() : at::empty({0}, from.w.options()),
          by_row(from, found.threshold)};
}

}  // namespace

FourTensors quantize_weight(const at::Tensor& weight, std::string_view spec, const OptionalTensor& learned,
                            const OptionalTensor& learned_neg, bool transposed, int64_t groups) {
  constexpr const char* kOp = "quantize_weight";
  const at::NoGradGuard no_grad;
  const WeightLayout layout(kOp, weight, transposed, groups);
  return in_layout(weight, layout, encode(latent(kOp, weight, layout, spec, learned, learned_neg)));
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                               const OptionalTensor& act_scale) {
  constexpr const char* kOp = "quantize_activation";
  const Quantization quantization(kOp, activation, act_scale);
  require_float32(kOp, "x", x);
  const int64_t dim = wrap_dim(kOp, x, start_dim);
  if (x.numel() == 0)
    return {at::empty_like(x, x.options().dtype(at::kChar)), at::empty_symint(scale_shape(x, dim), x.options()).fill_(1.0)};
  std::vector<int64_t> dims;
  for (int64_t i = dim; i < x.dim(); ++i) dims.push_back(i);
  const at::Tensor most = at::amax(x.abs(), dims, true);
  if (!at::isfinite(most).all().item<bool>())
    throw Exception(
        make_error(ErrorCode::kNotFinite, "[{}] finite input, got NaN or infinity (row={})", kOp, first_not_finite(most)));
  const at::Tensor inv = quantization.step != nullptr
                             ? at::full_like(most, 1.0F / checked_step(kOp, *quantization.step))
                             : at::full_like(most, quantization.limit).div_(most.clamp_min(ternary::kActEpsilon));
  at::Tensor q = at::round(x * inv).clamp_(-quantization.limit, quantization.limit).to(at::kChar);
  return {std::move(q), inv.reciprocal()};
}

}  // namespace any_device

namespace meta {

FourTensors quantize_weight(const at::Tensor& weight, std::string_view text, const OptionalTensor& /*learned*/,
                            const OptionalTensor& /*learned_neg*/, bool transposed, int64_t groups) {
  constexpr const char* kOp = "quantize_weight";
  const WeightLayout layout(kOp, weight, transposed, groups);
  const auto spec = ternary::parse_weight_spec(text).value();
  check_groups(kOp, weight, layout, spec);
  c10::SymDimVector scales{1};
  if (spec.granularity != ternary::Granularity::kTensor) scales[0] = layout.rows();
  if (spec.granularity == ternary::Granularity::kGroup) scales.push_back((layout.depth() + spec.group - 1) / spec.group);
  const at::Tensor scale = at::empty_symint(scales, weight.options());
  const at::Tensor scale_neg = info(spec.method).asymmetric ? at::empty_like(scale) : at::empty({0}, weight.options());
  return {at::empty_like(weight, weight.options().dtype(at::kChar)), scale, scale_neg, at::empty_like(scale)};
}

ThreeTensors ternary_pack(const at::Tensor& weight, std::string_view spec, const OptionalTensor& learned,
                          const OptionalTensor& learned_neg, bool transposed, int64_t groups) {
  const WeightLayout layout("ternary_pack", weight, transposed, groups);
  auto [t, scale, scale_neg, threshold] = meta::quantize_weight(weight, spec, learned, learned_neg, transposed, groups);
  const bool int8 = !is_ternary(ternary::parse_weight_spec(spec).value().method);
  const c10::SymInt bytes = int8 ? layout.depth() : (layout.depth() + 3) / 4;
  return {at::empty_symint({layout.rows(), bytes}, weight.options().dtype(int8 ? at::kChar : at::kByte)),
          scale.dim() == 2 ? scale.to(at::kHalf) : scale, scale_neg};
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                               const OptionalTensor& act_scale) {
  const Quantization quantization("quantize_activation", activation, act_scale);
  const int64_t dim = wrap_dim("quantize_activation", x, start_dim);
  return {at::empty_like(x, x.options().dtype(at::kChar)), at::empty_symint(scale_shape(x, dim), x.options())};
}

}  // namespace meta
}  // namespace bitlab::ops
