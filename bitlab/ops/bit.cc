// bit_linear, bit_conv, bit_recurrent, bit_weight and bit_embedding: the operators of training.
#include <array>
#include <memory>
#include <optional>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "bitlab/ops/internal/bit_operands.h"
#include "bitlab/ops/internal/call_observer.h"
#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/cpu.h"
#include "bitlab/ops/internal/cuda.h"
#include "bitlab/ops/internal/implementations.h"
#include "bitlab/ops/internal/recurrent.h"
#include "bitlab/ops/internal/spec_cache.h"
#include "bitlab/ops/internal/traced.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

void check_bias(const char* op, const c10::SymInt& rows, const OptionalTensor& bias, at::Device device) {
  if (!given(bias)) return;
  require_float32(op, "bias", *bias);
  require_device(op, "bias", *bias, device);
  require(bias->dim() == 1 && bias->sym_size(0) == rows, ErrorCode::kShapeMismatch, "[{}] a bias [N], got {}", op,
          show(*bias));
}

void check_operands(const Product& product, const at::Tensor& x, const at::Tensor& weight) {
  require_device(product.op(), "weight", weight, x.device());
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

// The scale [N] shaped to multiply y [..., N, trailing...].
at::Tensor by_channel(const at::Tensor& scale, int64_t trailing) {
  if (trailing == 0) return scale;
  std::vector<int64_t> channel(static_cast<size_t>(trailing + 1), 1);
  channel[0] = -1;
  return scale.view(channel);
}

// The codes of a weight, by the text of its spec, as operators take it.
QuantizedWeight codes_by(const Settings& s, const at::Tensor& weight, at::TensorList learned) {
  const auto& window = s.product.window;
  auto [t, scale, scale_neg, threshold] =
      redispatch::quantize_weight(weight, s.text, learned, window && window->transposed, window ? window->groups : 1);
  if (!info(s.spec.method).asymmetric) scale_neg = at::Tensor();  // it has no values
  return {std::move(t), std::move(scale), std::move(scale_neg), std::move(threshold)};
}

// x where activations stay float.
at::Tensor float_input(const Settings& s, const at::Tensor& x) {
  const at::Tensor floats = s.type == at::kFloat ? x : in_type(x, at::kFloat);
  require_float32(s.product.op(), "x", floats);
  return floats;
}

struct Forward {
  Operands operands;
  at::Tensor y;

  Forward(const Settings& s, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
          at::TensorList learned, const at::Tensor& act_scale) {
    check_operands(s.product, x, weight);
    const WeightLayout layout = s.product.layout(weight);
    check_bias(s.product.op(), layout.rows(), bias, x.device());
    if (s.quantizes_x()) {
      const auto [q, a] = quantize_activation(x, s.product.start_dim(), {s.activation, act_scale});
      operands.q = q, operands.a = a;
      operands.x = x;
    } else {
      operands.x = float_input(s, x);
    }
    operands.weight = codes_by(s, weight, learned);
    operands.latent = weight;
    if (auto whole = contract(s, bias)) {
      y = *std::move(whole);
    } else {
      const int64_t trailing = s.product.trailing();
      y = s.is_exact() ? finished(IntegerProduct(s.product, x, layout.depth(), s.spec.method), trailing)
                       : s.product(operands.x_value(s), operands.weight_value(s));
      if (given(bias)) y.add_(by_channel(*bias, trailing));
      y = in_type(y, s.type);
    }
    if (s.product.window) y = y.contiguous(conv_format(x, s.product.window->stride.size()));
  }

 private:
  // The contract whole, where something does it at once.
  std::optional<at::Tensor> contract(const Settings& s, const OptionalTensor& bias) const {
    if (!s.is_exact()) return {};
    auto y = cpu::contract(s, operands, bias);
    if (y) return in_type(*y, s.type);
    if (!cuda::serves(operands.q) || operands.q.numel() == 0 || operands.weight.t.numel() == 0) return {};
    return cuda::contract(s, cuda::layer_codes(s, operands.weight), operands, operands.weight.t.sizes(), bias);
  }

  // The contract's epilogue on exact sums, but for the bias.
  at::Tensor finished(const IntegerProduct& product, int64_t trailing) const {
    const at::Tensor &a = operands.a, scale = by_channel(operands.weight.scale, trailing);
    const at::Tensor q = product.operand(operands.q), t = product.operand(operands.weight.t), sum = product(q, t);
    if (!operands.weight.scale_neg.defined()) return in_type(sum, at::kFloat).mul_(a).mul_(scale);
    const at::Tensor magnitude = product(q, t.abs());  // the sum over t = +1 and that over t = -1, of q
    const at::Tensor plus = in_type((magnitude + sum) / 2, at::kFloat), minus = in_type((magnitude - sum) / 2, at::kFloat);
    return plus.mul_(a).mul_(scale).sub_(minus.mul_(a).mul_(by_channel(operands.weight.scale_neg, trailing)));
  }
};

// The order of the arguments that have gradients; what a method learns comes last.
enum Argument : size_t { kX, kWeight, kBias, kActScale, kLearned };

// Every argument of a Function must be a tensor, so that the gradients' places are those of Argument: what is left out is one of shape [0].
at::Tensor or_nothing(const OptionalTensor& tensor) {
  static const at::Tensor nothing = at::empty({0});
  return given(tensor) ? *tensor : nothing;
}
at::Tensor unless_nothing(const at::Tensor& tensor) {
  return tensor.dim() == 1 && tensor.sym_size(0) == 0 ? at::Tensor() : tensor;
}

// What an AutogradContext keeps beside tensors.
struct Kept : torch::CustomClassHolder {
  Kept(std::shared_ptr<const Settings> s, at::ScalarType t, at::ScalarType x) : settings(std::move(s)), type(t), x_type(x) {}
  std::shared_ptr<const Settings> settings;
  at::ScalarType type;    // of the gradients' products
  at::ScalarType x_type;  // of x, and so of its gradient
};

void keep(AutogradContext* ctx, const std::shared_ptr<const Settings>& settings, at::ScalarType type = at::kFloat,
          at::ScalarType x_type = at::kFloat) {
  ctx->saved_data["settings"] = c10::IValue::make_capsule(c10::make_intrusive<Kept>(settings, type, x_type));
}

c10::intrusive_ptr<Kept> kept(AutogradContext* ctx) {
  return c10::static_intrusive_pointer_cast<Kept>(ctx->saved_data["settings"].toCapsule());
}

// For a backward pass that nobody differentiates: its operators skip autograd.
class BelowAutograd {
 public:
  BelowAutograd() {
    if (!at::GradMode::is_enabled()) below_.emplace();
  }

 private:
  std::optional<at::AutoDispatchBelowADInplaceOrView> below_;
};

// Whether one of the learned parameters, which begin at an edge of the graph, wants a gradient.
bool learns_any(AutogradContext* ctx, size_t first, size_t count) {
  for (size_t i = first; i < first + count; ++i)
    if (ctx->needs_input_grad(i)) return true;
  return false;
}

struct BitProduct : torch::autograd::Function<BitProduct> {
  static constexpr size_t kSaved = 9;  // in front of the learned parameters

  static Variable forward(AutogradContext* ctx, const Variable& x, const Variable& weight, const Variable& bias_,
                          const Variable& act_scale_, at::TensorList learned,
                          const std::shared_ptr<const Settings>& settings) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const Settings& s = *settings;
    const at::Tensor bias = unless_nothing(bias_), act_scale = unless_nothing(act_scale_);
    Forward run(s, x, weight, bias, learned, act_scale);
    const Operands& o = run.operands;
    const bool needs_x_value = !s.quantizes_x() || s.blend != 1 || is_static(s.activation);
    keep(ctx, settings, gradient_type(x, s.type), x.scalar_type());
    variable_list saved{o.q,
                        o.a,
                        o.weight.t,
                        o.weight.scale,
                        o.weight.scale_neg,
                        o.weight.threshold,
                        needs_x_value ? o.x : at::Tensor(),
                        s.reads_latent() ? weight : at::Tensor(),
                        act_scale};
    saved.insert(saved.end(), learned.begin(), learned.end());
    ctx->save_for_backward(std::move(saved));
    return run.y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list outputs) {
    // A backward pass under autocast is the same one.
    const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const BelowAutograd below;
    const auto data = kept(ctx);
    const Settings& s = *data->settings;
    const auto saved = ctx->get_saved_variables();
    const Operands o{saved[0], saved[1], {saved[2], saved[3], saved[4], saved[5]}, saved[6], saved[7]};
    const at::Tensor &act_scale = saved[8], &g = outputs[0];
    const at::TensorList learned = at::TensorList(saved).slice(kSaved);
    variable_list list(kLearned + learned.size() + 1);
    const bool learns = learns_any(ctx, kLearned, learned.size());
    const bool learns_step = act_scale.defined() && ctx->needs_input_grad(kActScale);
    const at::ScalarType type = data->type;
    auto [gx, gw, gb] = s.product.backward(
        g, o.x_value(s, type), o.weight_value(s, type),
        {ctx->needs_input_grad(kX) || learns_step, ctx->needs_input_grad(kWeight) || learns, ctx->needs_input_grad(kBias)});
    if (learns) std::ranges::copy(learned_gradients(s, o, learned, gw), list.begin() + kLearned);
    if (ctx->needs_input_grad(kWeight)) list[kWeight] = weight_gradient(s, o, learned, gw);
    if (gx.defined() && is_static(s.activation))
      std::tie(gx, list[kActScale]) = static_gradients(s, o, act_scale, gx, learns_step);
    if (ctx->needs_input_grad(kX)) list[kX] = in_type(gx, data->x_type);
    list[kBias] = gb;
    return list;
  }
};

Settings settings_of(std::optional<ConvWindow> window, std::string_view spec, std::string_view activation, double blend,
                     at::ScalarType type = at::kFloat) {
  Product product{std::move(window)};
  require(blend >= 0 && blend <= 1, ErrorCode::kInvalidArgument, "[{}] a blend from 0 to 1, got {}", product.op(), blend);
  return {std::move(product), spec_of(spec), ternary::parse_act_kind(activation).value(), blend, std::string(spec), type};
}

at::ScalarType result_type(const BitProductCall& c) {
  const at::ScalarType type = c.dtype.value_or(at::kFloat);
  require(type == at::kFloat || type == at::kBFloat16 || type == at::kHalf, ErrorCode::kTypeMismatch,
          "[{}] a result in float32, bfloat16 or float16, got {} (name=dtype)", c.window ? "bit_conv" : "bit_linear",
          c10::toString(type));
  return type;
}

Settings settings_of(const BitProductCall& c) {
  return settings_of(c.window, c.spec, c.activation, c.blend, result_type(c));
}

Settings weight_settings(std::string_view spec, double blend) {
  return settings_of(std::nullopt, spec, name(ternary::ActKind::kNone), blend);
}

// f of x with a batch: convolutions take LibTorch's samples without one, too.
template <class F>
at::Tensor with_batch(const BitProductCall& c, F f) {
  const bool is_sample = c.window && c.x.dim() == static_cast<int64_t>(c.window->stride.size()) + 1;
  return is_sample ? f(c.x.unsqueeze(0)).squeeze(0).contiguous() : f(c.x);  // as conv_format() says
}

// Forward-mode differentiation, which would take what these operators do not give for zero, is refused.
bool needs_gradient(const char* op, std::initializer_list<at::Tensor> tensors, at::TensorList learned) {
  const auto has_tangent = [](const at::Tensor& t) { return t.defined() && t._fw_grad(/*level=*/0).defined(); };
  require(std::none_of(tensors.begin(), tensors.end(), has_tangent) && std::ranges::none_of(learned, has_tangent),
          ErrorCode::kUnsupported, "[{}] gradients of a backward pass, got forward-mode differentiation", op);
  const auto needs = [](const at::Tensor& t) { return t.defined() && t.requires_grad(); };
  return at::GradMode::is_enabled() &&
         (std::any_of(tensors.begin(), tensors.end(), needs) || std::any_of(learned.begin(), learned.end(), needs));
}

// The value of a weight alone.
struct WeightForward {
  Operands operands;
  at::Tensor value;

  WeightForward(const Settings& s, const at::Tensor& weight, at::TensorList learned) {
    operands.weight = codes_by(s, weight, learned);
    operands.latent = weight;
    value = operands.weight_value(s);
  }
};

struct BitWeight : torch::autograd::Function<BitWeight> {
  static constexpr size_t kSaved = 5;  // in front of the learned parameters

  static Variable forward(AutogradContext* ctx, const Variable& weight, at::TensorList learned,
                          const std::shared_ptr<const Settings>& settings) {
    const at::AutoDispatchBelowADInplaceOrView below;
    const WeightForward run(*settings, weight, learned);
    const QuantizedWeight& w = run.operands.weight;
    keep(ctx, settings);
    variable_list saved{w.t, w.scale, w.scale_neg, w.threshold, settings->reads_latent() ? weight : at::Tensor()};
    saved.insert(saved.end(), learned.begin(), learned.end());
    ctx->save_for_backward(std::move(saved));
    return run.value;
  }

  static variable_list backward(AutogradContext* ctx, variable_list outputs) {
    const BelowAutograd below;
    const auto settings = kept(ctx)->settings;
    const auto saved = ctx->get_saved_variables();
    const Operands o{{}, {}, {saved[0], saved[1], saved[2], saved[3]}, {}, saved[4]};
    const at::TensorList learned = at::TensorList(saved).slice(kSaved);
    variable_list list(1 + learned.size() + 1);  // weight, what is learned, settings
    if (ctx->needs_input_grad(0)) list[0] = weight_gradient(*settings, o, learned, outputs[0]);
    if (learns_any(ctx, 1, learned.size()))
      std::ranges::copy(learned_gradients(*settings, o, learned, outputs[0]), list.begin() + 1);
    return list;
  }
};

// f of a weight with rows; a vector is one.
template <class F>
at::Tensor with_rows(const at::Tensor& weight, F f) {
  return weight.dim() == 1 ? f(weight.unsqueeze(0)).squeeze(0) : f(weight);
}

// Whether the operators of training compute on packed codes, as evaluation does. Their gradient needs the latent weights, and what a draw makes is
// not seen again.
bool runs_on_codes(std::string_view spec, double blend) {
  return blend == 1 && !at::GradMode::is_enabled() && spec_of(spec).draw == 0;
}

std::shared_ptr<const PackedWeight> codes_of(const at::Tensor& weight, std::string_view spec, at::TensorList learned,
                                             const ConvWindow* window = nullptr) {
  notify_rewritten();
  return cached_codes(weight, {spec_of(spec), learned.vec()}, window);
}

// As a value that may be traced: where nothing needs a gradient, a trace keeps the operator whole, and runs it where gradients are off.
template <class F>
at::Tensor whole(F redispatch) {
  const at::NoGradGuard no_grad;
  return redispatch();
}

// Whether rows have scales of their own that do not depend on other rows, nor codes on their place in the table.
bool has_own_rows(const ternary::WeightSpec& spec) {
  return spec.granularity != ternary::Granularity::kTensor && !learns(spec.method) && spec.draw == 0;
}

}  // namespace

namespace cpu {

at::Tensor bit_product(const BitProductCall& c) {
  if (!runs_on_codes(c.spec, c.blend)) return any_device::bit_product(c);
  check_operands({c.window}, c.x, c.weight);
  const ConvWindow* window = c.window ? &*c.window : nullptr;
  const auto codes = codes_of(c.weight, c.spec, c.learned, window);
  const ActQuant activation{ternary::parse_act_kind(c.activation).value(), tensor_of(c.act_scale)};
  return in_type(window == nullptr ? ops::ternary_linear(c.x, *codes, c.bias, activation)
                                   : ops::ternary_conv(c.x, *codes, c.bias, c.weight.sizes().slice(2), *window, activation),
                 result_type(c));
}

ThreeTensors bit_recurrent(const BitRecurrentCall& c) {
  if (!runs_on_codes(c.spec, c.blend)) return any_device::bit_recurrent(c);
  check_recurrent_weight(c);
  const auto codes = codes_of(c.weight, c.spec, c.learned);
  return redispatch::ternary_recurrent(c.x, codes->codes, codes->scale, optional(codes->scale_neg), c.bias, c.h0, c.c0,
                                       c.act_scale, c.cell, c.reverse, c.activation, codes->group);
}

}  // namespace cpu

namespace cuda {

at::Tensor bit_product(const BitProductCall& c) {
  const Settings s = settings_of(c);
  const bool has_values = c.x.numel() > 0 && c.weight.numel() > 0;
  if (!runs_on_codes(c.spec, c.blend) || !evaluates(s) || !serves(c.x) || !has_values) return any_device::bit_product(c);
  return with_batch(c, [&](const at::Tensor& x) {
    check_operands(s.product, x, c.weight);
    check_bias(s.product.op(), s.product.layout(c.weight).rows(), c.bias, x.device());
    const auto codes = kept_codes(s, c.weight, c.learned, [&] { return codes_by(s, c.weight, c.learned); });
    Operands o;
    o.x = s.quantizes_x() ? x : float_input(s, x);
    if (s.quantizes_x()) {
      const auto [q, a] = ops::quantize_activation(x, s.product.start_dim(), {s.activation, tensor_of(c.act_scale)});
      o.q = q, o.a = a;
    }
    return contract(s, *codes, o, c.weight.sizes(), c.bias);
  });
}

}  // namespace cuda

namespace any_device {

at::Tensor bit_embedding(const at::Tensor& weight, const at::Tensor& indices, std::string_view spec, at::TensorList learned,
                         double blend, int64_t padding_idx, bool scale_grad_by_freq) {
  require(weight.dim() == 2, ErrorCode::kShapeMismatch, "[bit_embedding] a table [N, depth], got {}", show(weight));
  if (runs_on_codes(spec, blend) && weight.is_cpu())
    return ops::ternary_embedding(*codes_of(weight, spec, learned), indices, weight.size(1));
  const auto value = [&](const at::Tensor& w) { return redispatch::bit_weight(w, spec, learned, blend); };
  if (!has_own_rows(spec_of(spec))) return at::embedding(value(weight), indices, padding_idx, scale_grad_by_freq);
  // Rows that do not depend on others are quantized where they are read alone.
  const at::Tensor rows = at::embedding(weight, indices.flatten(), padding_idx, scale_grad_by_freq);
  c10::SymDimVector shape(indices.sym_sizes().begin(), indices.sym_sizes().end());
  shape.push_back(weight.sym_size(1));
  return (rows.sym_numel() == 0 ? rows : value(rows)).view_symint(shape);
}

at::Tensor bit_product(const BitProductCall& c) {
  const Settings settings = settings_of(c);
  return with_batch(c, [&](const at::Tensor& batch) {
    return Forward(settings, batch, c.weight, c.bias, c.learned, tensor_of(c.act_scale)).y;
  });
}

at::Tensor bit_weight(const at::Tensor& weight, std::string_view spec, at::TensorList learned, double blend) {
  const Settings settings = weight_settings(spec, blend);
  return with_rows(weight, [&](const at::Tensor& matrix) { return WeightForward(settings, matrix, learned).value; });
}

}  // namespace any_device

namespace meta {

at::Tensor bit_product(const BitProductCall& c) {
  require(!c.window || c.weight.dim() >= 3, ErrorCode::kShapeMismatch, "[bit_conv] a weight [N, C, kernel...], got {}",
          show(c.weight));
  if (!runs_on_codes(c.spec, c.blend)) return any_device::bit_product(c);
  const ConvWindow window = c.window.value_or(ConvWindow{});
  const auto [codes, scale, scale_neg] = meta::ternary_pack(c.weight, c.spec, c.learned, window.transposed, window.groups);
  const OptionalTensor second = scale_neg.sym_numel() == 0 ? OptionalTensor() : scale_neg;
  const int64_t group = scale.dim() == 2 ? spec_of(c.spec).group : 0;
  const at::Tensor x = widened(c.x);
  return in_type(c.window ? meta::ternary_conv(x, codes, scale, second, c.bias, c.act_scale, c.weight.sizes().slice(2),
                                               window.stride, window.padding, window.dilation, window.transposed,
                                               window.output_padding, window.groups, c.activation, group)
                          : meta::ternary_linear(x, codes, scale, second, c.bias, c.act_scale, c.activation, group),
                 result_type(c));
}

ThreeTensors bit_recurrent(const BitRecurrentCall& c) {
  if (!runs_on_codes(c.spec, c.blend)) return any_device::bit_recurrent(c);
  check_recurrent_weight(c);
  spec_of(c.spec);
  return recurrent_outputs("bit_recurrent", {c.x, c.weight.sym_size(0), c.h0, c.c0, c.cell});
}

at::Tensor bit_embedding(const at::Tensor& weight, const at::Tensor& indices, std::string_view spec,
                         at::TensorList /*learned*/, double /*blend*/, int64_t /*padding_idx*/,
                         bool /*scale_grad_by_freq*/) {
  require(weight.dim() == 2, ErrorCode::kShapeMismatch, "[bit_embedding] a table [N, depth], got {}", show(weight));
  spec_of(spec);
  c10::SymDimVector shape(indices.sym_sizes().begin(), indices.sym_sizes().end());
  shape.push_back(weight.sym_size(1));
  return at::empty_symint(shape, weight.options());
}

}  // namespace meta

namespace autograd {

at::Tensor bit_weight(const at::Tensor& weight, std::string_view spec, at::TensorList learned, double blend) {
  if (!needs_gradient("bit_weight", {weight}, learned)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return redispatch::bit_weight(weight, spec, learned, blend);
  }
  const auto settings = std::make_shared<const Settings>(weight_settings(spec, blend));
  return with_rows(weight, [&](const at::Tensor& matrix) { return BitWeight::apply(matrix, learned, settings); });
}

at::Tensor bit_product(const BitProductCall& c) {
  const char* op = c.window ? "bit_conv" : "bit_linear";
  if (!needs_gradient(op, {c.x, c.weight, tensor_of(c.bias), tensor_of(c.act_scale)}, c.learned)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    // Without the dispatcher on the CPU, so that observers see one call that is replaced.
    if (reaches(c10::DispatchKey::CPU, {c.x, c.weight})) return cpu::bit_product(c);
    return whole([&] { return redispatch::bit_product(c); });
  }
  const auto settings = std::make_shared<const Settings>(settings_of(c));
  return with_batch(c, [&](const at::Tensor& batch) {
    return BitProduct::apply(batch, c.weight, or_nothing(c.bias), or_nothing(c.act_scale), c.learned, settings);
  });
}

at::Tensor bit_embedding(const at::Tensor& weight, const at::Tensor& indices, std::string_view spec, at::TensorList learned,
                         double blend, int64_t padding_idx, bool scale_grad_by_freq) {
  const auto made_of_others = [&] {
    return any_device::bit_embedding(weight, indices, spec, learned, blend, padding_idx, scale_grad_by_freq);
  };
  if (needs_gradient("bit_embedding", {weight}, learned)) return made_of_others();  // which have the gradients
  const at::AutoDispatchBelowADInplaceOrView below;
  if (reaches(c10::DispatchKey::CPU, {weight, indices})) return made_of_others();
  return whole(
      [&] { return redispatch::bit_embedding(weight, indices, spec, learned, blend, padding_idx, scale_grad_by_freq); });
}

ThreeTensors bit_recurrent(const BitRecurrentCall& c) {
  if (needs_gradient("bit_recurrent",
                     {c.x, c.weight, tensor_of(c.bias), tensor_of(c.h0), tensor_of(c.c0), tensor_of(c.act_scale)},
                     c.learned))
    return any_device::bit_recurrent(c);  // made of operators that have the gradients
  const at::AutoDispatchBelowADInplaceOrView below;
  if (reaches(c10::DispatchKey::CPU, {c.x, c.weight})) return cpu::bit_recurrent(c);
  const at::NoGradGuard no_grad;
  return redispatch::bit_recurrent(c);
}

}  // namespace autograd
}  // namespace bitlab::ops
