#include "bitlab/nn/quantizer.h"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "bitlab/nn/layer.h"
#include "bitlab/nn/product_layer.h"
#include "bitlab/ternary/encode.h"

namespace bitlab::nn {
namespace {

int64_t version_of(const at::Tensor& tensor) {
  return !tensor.defined() ? 0 : tensor.is_inference() ? -1 : static_cast<int64_t>(tensor._version());
}

// Output channels of a weight.
int64_t rows_of(const at::Tensor& weight, const ops::ConvWindow* window) {
  return window != nullptr && window->transposed ? weight.size(1) * window->groups : weight.size(0);
}

}  // namespace

const ops::PackedWeight& WeightCodes::of(const at::Tensor& weight, const ops::WeightQuant& quant,
                                         const ops::ConvWindow* window) {
  const at::Tensor tensors[] = {weight, quant.learned, quant.learned_neg};
  bool fresh = sources_.size() == std::size(tensors) && spec_ == quant.spec;
  for (size_t i = 0; fresh && i < std::size(tensors); ++i) {
    const int64_t version = version_of(tensors[i]);  // an inference tensor changes unseen
    fresh = version >= 0 && sources_[i].version == version && sources_[i].tensor.is_same(tensors[i]);
  }
  if (fresh) return packed_;
  packed_ = ops::ternary_pack(weight, quant, window);
  spec_ = quant.spec;
  sources_.clear();
  for (const at::Tensor& tensor : tensors) sources_.push_back({tensor, version_of(tensor)});
  return packed_;
}

void WeightCodes::drop() { *this = {}; }

void Quantizer::reset(torch::nn::Module& layer, const BitQuantConfig& quant, const at::Tensor& weight,
                      const ops::ConvWindow* window, Use use) {
  quant_ = quant;
  window_ = window == nullptr ? std::nullopt : std::optional(*window);
  codes_.drop();
  weight_scale = weight_scale_neg = act_scale = blend = at::Tensor();
  if (!quant.enabled()) return;
  const ternary::WeightSpec spec = quant.weight_spec();
  validate(spec).value();
  if (use == Use::kProduct) check_activation();
  const int64_t scales = spec.granularity == ternary::Granularity::kTensor ? 1 : rows_of(weight, window);
  const int learned = info(spec.method).learned_scales;
  if (learned > 0) weight_scale = layer.register_parameter("weight_scale", at::ones({scales}));
  if (learned > 1) weight_scale_neg = layer.register_parameter("weight_scale_neg", at::ones({scales}));
  if (use == Use::kProduct && is_static(quant.activation)) act_scale = layer.register_parameter("act_scale", at::zeros({1}));
  const auto buffers = layer.named_buffers(false);  // a layer that is frozen has it already
  blend = buffers.contains("blend") ? buffers["blend"].fill_(1) : layer.register_buffer("blend", at::ones({}, at::kDouble));
}

void Quantizer::check_activation() const {
  if (quant_.activation != ternary::ActKind::kNone) return;
  const ternary::WeightSpec spec = quant_.weight_spec();
  if (!is_ternary(spec.method))
    throw Exception(
        make_error(ErrorCode::kUnsupported,
                   "[quantization] int8 or int4 activations of a layer in int8 (method none keeps it float), got none"));
  if (spec.granularity == ternary::Granularity::kGroup || info(spec.method).learned_scales == 2)
    throw Exception(make_error(ErrorCode::kUnsupported,
                               "[quantization] one scale a tensor or channel where activations stay float, got {}",
                               to_text(spec)));
}

void Quantizer::initialize_scales(const at::Tensor& weight, double steps) {
  if (!weight_scale.defined()) return;
  const at::NoGradGuard no_grad;
  const at::Tensor matrix = layout(weight).to_matrix(weight);
  const auto span_of = [](const at::Tensor& scale) -> std::span<float> {
    if (!scale.defined()) return {};
    return {scale.mutable_data_ptr<float>(), static_cast<size_t>(scale.numel())};
  };
  initial_scales(quant_.weight_spec(), {matrix.const_data_ptr<float>(), static_cast<size_t>(matrix.numel())}, matrix.size(0),
                 matrix.size(1), span_of(weight_scale), span_of(weight_scale_neg))
      .value();
  if (!weight_scale_neg.defined()) weight_scale.mul_(steps / 2);
}

// The step begins where LSQ's does (arXiv:1902.08153, section 2.1): 2 mean|x| / sqrt(limit).
void Quantizer::begin_act_scale(const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  if (act_scale.item<float>() != 0) return;
  const double limit = act_limit(quant_.activation);
  act_scale.fill_(std::max(2 * x.detach().abs().mean().item<double>() / std::sqrt(limit), 1e-8));
}

at::Tensor Quantizer::forward(const torch::nn::Module& layer, const at::Tensor& x, const at::Tensor& weight,
                              const at::Tensor& bias, const ops::ConvWindow* call_window) {
  if (runs_on_codes(layer, x)) {
    const ops::PackedWeight& packed = codes_.of(weight, weight_quant(), call_window);
    if (call_window == nullptr) return ops::ternary_linear(x, packed, optional(bias), activation());
    return ops::ternary_conv(x, packed, optional(bias), weight.sizes().slice(2), *call_window, activation());
  }
  if (act_scale.defined() && layer.is_training()) begin_act_scale(x);
  const double share = blend.item<double>();
  if (call_window == nullptr) return ops::bit_linear(x, weight, optional(bias), weight_quant(), activation(), share);
  return ops::bit_conv(x, weight, optional(bias), *call_window, weight_quant(), activation(), share);
}

ops::WeightLayout Quantizer::layout(const at::Tensor& weight) const {
  return {"weight", weight, window_ && window_->transposed, window_ ? window_->groups : 1};
}

at::Tensor Quantizer::activated(const at::Tensor& x) const {
  if (quant_.activation == ternary::ActKind::kNone) return x;
  const bool is_image = window_ && x.dim() == static_cast<int64_t>(window_->stride.size()) + 2;
  const auto [q, a] = ops::quantize_activation(x, window_ ? (is_image ? 1 : 0) : -1, activation());
  return q.to(at::kFloat).mul_(a);
}

void Quantizer::freeze(at::Tensor& weight, const at::Tensor& t, const at::Tensor& scale, const at::Tensor& step) {
  const at::NoGradGuard no_grad;
  weight.copy_(t.to(at::kFloat) * layout(weight).spread(scale, quant_.weight_spec()));
  weight_scale.copy_(scale);
  if (act_scale.defined()) act_scale.copy_(step);
}

BitQuantConfig frozen_config(BitQuantConfig quant) {
  quant.method = ternary::Method::kLsq;
  quant.granularity = ternary::Granularity::kChannel;
  quant.threshold = 0;
  quant.gradient = ternary::Gradient::kStraightThrough;
  return quant;
}

at::Tensor Quantizer::value(const at::Tensor& weight) const {
  return ops::bit_weight(weight, weight_quant(), blend.item<double>());
}

bool runs_on_codes(const torch::nn::Module& layer, const at::Tensor& x) {
  return !layer.is_training() && !at::GradMode::is_enabled() && (x.is_cpu() || x.is_meta());
}

}  // namespace bitlab::nn
