// quantize_weight, quantize_activation, ternary_pack.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/round.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/activation_quant/activation_quant.h"
#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/cuda.h"
#include "bitlab/ops/internal/encode.h"
#include "bitlab/ops/internal/implementations.h"
#include "bitlab/ops/internal/spec_cache.h"
#include "bitlab/ops/internal/torch_pool.h"
#include "bitlab/ops/layout.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::ops {
namespace {

template <class T>
std::span<T> span_of(const at::Tensor& tensor) {
  return {static_cast<T*>(tensor.data_ptr()), static_cast<size_t>(tensor.numel())};
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
              at::TensorList learned) {
  require_float32(op, "weight", weight);
  const ternary::WeightSpec spec = spec_of(text);
  check_groups(op, weight, layout, spec);
  Latent result{spec, layout.to_matrix(weight), {}};
  for (const at::Tensor& values : learned) {
    require_float32(op, "learned", values);
    result.learned.push_back(values.contiguous().view(-1));
  }
  const int64_t most = ternary::max_depth(!is_ternary(spec.method));
  require(result.depth() <= most, ErrorCode::kUnsupported, "[{}] K of at most {} for {}, got {}", op, most,
          name(spec.method), result.depth());
  return result;
}

// Of codes: matrices by rows, those of convolutions as their weight.
at::MemoryFormat format_of(const at::Tensor& weight) {
  return weight.dim() > 2 ? weight.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

FourTensors in_layout(const at::Tensor& weight, const WeightLayout& layout, const Encoded& encoded) {
  at::Tensor t = layout.from_matrix(encoded.t);
  // Of filters of one pixel, permuted strides count as contiguous, and MKL-DNN's gradient of such a convolution writes beyond its memory.
  if (weight.dim() > 2) t = t.clone(format_of(weight));
  return {std::move(t), encoded.scale, encoded.scale_neg, encoded.threshold};
}

// x whose rows are contiguous blocks of memory, in its own memory format where that is so already.
at::Tensor row_blocks(const at::Tensor& x, int64_t start_dim) {
  if (start_dim == 1 && x.is_non_overlapping_and_dense() && x.sym_stride(0) * x.sym_size(0) == x.sym_numel()) return x;
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
    check_act_scale(op, kind, act_scale);
    limit = static_cast<float>(act_limit(kind));
    if (!given(act_scale)) return;
    require_float32(op, "act_scale", *act_scale);
    require(act_scale->sym_numel() == 1, ErrorCode::kShapeMismatch, "[{}] act_scale [1], got {}", op, show(*act_scale));
    step = &*act_scale;
  }
  // What x is multiplied by where it is the same for all; else 0.
  float inv(const char* op) const { return step == nullptr ? 0.0F : 1.0F / checked_step(op, *step); }
};

template <Encoded encode(const Latent&)>
FourTensors quantized_weight(const at::Tensor& weight, std::string_view spec, at::TensorList learned, bool transposed,
                             int64_t groups) {
  constexpr const char* kOp = "quantize_weight";
  const at::NoGradGuard no_grad;
  const WeightLayout layout(kOp, weight, transposed, groups);
  return in_layout(weight, layout, encode(latent(kOp, weight, layout, spec, learned)));
}

using QuantizeRows = void(const at::Tensor& x, int64_t rows, float limit, float inv, const at::Tensor& q,
                          const at::Tensor& a);

// By a function of blocks of memory that share a scale, as cuda::quantize_rows.
template <QuantizeRows quantize_rows>
TwoTensors quantized_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                                const OptionalTensor& act_scale) {
  constexpr const char* kOp = "quantize_activation";
  const Quantization quantization(kOp, activation, act_scale);
  const int64_t dim = wrap_dim(kOp, x, start_dim);
  const at::Tensor blocks = row_blocks(x, dim);
  const at::Tensor q = at::empty_like(blocks, blocks.options().dtype(at::kChar));
  const at::Tensor a = at::empty_symint(scale_shape(x, dim), x.options().dtype(at::kFloat));
  if (x.numel() == 0) return {q, a.fill_(1.0)};
  quantize_rows(blocks, a.numel(), quantization.limit, quantization.inv(kOp), q, a);
  return {q, a};
}

}  // namespace

namespace cpu {

at::Tensor codes_of(const at::Tensor& t) {
  const at::Tensor codes = at::empty({t.size(0), ternary::code_row_bytes(t.size(1))}, t.options().dtype(at::kByte));
  ternary::pack_codes(span_of<const int8_t>(t), t.size(0), t.size(1), span_of<uint8_t>(codes));
  return codes;
}

FourTensors quantize_weight(const at::Tensor& weight, std::string_view spec, at::TensorList learned, bool transposed,
                            int64_t groups) {
  return quantized_weight<cpu::encode>(weight, spec, learned, transposed, groups);
}

ThreeTensors ternary_pack(const at::Tensor& weight, std::string_view spec, at::TensorList learned, bool transposed,
                          int64_t groups) {
  constexpr const char* kOp = "ternary_pack";
  const WeightLayout layout(kOp, weight, transposed, groups);
  const Latent from = latent(kOp, weight, layout, spec, learned);
  const Encoded encoded = encode(from);
  if (!is_ternary(from.spec.method)) return {encoded.t, encoded.scale, encoded.scale_neg};
  return {codes_of(encoded.t), encoded.scale.dim() == 2 ? encoded.scale.to(at::kHalf) : encoded.scale, encoded.scale_neg};
}

void quantize_rows(const at::Tensor& x, int64_t rows, float limit, float inv, const at::Tensor& q, const at::Tensor& a) {
  const int64_t columns = x.numel() / rows;
  TorchPool pool;
  kernels::activation_quant(activation_quant_kernel(), "quantize_activation", x.const_data_ptr<float>(), rows, columns,
                            columns, q.mutable_data_ptr<int8_t>(), columns, a.mutable_data_ptr<float>(), pool, {limit, inv})
      .value();
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                               const OptionalTensor& act_scale) {
  require_float32("quantize_activation", "x", x);
  return quantized_activation<cpu::quantize_rows>(x, start_dim, activation, act_scale);
}

}  // namespace cpu

namespace cuda {

FourTensors quantize_weight(const at::Tensor& weight, std::string_view spec, at::TensorList learned, bool transposed,
                            int64_t groups) {
  return quantized_weight<cuda::encode>(weight, spec, learned, transposed, groups);
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                               const OptionalTensor& act_scale) {
  if (!serves(x)) return any_device::quantize_activation(widened(x), start_dim, activation, act_scale);
  if (!is_short(x)) require_float32("quantize_activation", "x", x);
  return quantized_activation<cuda::quantize_rows>(x, start_dim, activation, act_scale);
}

}  // namespace cuda

namespace any_device {

FourTensors quantize_weight(const at::Tensor& weight, std::string_view spec, at::TensorList learned, bool transposed,
                            int64_t groups) {
  return quantized_weight<any_device::encode>(weight, spec, learned, transposed, groups);
}

// By LibTorch's operators. Values that share a scale lie along the dimensions in which `a` has a size of 1.
void quantize_rows(const at::Tensor& x, int64_t /*rows*/, float limit, float inv, const at::Tensor& q, const at::Tensor& a) {
  std::vector<int64_t> dims;
  for (int64_t i = 0; i < a.dim(); ++i)
    if (a.size(i) == 1) dims.push_back(i);
  const at::Tensor most = at::amax(x.abs(), dims, true);
  if (!at::isfinite(most).all().item<bool>())
    throw Exception(make_error(ErrorCode::kNotFinite, "[quantize_activation] finite input, got NaN or infinity (row={})",
                               first_not_finite(most)));
  const at::Tensor factor =
      inv != 0 ? at::full_like(most, inv) : at::full_like(most, limit).div_(most.clamp_min(ternary::kActEpsilon));
  q.copy_(at::round(x * factor).clamp_(-limit, limit));
  a.copy_(factor.reciprocal());
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                               const OptionalTensor& act_scale) {
  require_float32("quantize_activation", "x", x);
  return quantized_activation<any_device::quantize_rows>(x, start_dim, activation, act_scale);
}

}  // namespace any_device

namespace meta {

FourTensors quantize_weight(const at::Tensor& weight, std::string_view text, at::TensorList /*learned*/, bool transposed,
                            int64_t groups) {
  constexpr const char* kOp = "quantize_weight";
  const WeightLayout layout(kOp, weight, transposed, groups);
  const auto spec = spec_of(text);
  check_groups(kOp, weight, layout, spec);
  c10::SymDimVector scales{1};
  if (spec.granularity != ternary::Granularity::kTensor) scales[0] = layout.rows();
  if (spec.granularity == ternary::Granularity::kGroup) scales.push_back((layout.depth() + spec.group - 1) / spec.group);
  const at::Tensor scale = at::empty_symint(scales, weight.options());
  const at::Tensor scale_neg = info(spec.method).asymmetric ? at::empty_like(scale) : at::empty({0}, weight.options());
  const at::Tensor t = at::empty_like(weight, weight.options().dtype(at::kChar), format_of(weight));
  return {t, scale, scale_neg, at::empty_like(scale)};
}

ThreeTensors ternary_pack(const at::Tensor& weight, std::string_view spec, at::TensorList learned, bool transposed,
                          int64_t groups) {
  const WeightLayout layout("ternary_pack", weight, transposed, groups);
  auto [t, scale, scale_neg, threshold] = meta::quantize_weight(weight, spec, learned, transposed, groups);
  const bool int8 = !is_ternary(spec_of(spec).method);
  const c10::SymInt bytes = int8 ? layout.depth() : (layout.depth() + 3) / 4;
  return {at::empty_symint({layout.rows(), bytes}, weight.options().dtype(int8 ? at::kChar : at::kByte)),
          scale.dim() == 2 ? scale.to(at::kHalf) : scale, scale_neg};
}

TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                               const OptionalTensor& act_scale) {
  const Quantization quantization("quantize_activation", activation, act_scale);
  const int64_t dim = wrap_dim("quantize_activation", x, start_dim);
  const at::Tensor blocks = row_blocks(x, dim);
  return {at::empty_like(blocks, blocks.options().dtype(at::kChar)),
          at::empty_symint(scale_shape(x, dim), x.options().dtype(at::kFloat))};
}

}  // namespace meta
}  // namespace bitlab::ops
