#include "bitlab/nn/quantizer.h"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "bitlab/nn/layer.h"
#include "bitlab/nn/product_layer.h"
#include "bitlab/ternary/encode.h"

namespace bitlab::nn {
namespace {

// Output channels of a weight.
int64_t rows_of(const at::Tensor& weight, const ops::ConvWindow* window) {
  return window != nullptr && window->transposed ? weight.size(1) * window->groups : weight.size(0);
}

}  // namespace

void Quantizer::reset(torch::nn::Module& layer, const BitQuantConfig& quant, const at::Tensor& weight,
                      const ops::ConvWindow* window, Use use) {
  quant_ = quant;
  window_ = window == nullptr ? std::nullopt : std::optional(*window);
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

void Quantizer::set_blend(double share) {
  const at::NoGradGuard no_grad;
  if (blend.defined()) blend.fill_(share);
}

void set_blend(torch::nn::Module& network, double share) {
  const auto set = [share](torch::nn::Module& module) {
    if (auto* layer = dynamic_cast<Quantized*>(&module); layer != nullptr) layer->own_quantizer().set_blend(share);
  };
  set(network);  // which need not be in a shared_ptr
  for (const auto& module : network.modules(/*include_self=*/false)) set(*module);
}

void Quantizer::check_activation() const {
  if (quant_.activation != ternary::ActKind::kNone) return;
  const ternary::WeightSpec spec = quant_.weight_spec();
  if (!is_ternary(spec.method))
    throw Exception(
        make_error(ErrorCode::kUnsupported,
                   "[quantization] int8 or int4 activations of a layer in int8 (method none keeps it float), got none"));
  if (spec.granularity == ternary::Granularity::kGroup || info(spec.method).asymmetric)
    throw Exception(make_error(ErrorCode::kUnsupported,
                               "[quantization] one scale a tensor or channel where activations stay float, got {}",
                               to_text(spec)));
}

void Quantizer::initialize_scales(const at::Tensor& weight, double steps) {
  if (!weight_scale.defined()) return;
  const at::NoGradGuard no_grad;
  const at::Tensor matrix = layout(weight).to_matrix(weight).cpu();
  std::vector<float> scale(static_cast<size_t>(weight_scale.numel())),
      scale_neg(weight_scale_neg.defined() ? scale.size() : 0);
  initial_scales(quant_.weight_spec(), {matrix.const_data_ptr<float>(), static_cast<size_t>(matrix.numel())}, matrix.size(0),
                 matrix.size(1), scale, scale_neg)
      .value();
  weight_scale.copy_(at::from_blob(scale.data(), weight_scale.sizes()));
  if (weight_scale_neg.defined()) weight_scale_neg.copy_(at::from_blob(scale_neg.data(), weight_scale_neg.sizes()));
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
  if (act_scale.defined() && layer.is_training()) begin_act_scale(x);
  const double blend_now = blend_of(layer);
  if (call_window == nullptr) return ops::bit_linear(x, weight, optional(bias), weight_quant(), activation(), blend_now);
  return ops::bit_conv(x, weight, optional(bias), *call_window, weight_quant(), activation(), blend_now);
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

at::Tensor Quantizer::value(const torch::nn::Module& layer, const at::Tensor& weight) const {
  return ops::bit_weight(weight, weight_quant(), blend_of(layer));
}

at::Tensor Quantizer::embedding(const torch::nn::Module& layer, const at::Tensor& weight, const at::Tensor& indices,
                                int64_t padding_idx, bool scale_grad_by_freq) const {
  return ops::bit_embedding(weight, indices, weight_quant(), blend_of(layer), padding_idx, scale_grad_by_freq);
}

}  // namespace bitlab::nn
