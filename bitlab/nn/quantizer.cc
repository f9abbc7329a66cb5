#include "bitlab/nn/quantizer.h"

#include <cmath>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "bitlab/nn/layer.h"
#include "bitlab/nn/product_layer.h"

namespace bitlab::nn {
namespace {

// The module's parameters, some of which freezing replaces; LibTorch shows them to derived classes alone.
struct Parameters : torch::nn::Module {
  static auto& of(torch::nn::Module& module) { return module.*(&Parameters::parameters_); }
};

std::string registered(ternary::Parameter parameter) { return fmt::format("weight_{}", name(parameter)); }

// The buffer of that name, which a layer that is reset again has already.
template <class Make>
at::Tensor buffer(torch::nn::Module& layer, const std::string& key, Make make) {
  const auto buffers = layer.named_buffers(false);
  return buffers.contains(key) ? buffers[key] : layer.register_buffer(key, make());
}

void check_smoothing(double smoothing) {
  if (!(smoothing >= 0 && smoothing <= 1))
    throw Exception(make_error(ErrorCode::kInvalidArgument, "[quantization] smoothing from 0 to 1, got {}", smoothing));
}

// Channels of x.
int64_t channels_of(const at::Tensor& weight, const ops::ConvWindow* window) {
  if (window == nullptr) return weight.size(1);
  return window->transposed ? weight.size(0) : weight.size(1) * window->groups;
}

// The weight with its channels of x in the dimensions 1 and 2, as groups and channels of a group: [N / groups, groups, C / groups, rest].
at::Tensor by_input_channel(const at::Tensor& weight, const ops::ConvWindow* window) {
  if (window == nullptr) return weight.unsqueeze(1).unsqueeze(3);
  const int64_t groups = window->groups, first = weight.size(0) / groups, second = weight.size(1);
  const at::Tensor grouped = weight.view({groups, first, second, -1});
  return window->transposed ? grouped.permute({2, 0, 1, 3}) : grouped.transpose(0, 1);
}

// Output channels of a weight.
int64_t rows_of(const at::Tensor& weight, const ops::ConvWindow* window) {
  return window != nullptr && window->transposed ? weight.size(1) * window->groups : weight.size(0);
}

}  // namespace

void Quantizer::reset(torch::nn::Module& layer, const BitQuantConfig& quant, const at::Tensor& weight,
                      const ops::ConvWindow* window, Use use, const std::string& suffix) {
  quant_ = quant;
  suffix_ = suffix;
  window_ = window == nullptr ? std::nullopt : std::optional(*window);
  use_ = use;
  learned_.clear();
  act_scale = blend = draw = input_scale = at::Tensor();
  blend_now_ = {}, draw_now_ = {};
  if (!quant.enabled()) return;
  validate(quant.weight_spec()).value();
  check_smoothing(quant.smoothing);
  if (use != Use::kValue) check_activation();
  register_state(layer, weight);
}

void Quantizer::register_state(torch::nn::Module& layer, const at::Tensor& weight) {
  const ternary::WeightSpec spec = quant_.weight_spec();
  const int64_t scales = scales_of(weight);
  for (const ternary::Parameter parameter : info(spec.method).learned)
    learned_.push_back(layer.register_parameter(registered(parameter) + suffix_, at::ones({scales}, weight.device())));
  if (use_ != Use::kValue && is_static(quant_.activation)) {
    act_scale = layer.register_parameter("act_scale" + suffix_, at::zeros({1}, weight.device()));
    initialize_step();
  }
  blend = buffer(layer, "blend" + suffix_, [] { return at::ones({}, at::kDouble); });
  blend.fill_(1);
  if (spec.rounding == ternary::Rounding::kStochastic)
    draw = buffer(layer, "draw" + suffix_, [] { return at::randint(1, int64_t{1} << 61, {}, at::kLong); });
  if (use_ != Use::kValue && quant_.smoothing != 0)
    input_scale =
        buffer(layer, "input_scale" + suffix_, [&] { return at::ones(input_scale_shape(weight), weight.device()); });
}

int64_t Quantizer::scales_of(const at::Tensor& weight) const {
  return quant_.weight_spec().granularity == ternary::Granularity::kTensor ? 1 : rows_of(weight, window());
}

std::vector<int64_t> Quantizer::input_scale_shape(const at::Tensor& weight) const {
  std::vector<int64_t> shape(static_cast<size_t>(window_ ? weight.dim() - 1 : 1), 1);
  shape[0] = channels_of(weight, window());
  return shape;
}

void Quantizer::set_window(const at::Tensor& weight, const ops::ConvWindow& window) {
  window_ = window;
  if (!quant_.enabled()) return;
  // set_data: optimizers and the layer hold these tensors.
  if (input_scale.defined()) input_scale.set_data(at::ones(input_scale_shape(weight), input_scale.options()));
  bool others = false;
  for (const at::Tensor& parameter : learned_) {
    if (parameter.numel() == scales_of(weight)) continue;
    parameter.set_data(at::ones({scales_of(weight)}, parameter.options()));
    others = true;
  }
  if (others) initialize_scales(weight);
}

void Quantizer::initialize_step() {
  const at::NoGradGuard no_grad;
  if (act_scale.defined()) act_scale.fill_(use_ == Use::kHiddenProduct ? 1.0 / act_limit(quant_.activation) : 0);
}

void Quantizer::set_blend(double share) {
  if (blend.defined()) blend_now_.set(blend, share);
}

void set_blend(torch::nn::Module& network, const Blend& blend) {
  std::vector<std::vector<Quantizer*>> layers;
  const auto add = [&layers](torch::nn::Module& module) {
    auto* layer = dynamic_cast<Quantized*>(&module);
    if (layer == nullptr) return;
    std::vector<Quantizer*> quantizers = layer->own_quantizers();
    std::erase_if(quantizers, [](const Quantizer* quantizer) { return !quantizer->blend.defined(); });
    if (!quantizers.empty()) layers.push_back(std::move(quantizers));
  };
  add(network);  // which need not be in a shared_ptr
  for (const auto& module : network.modules(/*include_self=*/false)) add(*module);
  for (size_t i = 0; i < layers.size(); ++i) {
    const double share = blend(static_cast<int64_t>(i), static_cast<int64_t>(layers.size()));
    for (Quantizer* quantizer : layers[i]) quantizer->set_blend(share);
  }
}

void set_blend(torch::nn::Module& network, double share) {
  set_blend(network, [share](int64_t, int64_t) { return share; });
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

void Quantizer::initialize_scales(const at::Tensor& weight, bool around_zero) {
  if (learned_.empty()) return;
  const at::NoGradGuard no_grad;
  const auto begun = ops::initial_parameters(weight, quant_.weight_spec(), window(), around_zero);
  for (size_t i = 0; i < learned_.size(); ++i) learned_[i].copy_(begun[i]);
}

at::Tensor Quantizer::learned(ternary::Parameter parameter) const {
  if (learned_.empty()) return {};
  const auto kinds = info(*quant_.method).learned;
  const auto found = std::find(kinds.begin(), kinds.end(), parameter);
  return found == kinds.end() ? at::Tensor() : learned_[static_cast<size_t>(found - kinds.begin())];
}

std::vector<std::string> Quantizer::state_names() {
  std::vector<std::string> names{"act_scale", "blend", "draw", "input_scale"};
  for (const ternary::MethodInfo& method : ternary::method_list())
    for (const ternary::Parameter parameter : method.learned) names.push_back(registered(parameter));
  return names;
}

ops::WeightQuant Quantizer::weight_quant(const torch::nn::Module& layer) const {
  ops::WeightQuant quant = weight_quant();
  if (!draw.defined() || !layer.is_training()) return quant;
  quant.spec.draw = draw_now_.of(draw) + 1;
  draw_now_.set(draw, quant.spec.draw);
  return quant;
}

at::Tensor Quantizer::input(const at::Tensor& x) const {
  const at::Tensor read = input_scale.defined() ? x * input_scale : x;
  if (observer_) observer_(read);
  return read;
}

at::Tensor Quantizer::most_by_channel(const at::Tensor& x) const {
  const int64_t channel = window_ ? -1 - static_cast<int64_t>(window_->stride.size()) : -1;
  return x.detach().abs().movedim(channel, 0).flatten(1).amax(1);
}

void Quantizer::smooth(at::Tensor& weight, const at::Tensor& most) {
  if (use_ == Use::kHiddenProduct) return;  // nothing scales what one step hands to the next
  const at::NoGradGuard no_grad;
  const at::Tensor matrix = by_input_channel(weight, window());
  const at::Tensor largest = matrix.abs().amax(std::vector<int64_t>{0, 3}).flatten();
  const at::Tensor s = most.pow(quant_.smoothing) / largest.pow(1 - quant_.smoothing);
  const at::Tensor usable = s.isfinite().logical_and(s > 0);  // else a channel, or its weights, are all zero
  const at::Tensor exponent = at::where(usable, s, at::ones_like(s)).log2().round().clamp(-30, 30);
  const at::Tensor factor = at::pow(2, exponent);
  matrix.mul_(factor.view({1, matrix.size(1), matrix.size(2), 1}));  // a view of the weight
  input_scale.div_(factor.view_as(input_scale));
}

void begin_act_scale(at::Tensor& act_scale, const at::Tensor& x, ternary::ActKind activation) {
  const at::NoGradGuard no_grad;
  if (act_scale.item<float>() != 0) return;
  const double limit = act_limit(activation);
  act_scale.fill_(std::max(2 * x.detach().abs().mean().item<double>() / std::sqrt(limit), 1e-8));
}

at::Tensor Quantizer::forward(const torch::nn::Module& layer, const at::Tensor& x, const at::Tensor& weight,
                              const at::Tensor& bias, const ops::ConvWindow* call_window) {
  if (act_scale.defined() && layer.is_training()) begin_act_scale(act_scale, x, quant_.activation);
  const double blend_now = blend_of(layer);
  if (call_window == nullptr)
    return ops::bit_linear(x, weight, optional(bias), weight_quant(layer), activation(), blend_now);
  return ops::bit_conv(x, weight, optional(bias), *call_window, weight_quant(layer), activation(), blend_now);
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

void Quantizer::freeze(torch::nn::Module& layer, BitQuantConfig& quant, at::Tensor& weight, at::Tensor& bias,
                       const FrozenWeight& frozen) {
  const at::NoGradGuard no_grad;
  const at::Tensor step = act_scale;
  auto& parameters = Parameters::of(layer);
  const auto forget = [&parameters](const std::string& key) {
    if (parameters.contains(key)) parameters.erase(key);
  };
  for (const std::string& key : state_names()) forget(key + suffix_);
  quant = frozen_config(quant);
  const std::optional<ops::ConvWindow> own_window = window_;
  reset(layer, quant, weight, own_window ? &*own_window : nullptr, use_, std::string(suffix_));
  weight.copy_(frozen.t.to(at::kFloat) * layout(weight).spread(frozen.scale, quant_.weight_spec()));
  learned_[0].copy_(frozen.scale);
  if (act_scale.defined()) act_scale.copy_(step);
  if (bias.defined()) {
    bias.copy_(frozen.bias);
    return;
  }
  forget("bias" + suffix_);  // an undefined one
  bias = layer.register_parameter("bias" + suffix_, frozen.bias.clone());
}

BitQuantConfig frozen_config(BitQuantConfig quant) {
  quant.method = ternary::Method::kLsq;
  quant.granularity = ternary::Granularity::kChannel;
  quant.threshold = 0;
  quant.gradient = ternary::Gradient::kStraightThrough;
  quant.rounding = ternary::Rounding::kNearest;
  return quant;
}

ops::RecurrentStates Quantizer::recurrent(const torch::nn::Module& layer, const ops::RecurrentInputs& inputs,
                                          const at::Tensor& weight, const at::Tensor& bias) {
  if (std::exchange(use_, Use::kHiddenProduct) != Use::kHiddenProduct && layer.is_training() && act_scale.defined() &&
      act_scale.item<float>() == 0)
    initialize_step();  // of a parameter, of which nothing tells before its first call what it multiplies
  const ops::RecurrentStates states =
      is_active() ? ops::bit_recurrent(inputs, weight, optional(bias), weight_quant(layer), activation(), blend_of(layer))
                  : ops::float_recurrent(inputs, weight, optional(bias));
  if (observer_) observer_(ops::multiplied_states(inputs, states));
  return states;
}

at::Tensor Quantizer::value(const torch::nn::Module& layer, const at::Tensor& weight) const {
  return ops::bit_weight(weight, weight_quant(layer), blend_of(layer));
}

at::Tensor Quantizer::embedding(const torch::nn::Module& layer, const at::Tensor& weight, const at::Tensor& indices,
                                int64_t padding_idx, bool scale_grad_by_freq) const {
  return ops::bit_embedding(weight, indices, weight_quant(layer), blend_of(layer), padding_idx, scale_grad_by_freq);
}

}  // namespace bitlab::nn
