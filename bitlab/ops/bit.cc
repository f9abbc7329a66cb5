// bit_linear, bit_conv and bit_weight: the operators of training.
#include <array>
#include <cmath>
#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>

#include "bitlab/ops/call_observer.h"
#include "bitlab/ops/check.h"
#include "bitlab/ops/implementations.h"
#include "bitlab/ops/layout.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The linear map of a layer: at::linear, or a convolution.
struct Product {
  std::optional<ConvWindow> window;

  const char* op() const { return window ? "bit_conv" : "bit_linear"; }
  // Dimensions of y behind its channels.
  int64_t trailing() const { return window ? static_cast<int64_t>(window->stride.size()) : 0; }
  // From which dimension on activations share a scale.
  int64_t start_dim() const { return window ? 1 : -1; }
  WeightLayout layout(const at::Tensor& weight) const {
    return {op(), weight, window && window->transposed, window ? window->groups : 1};
  }
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& weight) const {
    if (!window) return at::linear(x, weight);
    return at::convolution(x, weight, {}, window->stride, window->padding, window->dilation, window->transposed,
                           window->output_padding, window->groups);
  }
  // Gradients of x, of the weight and of a bias [N] behind the product, where they are asked for.
  std::array<at::Tensor, 3> backward(const at::Tensor& g, const at::Tensor& x, const at::Tensor& weight,
                                     std::array<bool, 3> needed) const {
    if (window) {
      auto [gx, gw, gb] =
          at::convolution_backward(g, x, weight, at::OptionalIntArrayRef(g.size(1)), window->stride, window->padding,
                                   window->dilation, window->transposed, window->output_padding, window->groups, needed);
      return {gx, gw, gb};
    }
    const at::Tensor rows = g.reshape_symint({-1, g.sym_size(-1)});
    at::Tensor gx, gw, gb;
    if (needed[0]) gx = g.matmul(weight);
    if (needed[1]) gw = rows.t().matmul(x.reshape_symint({-1, x.sym_size(-1)}));
    if (needed[2]) gb = rows.sum(0);
    return {gx, gw, gb};
  }
};

struct Settings {
  Product product;
  ternary::WeightSpec spec;
  ternary::ActKind activation;
  double blend;

  bool quantizes_x() const { return activation != ternary::ActKind::kNone; }
  // Whether the product is of integers, exact, with the contract's epilogue behind it.
  bool is_exact() const { return quantizes_x() && blend == 1 && spec.granularity != ternary::Granularity::kGroup; }
};

// Products of integers are exact in float32 below 2^24, in float64 far beyond kMaxDepth.
at::ScalarType exact_type(const c10::SymInt& depth, ternary::Method method) {
  return depth * ternary::kActMax * info(method).limit < (1 << 24) ? at::kFloat : at::kDouble;
}

// What an evaluation leaves for its gradient: integers where they do, a quarter of the memory of the floats that they stand for.
struct Operands {
  at::Tensor q, a;  // of x; undefined where activations stay float
  QuantizedWeight weight;
  at::Tensor x, latent;  // float32; may be undefined where nothing asks for them

  // What the product is of.
  at::Tensor x_value(const Settings& s) const {
    if (!s.quantizes_x()) return x;
    const at::Tensor quantized = q.to(at::kFloat).mul_(a);
    return s.blend == 1 ? quantized : x + (quantized - x) * s.blend;
  }
  at::Tensor weight_value(const Settings& s) const {
    const WeightLayout layout = s.product.layout(weight.t);
    const at::Tensor scale = layout.spread(weight.scale, s.spec), t = weight.t.to(at::kFloat);
    at::Tensor quantized;
    if (weight.scale_neg.defined()) {
      quantized = at::where(t > 0, scale, at::where(t < 0, -layout.spread(weight.scale_neg, s.spec), t));
    } else {
      quantized = t.mul_(scale);
    }
    return s.blend == 1 ? quantized : latent + (quantized - latent) * s.blend;
  }
};

void check_bias(const char* op, const c10::SymInt& rows, const OptionalTensor& bias) {
  if (!bias || !bias->defined()) return;
  require_float32(op, "bias", *bias);
  require(bias->dim() == 1 && bias->sym_size(0) == rows, ErrorCode::kShapeMismatch, "[{}] a bias [N], got {}", op,
          show(*bias));
}

void check_shapes(const Product& product, const at::Tensor& x, const at::Tensor& weight) {
  if (!product.window) {
    require(weight.dim() == 2 && x.dim() >= 1 && x.sym_size(-1) == weight.sym_size(1), ErrorCode::kShapeMismatch,
            "[bit_linear] x [..., K] and a weight [N, K], got {} and {}", show(x), show(weight));
    return;
  }
  const ConvWindow& window = *product.window;
  const bool has_batch = x.dim() == weight.dim();
  require(weight.dim() == product.trailing() + 2 && (has_batch || x.dim() == weight.dim() - 1), ErrorCode::kShapeMismatch,
          "[bit_conv] x [B, C, ...] and a weight with {} sizes of a kernel, got {} and {}", product.trailing(), show(x),
          show(weight));
  const c10::SymInt channels = window.transposed ? weight.sym_size(0) : weight.sym_size(1) * window.groups;
  require(x.sym_size(has_batch ? 1 : 0) == channels, ErrorCode::kShapeMismatch,
          "[bit_conv] x of {} channels, got {} for a weight {}", show(channels), show(x), show(weight));
}

// The scale shaped to multiply y [..., N, trailing...].
at::Tensor by_channel(const at::Tensor& scale, int64_t trailing) {
  std::vector<int64_t> channel(static_cast<size_t>(trailing + 1), 1);
  channel[0] = -1;
  return scale.view(channel);
}

struct Forward {
  Operands operands;
  at::Tensor y;

  Forward(const Settings& s, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
          const at::Tensor& learned, const at::Tensor& learned_neg, const at::Tensor& act_scale) {
    check_shapes(s.product, x, weight);
    const WeightLayout layout = s.product.layout(weight);
    check_bias(s.product.op(), layout.rows(), bias);
    if (s.quantizes_x()) {
      const auto [q, a] = quantize_activation(x, s.product.start_dim(), {s.activation, act_scale});
      operands.q = q, operands.a = a;
    } else {
      require_float32(s.product.op(), "x", x);
    }
    operands.weight =
        quantize_weight(weight, {s.spec, learned, learned_neg}, s.product.window ? &*s.product.window : nullptr);
    operands.x = x, operands.latent = weight;
    const int64_t trailing = s.product.trailing();
    if (s.is_exact()) {
      const at::ScalarType type = exact_type(layout.depth(), s.spec.method);
      y = contract(s, operands.q.to(type), operands.weight.t.to(type), trailing);
    } else {
      y = s.product(operands.x_value(s), operands.weight_value(s));
    }
    if (bias && bias->defined()) y.add_(by_channel(*bias, trailing));
  }

 private:
  // The contract's epilogue on exact sums, but for the bias.
  at::Tensor contract(const Settings& s, const at::Tensor& q, const at::Tensor& t, int64_t trailing) const {
    const at::Tensor &a = operands.a, scale = by_channel(operands.weight.scale, trailing);
    const at::Tensor sum = s.product(q, t);
    if (!operands.weight.scale_neg.defined()) return sum.to(at::kFloat).mul_(a).mul_(scale);
    const at::Tensor magnitude = s.product(q, t.abs());  // the sum over t = +1 and that over t = -1, of q
    const at::Tensor plus = ((magnitude + sum) / 2).to(at::kFloat), minus = ((magnitude - sum) / 2).to(at::kFloat);
    return plus.mul_(a).mul_(scale).sub_(minus.mul_(a).mul_(by_channel(operands.weight.scale_neg, trailing)));
  }
};

// --- gradients

// What of the gradient at the quantized weight reaches the latent one; undefined: all.
at::Tensor weight_slope(const Settings& s, const Operands& o) {
  const WeightLayout layout = s.product.layout(o.weight.t);
  const auto spread = [&](const at::Tensor& scale) { return layout.spread(scale, s.spec); };
  if (s.spec.method == ternary::Method::kTtq)
    return at::where(o.weight.t > 0, spread(o.weight.scale), at::where(o.weight.t < 0, spread(o.weight.scale_neg), 1.0));
  if (s.spec.method == ternary::Method::kLsq) return (o.latent.abs() < spread(o.weight.scale)).to(at::kFloat);
  if (s.spec.gradient == ternary::Gradient::kStraightThrough) return {};
  const at::Tensor threshold = spread(o.weight.threshold);
  if (s.spec.gradient == ternary::Gradient::kClipped) return (o.latent.abs() <= 2 * threshold).to(at::kFloat);
  const at::Tensor unit = threshold.clamp_min(1e-30);  // where a threshold is zero, everything is far above it
  const at::Tensor u = o.latent / unit, up = at::tanh(2 * (u - 1)), down = at::tanh(2 * (u + 1));
  return spread(o.weight.scale) / unit * ((1 - up * up) + (1 - down * down));
}

// g scaled by a slope that holds for the quantized part.
at::Tensor blended(const at::Tensor& g, const at::Tensor& slope, double blend) {
  if (!slope.defined()) return g;
  return blend == 1 ? g * slope : g * (slope * blend + (1 - blend));
}

// Gradients of the learned scales, from that of the weight's value.
std::pair<at::Tensor, at::Tensor> scale_gradients(const Settings& s, const Operands& o, const at::Tensor& learned,
                                                  const at::Tensor& g) {
  const WeightLayout layout = s.product.layout(o.weight.t);
  const at::Tensor t = o.weight.t.to(at::kFloat), own = g * s.blend;
  if (s.spec.method == ternary::Method::kTtq)
    return {layout.sum_to_scale(own * (t > 0), s.spec), layout.sum_to_scale(-(own * (t < 0)), s.spec)};
  const at::Tensor ratio = o.latent / layout.spread(o.weight.scale, s.spec);
  const at::Tensor inside = (ratio.abs() < 1).to(at::kFloat);
  const at::Tensor sums = layout.sum_to_scale(own * (t - ratio * inside), s.spec);
  const double shared = static_cast<double>(o.latent.numel()) / static_cast<double>(sums.numel());
  return {sums * learned.sign() / std::sqrt(shared), {}};
}

// Static activations: the gradient of x stops where q is clamped, and the step learns (LSQ, eq. 3 and section 2.2).
std::pair<at::Tensor, at::Tensor> static_gradients(const Settings& s, const Operands& o, const at::Tensor& act_scale,
                                                   const at::Tensor& g, bool needs_step) {
  const double limit = act_limit(s.activation);
  const at::Tensor ratio = o.x / act_scale, inside = (ratio.abs() < limit).to(at::kFloat);
  at::Tensor step;
  if (needs_step)
    step = ((g * s.blend) * (o.q.to(at::kFloat) - ratio * inside)).sum().reshape({1}) /
           std::sqrt(static_cast<double>(o.x.numel()) * limit);
  return {blended(g, inside, s.blend), step};
}

// The order of the arguments that have gradients.
enum Argument : size_t { kX, kWeight, kBias, kLearned, kLearnedNeg, kActScale, kTensors };

// Every argument of a Function must be a tensor, so that the gradients' places are those of Argument: what is left out is one of shape [0].
at::Tensor or_nothing(const OptionalTensor& tensor) {
  static const at::Tensor nothing = at::empty({0});
  return tensor && tensor->defined() ? *tensor : nothing;
}
at::Tensor unless_nothing(const at::Tensor& tensor) {
  return tensor.dim() == 1 && tensor.sym_size(0) == 0 ? at::Tensor() : tensor;
}

// Settings as an AutogradContext keeps them.
struct Kept : torch::CustomClassHolder {
  explicit Kept(std::shared_ptr<const Settings> s) : settings(std::move(s)) {}
  std::shared_ptr<const Settings> settings;
};

struct BitProduct : torch::autograd::Function<BitProduct> {
  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight, const Variable& bias_,
                          const Variable& learned_, const Variable& learned_neg_, const Variable& act_scale_,
                          const std::shared_ptr<const Settings>& settings) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Settings& s = *settings;
    const at::Tensor bias = unless_nothing(bias_), learned = unless_nothing(learned_),
                     act_scale = unless_nothing(act_scale_);
    Forward run(s, x, weight, bias, learned, unless_nothing(learned_neg_), act_scale);
    const Operands& o = run.operands;
    const bool needs_x_value = !s.quantizes_x() || s.blend != 1 || is_static(s.activation);
    const bool needs_latent =
        s.blend != 1 || s.spec.gradient != ternary::Gradient::kStraightThrough || s.spec.method == ternary::Method::kLsq;
    ctx->saved_data["settings"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(settings));
    ctx->save_for_backward({o.q, o.a, o.weight.t, o.weight.scale, o.weight.scale_neg, o.weight.threshold,
                            needs_x_value ? x : at::Tensor(), needs_latent ? weight : at::Tensor(), learned, act_scale});
    return run.y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list outputs) {
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(ctx->saved_data["settings"].toCapsule());
    const Settings& s = *kept->settings;
    const auto saved = ctx->get_saved_variables();
    const Operands o{saved[0], saved[1], {saved[2], saved[3], saved[4], saved[5]}, saved[6], saved[7]};
    const at::Tensor &learned = saved[8], &act_scale = saved[9], &g = outputs[0];
    variable_list list(kTensors + 1);
    const bool learns_scale = learned.defined() && (ctx->needs_input_grad(kLearned) || ctx->needs_input_grad(kLearnedNeg));
    const bool learns_step = act_scale.defined() && ctx->needs_input_grad(kActScale);
    auto [gx, gw, gb] = s.product.backward(g, o.x_value(s), o.weight_value(s),
                                           {ctx->needs_input_grad(kX) || learns_step,
                                            ctx->needs_input_grad(kWeight) || learns_scale, ctx->needs_input_grad(kBias)});
    if (learns_scale) std::tie(list[kLearned], list[kLearnedNeg]) = scale_gradients(s, o, learned, gw);
    if (ctx->needs_input_grad(kWeight)) list[kWeight] = blended(gw, weight_slope(s, o), s.blend);
    if (gx.defined() && is_static(s.activation))
      std::tie(gx, list[kActScale]) = static_gradients(s, o, act_scale, gx, learns_step);
    if (ctx->needs_input_grad(kX)) list[kX] = gx;
    list[kBias] = gb;
    return list;
  }
};

Settings settings_of(Product product, std::string_view spec, std::string_view activation, double blend) {
  require(blend >= 0 && blend <= 1, ErrorCode::kInvalidArgument, "[{}] a blend from 0 to 1, got {}", product.op(), blend);
  return {std::move(product), ternary::parse_weight_spec(spec).value(), ternary::parse_act_kind(activation).value(), blend};
}

Product convolution(at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                    at::IntArrayRef output_padding, int64_t groups) {
  return {ConvWindow{stride.vec(), padding.vec(), dilation.vec(), transposed,
                     output_padding.empty() ? std::vector<int64_t>(stride.size(), 0) : output_padding.vec(), groups}};
}

// LibTorch's convention for samples without a batch.
template <class Convolve>
at::Tensor with_batch(const at::Tensor& x, size_t dimensions, Convolve convolve) {
  return x.dim() == static_cast<int64_t>(dimensions) + 1 ? convolve(x.unsqueeze(0)).squeeze(0) : convolve(x);
}

at::Tensor tensor_of(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }

bool needs_gradient(std::initializer_list<at::Tensor> tensors) {
  return at::GradMode::is_enabled() &&
         std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& t) { return t.defined() && t.requires_grad(); });
}

at::Tensor apply(Settings settings, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
                 const OptionalTensor& learned, const OptionalTensor& learned_neg, const OptionalTensor& act_scale) {
  return BitProduct::apply(x, weight, or_nothing(bias), or_nothing(learned), or_nothing(learned_neg), or_nothing(act_scale),
                           std::make_shared<const Settings>(std::move(settings)));
}

// The value of a weight alone.
struct WeightForward {
  Operands operands;
  at::Tensor value;

  WeightForward(const Settings& s, const at::Tensor& weight, const at::Tensor& learned, const at::Tensor& learned_neg) {
    operands.weight = quantize_weight(weight, {s.spec, learned, learned_neg});
    operands.latent = weight;
    value = operands.weight_value(s);
  }
};

struct BitWeight : torch::autograd::Function<BitWeight> {
  static Variable forward(AutogradContext* ctx, const Variable& weight, const Variable& learned_,
                          const Variable& learned_neg_, const std::shared_ptr<const Settings>& settings) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const at::Tensor learned = unless_nothing(learned_);
    const WeightForward run(*settings, weight, learned, unless_nothing(learned_neg_));
    const QuantizedWeight& w = run.operands.weight;
    ctx->saved_data["settings"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(settings));
    ctx->save_for_backward({w.t, w.scale, w.scale_neg, w.threshold, weight, learned});
    return run.value;
  }

  static variable_list backward(AutogradContext* ctx, variable_list outputs) {
    const auto kept = c10::static_intrusive_pointer_cast<Kept>(ctx->saved_data["settings"].toCapsule());
    const Settings& s = *kept->settings;
    const auto saved = ctx->get_saved_variables();
    const Operands o{{}, {}, {saved[0], saved[1], saved[2], saved[3]}, {}, saved[4]};
    variable_list list(4);  // weight, learned, learned_neg, settings
    if (ctx->needs_input_grad(0)) list[0] = blended(outputs[0], weight_slope(s, o), s.blend);
    if (saved[5].defined()) std::tie(list[1], list[2]) = scale_gradients(s, o, saved[5], outputs[0]);
    return list;
  }
};

Settings weight_settings(std::string_view spec, double blend) {
  return settings_of({}, spec, name(ternary::ActKind::kNone), blend);
}

// f of a weight with rows; a vector is one.
template <class F>
at::Tensor with_rows(const at::Tensor& weight, F f) {
  return weight.dim() == 1 ? f(weight.unsqueeze(0)).squeeze(0) : f(weight);
}

// Whether the operators of training compute on packed codes, as evaluation does. Their gradient needs the latent weights.
bool runs_on_codes(double blend) { return blend == 1 && !at::GradMode::is_enabled(); }

std::shared_ptr<const PackedWeight> codes_of(const at::Tensor& weight, std::string_view spec, const OptionalTensor& learned,
                                             const OptionalTensor& learned_neg, const ConvWindow* window = nullptr) {
  notify_rewritten();
  return cached_codes(weight, {ternary::parse_weight_spec(spec).value(), tensor_of(learned), tensor_of(learned_neg)},
                      window);
}

}  // namespace

namespace cpu {

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view spec,
                      std::string_view activation, const OptionalTensor& learned, const OptionalTensor& learned_neg,
                      const OptionalTensor& act_scale, double blend) {
  if (!runs_on_codes(blend))
    return any_device::bit_linear(x, weight, bias, spec, activation, learned, learned_neg, act_scale, blend);
  check_shapes({}, x, weight);
  return ops::ternary_linear(x, *codes_of(weight, spec, learned, learned_neg), bias,
                             {ternary::parse_act_kind(activation).value(), tensor_of(act_scale)});
}

at::Tensor bit_conv(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
                    int64_t groups, std::string_view spec, std::string_view activation, const OptionalTensor& learned,
                    const OptionalTensor& learned_neg, const OptionalTensor& act_scale, double blend) {
  if (!runs_on_codes(blend))
    return any_device::bit_conv(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups, spec,
                                activation, learned, learned_neg, act_scale, blend);
  const Product product = convolution(stride, padding, dilation, transposed, output_padding, groups);
  check_shapes(product, x, weight);
  const auto codes = codes_of(weight, spec, learned, learned_neg, &*product.window);
  return ops::ternary_conv(x, *codes, bias, weight.sizes().slice(2), *product.window,
                           {ternary::parse_act_kind(activation).value(), tensor_of(act_scale)});
}

}  // namespace cpu

namespace any_device {

at::Tensor bit_embedding(const at::Tensor& weight, const at::Tensor& indices, std::string_view spec,
                         const OptionalTensor& learned, const OptionalTensor& learned_neg, double blend, int64_t padding_idx,
                         bool scale_grad_by_freq) {
  require(weight.dim() == 2, ErrorCode::kShapeMismatch, "[bit_embedding] a table [N, depth], got {}", show(weight));
  if (runs_on_codes(blend) && weight.is_cpu())
    return ops::ternary_embedding(*codes_of(weight, spec, learned, learned_neg), indices, weight.size(1));
  const auto parsed = ternary::parse_weight_spec(spec).value();
  const auto value = [&](const at::Tensor& w) { return redispatch::bit_weight(w, spec, learned, learned_neg, blend); };
  const bool own_scales = parsed.granularity != ternary::Granularity::kTensor && !(learned && learned->defined());
  if (!own_scales) return at::embedding(value(weight), indices, padding_idx, scale_grad_by_freq);
  // Rows that do not depend on others are quantized where they are read alone.
  const at::Tensor rows = at::embedding(weight, indices.flatten(), padding_idx, scale_grad_by_freq);
  std::vector<int64_t> shape = indices.sizes().vec();
  shape.push_back(weight.size(1));
  return rows.numel() == 0 ? rows.view(shape) : value(rows).view(shape);
}

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view spec,
                      std::string_view activation, const OptionalTensor& learned, const OptionalTensor& learned_neg,
                      const OptionalTensor& act_scale, double blend) {
  return Forward(settings_of({}, spec, activation, blend), x, weight, bias, tensor_of(learned), tensor_of(learned_neg),
                 tensor_of(act_scale))
      .y;
}

at::Tensor bit_conv(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
                    int64_t groups, std::string_view spec, std::string_view activation, const OptionalTensor& learned,
                    const OptionalTensor& learned_neg, const OptionalTensor& act_scale, double blend) {
  const Settings settings =
      settings_of(convolution(stride, padding, dilation, transposed, output_padding, groups), spec, activation, blend);
  return with_batch(x, stride.size(), [&](const at::Tensor& batch) {
    return Forward(settings, batch, weight, bias, tensor_of(learned), tensor_of(learned_neg), tensor_of(act_scale)).y;
  });
}

at::Tensor bit_weight(const at::Tensor& weight, std::string_view spec, const OptionalTensor& learned,
                      const OptionalTensor& learned_neg, double blend) {
  const Settings settings = weight_settings(spec, blend);
  return with_rows(weight, [&](const at::Tensor& matrix) {
    return WeightForward(settings, matrix, tensor_of(learned), tensor_of(learned_neg)).value;
  });
}

}  // namespace any_device

namespace autograd {

at::Tensor bit_weight(const at::Tensor& weight, std::string_view spec, const OptionalTensor& learned,
                      const OptionalTensor& learned_neg, double blend) {
  if (!needs_gradient({weight, tensor_of(learned), tensor_of(learned_neg)})) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return redispatch::bit_weight(weight, spec, learned, learned_neg, blend);
  }
  const auto settings = std::make_shared<const Settings>(weight_settings(spec, blend));
  return with_rows(weight, [&](const at::Tensor& matrix) {
    return BitWeight::apply(matrix, or_nothing(learned), or_nothing(learned_neg), settings);
  });
}

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view spec,
                      std::string_view activation, const OptionalTensor& learned, const OptionalTensor& learned_neg,
                      const OptionalTensor& act_scale, double blend) {
  if (!needs_gradient({x, weight, tensor_of(bias), tensor_of(learned), tensor_of(learned_neg), tensor_of(act_scale)})) {
    const at::AutoDispatchBelowADInplaceOrView below;
    // Without the dispatcher, so that observers see one call that is replaced.
    if (x.is_cpu()) return cpu::bit_linear(x, weight, bias, spec, activation, learned, learned_neg, act_scale, blend);
    return redispatch::bit_linear(x, weight, bias, spec, activation, learned, learned_neg, act_scale, blend);
  }
  return apply(settings_of({}, spec, activation, blend), x, weight, bias, learned, learned_neg, act_scale);
}

at::Tensor bit_conv(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
                    int64_t groups, std::string_view spec, std::string_view activation, const OptionalTensor& learned,
                    const OptionalTensor& learned_neg, const OptionalTensor& act_scale, double blend) {
  if (!needs_gradient({x, weight, tensor_of(bias), tensor_of(learned), tensor_of(learned_neg), tensor_of(act_scale)})) {
    const at::AutoDispatchBelowADInplaceOrView below;
    if (x.is_cpu())
      return cpu::bit_conv(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups, spec, activation,
                           learned, learned_neg, act_scale, blend);
    return redispatch::bit_conv(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups, spec,
                                activation, learned, learned_neg, act_scale, blend);
  }
  const Settings settings =
      settings_of(convolution(stride, padding, dilation, transposed, output_padding, groups), spec, activation, blend);
  return with_batch(x, stride.size(), [&](const at::Tensor& batch) {
    return apply(settings, batch, weight, bias, learned, learned_neg, act_scale);
  });
}

}  // namespace autograd
}  // namespace bitlab::ops
