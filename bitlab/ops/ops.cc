// The registrations: which implementation serves which dispatch key.
#include "bitlab/ops/ops.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/implementations.h"
#include "bitlab/ops/internal/product.h"
#include "bitlab/ternary/internal/method.h"

namespace bitlab::ops {
namespace {

at::Tensor in_float32(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_floating_point()) return tensor;
  return at::autocast::cached_cast(at::kFloat, tensor, tensor.device().type());
}

// Autocast: the operators quantize on their own, so they get float32, and products of integers choose their type (product.h). On CUDA the results of
// layers have autocast's type, as those of float layers, and their x stays as it is; on CPUs, where functions of bfloat16 gain nothing, all is float32.
template <c10::DeviceType device>
void run_under_autocast(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const at::ScalarType type = at::autocast::get_autocast_dtype(device);
  const AutocastScope scope(type);
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const auto& arguments = op.schema().arguments();
  const bool in_its_type = device == c10::DeviceType::CUDA && !arguments.empty() && arguments.back().name() == "dtype";
  if (in_its_type && stack->back().isNone()) stack->back() = static_cast<int64_t>(type);
  const size_t count = arguments.size();
  for (size_t i = stack->size() - count + (in_its_type ? 1 : 0); i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (value.isTensor()) {
      value = in_float32(value.toTensor());
    } else if (value.isTensorList()) {
      auto list = value.toTensorList().copy();
      for (size_t j = 0; j < list.size(); ++j) list[j] = in_float32(list.get(j));
      value = std::move(list);
    }
  }
  op.callBoxed(stack);
}

// Autograd of operators that have no gradient: a clear error where one would be needed, instead of a silent zero.
void refuse_gradients(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  for (size_t i = 0; i < arguments.size() && at::GradMode::is_enabled(); ++i) {
    const c10::IValue& value = (*stack)[stack->size() - arguments.size() + i];
    const bool needed = value.isTensor() && value.toTensor().defined() && value.toTensor().requires_grad();
    require(!needed, ErrorCode::kUnsupported,
            "[{}] no gradients (use the bit_ family, or torch::NoGradGuard), got requires_grad (name={})",
            op.schema().name(), arguments[i].name());
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  op.redispatchBoxed(keys & c10::after_autograd_keyset, stack);
}

// Looked up once; a call is then as cheap as one of LibTorch's own operators.
template <class Signature>
c10::TypedOperatorHandle<Signature> handle(const char* name, Signature*) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor with_values(const at::Tensor& tensor) { return tensor.sym_numel() == 0 ? at::Tensor() : tensor; }

}  // namespace

namespace redispatch {

at::Tensor bit_product(const BitProductCall& c) {
  static const auto linear = handle("bitlab::bit_linear", BitOperators<bit_product>::linear);
  static const auto conv = handle("bitlab::bit_conv", BitOperators<bit_product>::conv);
  if (!c.window) return linear.call(c.x, c.weight, c.bias, c.spec, c.activation, c.learned, c.act_scale, c.blend, c.dtype);
  const ConvWindow& w = *c.window;
  return conv.call(c.x, c.weight, c.bias, w.stride, w.padding, w.dilation, w.transposed, w.output_padding, w.groups, c.spec,
                   c.activation, c.learned, c.act_scale, c.blend, c.dtype);
}

FourTensors quantize_weight(const at::Tensor& weight, std::string_view spec, at::TensorList learned, bool transposed,
                            int64_t groups) {
  static const auto op = handle("bitlab::quantize_weight", quantize_weight);
  return op.call(weight, spec, learned, transposed, groups);
}

at::Tensor bit_weight(const at::Tensor& weight, std::string_view spec, at::TensorList learned, double blend) {
  static const auto op = handle("bitlab::bit_weight", bit_weight);
  return op.call(weight, spec, learned, blend);
}

at::Tensor bit_embedding(const at::Tensor& weight, const at::Tensor& indices, std::string_view spec, at::TensorList learned,
                         double blend, int64_t padding_idx, bool scale_grad_by_freq) {
  static const auto op = handle("bitlab::bit_embedding", bit_embedding);
  return op.call(weight, indices, spec, learned, blend, padding_idx, scale_grad_by_freq);
}

ThreeTensors bit_recurrent(const BitRecurrentCall& c) {
  static const auto op = handle("bitlab::bit_recurrent", bit_recurrent_operator<bit_recurrent>);
  return op.call(c.x, c.weight, c.bias, c.h0, c.c0, c.cell, c.reverse, c.spec, c.activation, c.learned, c.act_scale,
                 c.blend);
}

ThreeTensors ternary_recurrent(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                               const OptionalTensor& scale_neg, const OptionalTensor& bias, const OptionalTensor& h0,
                               const OptionalTensor& c0, const OptionalTensor& act_scale, std::string_view cell,
                               bool reverse, std::string_view activation, int64_t group) {
  static const auto op = handle("bitlab::ternary_recurrent", ternary_recurrent);
  return op.call(x, codes, scale, scale_neg, bias, h0, c0, act_scale, cell, reverse, activation, group);
}

at::Tensor sigmoid(const at::Tensor& x) {
  static const auto op = handle("bitlab::sigmoid", sigmoid);
  return op.call(x);
}

at::Tensor tanh(const at::Tensor& x) {
  static const auto op = handle("bitlab::tanh", tanh);
  return op.call(x);
}

TwoTensors rotary_table(const at::Tensor& positions, int64_t size, double theta) {
  static const auto op = handle("bitlab::rotary_table", rotary_table);
  return op.call(positions, size, theta);
}

}  // namespace redispatch

QuantizedWeight quantize_weight(const at::Tensor& weight, const WeightQuant& quant, const ConvWindow* window) {
  auto [t, scale, scale_neg, threshold] =
      redispatch::quantize_weight(weight, to_text(quant.spec), quant.learned, window != nullptr && window->transposed,
                                  window == nullptr ? 1 : window->groups);
  return {std::move(t), std::move(scale), with_values(scale_neg), std::move(threshold)};
}

PackedWeight ternary_pack(const at::Tensor& weight, const WeightQuant& quant, const ConvWindow* window) {
  static const auto op = handle("bitlab::ternary_pack", cpu::ternary_pack);
  auto [codes, scale, scale_neg] = op.call(weight, to_text(quant.spec), quant.learned,
                                           window != nullptr && window->transposed, window == nullptr ? 1 : window->groups);
  const bool grouped = quant.spec.granularity == ternary::Granularity::kGroup;
  return {std::move(codes), std::move(scale), with_values(scale_neg), grouped ? quant.spec.group : 0};
}

QuantizedActivation quantize_activation(const at::Tensor& x, int64_t start_dim, const ActQuant& activation) {
  static const auto op = handle("bitlab::quantize_activation", cpu::quantize_activation);
  auto [q, a] = op.call(x, start_dim, name(activation.kind), optional(activation.act_scale));
  return {std::move(q), std::move(a)};
}

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, const WeightQuant& quant,
                      const ActQuant& activation, double blend) {
  return redispatch::bit_product({x, weight, bias, std::nullopt, to_text(quant.spec), name(activation.kind), quant.learned,
                                  optional(activation.act_scale), blend});
}

at::Tensor bit_conv(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, const ConvWindow& window,
                    const WeightQuant& quant, const ActQuant& activation, double blend) {
  return redispatch::bit_product({x, weight, bias, window, to_text(quant.spec), name(activation.kind), quant.learned,
                                  optional(activation.act_scale), blend});
}

at::Tensor bit_weight(const at::Tensor& weight, const WeightQuant& quant, double blend) {
  return redispatch::bit_weight(weight, to_text(quant.spec), quant.learned, blend);
}

std::vector<at::Tensor> initial_parameters(const at::Tensor& weight, const ternary::WeightSpec& spec,
                                           const ConvWindow* window, bool around_zero) {
  if (!ternary::learns(spec.method)) return {};
  const QuantizedWeight found = quantize_weight(weight.detach(), {beginning(spec).value(), {}}, window);
  const double times = around_zero ? rule(spec.method).beginning.times : 1;
  std::vector<at::Tensor> parameters;
  for (const ternary::Parameter parameter : info(spec.method).learned)
    parameters.push_back((parameter == ternary::Parameter::kThreshold ? found.threshold : found.scale) * times);
  return parameters;
}

at::Tensor batch_norm(const at::Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const at::Tensor& mean,
                      const at::Tensor& variance, double eps) {
  static const auto op = handle("bitlab::batch_norm", any_device::batch_norm);
  return op.call(x, weight, bias, mean, variance, eps);
}

at::Tensor bit_embedding(const at::Tensor& weight, const at::Tensor& indices, const WeightQuant& quant, double blend,
                         int64_t padding_idx, bool scale_grad_by_freq) {
  return redispatch::bit_embedding(weight, indices, to_text(quant.spec), quant.learned, blend, padding_idx,
                                   scale_grad_by_freq);
}

at::Tensor ternary_embedding(const PackedWeight& weight, const at::Tensor& indices, int64_t depth) {
  static const auto op = handle("bitlab::ternary_embedding", cpu::ternary_embedding);
  return op.call(weight.codes, weight.scale, optional(weight.scale_neg), indices, depth, weight.group);
}

RecurrentStates bit_recurrent(const RecurrentInputs& inputs, const at::Tensor& weight, const OptionalTensor& bias,
                              const WeightQuant& quant, const ActQuant& activation, double blend) {
  const std::string spec = to_text(quant.spec);
  const OptionalTensor h0 = optional(inputs.h0), c0 = optional(inputs.c0), step = optional(activation.act_scale);
  const BitRecurrentCall call{
      inputs.x,      weight, bias, h0, c0, kernels::name(inputs.cell), inputs.reverse, spec, name(activation.kind),
      quant.learned, step,   blend};
  auto [y, h_n, c_n] =
      inputs.batch_sizes.defined() ? packed_bit_recurrent(call, inputs.batch_sizes) : redispatch::bit_recurrent(call);
  return {std::move(y), std::move(h_n), inputs.cell == kernels::RecurrentCell::kLstm ? std::move(c_n) : at::Tensor()};
}

RecurrentStates float_recurrent(const RecurrentInputs& inputs, const at::Tensor& weight, const OptionalTensor& bias) {
  const OptionalTensor h0 = optional(inputs.h0), c0 = optional(inputs.c0), none;
  auto [y, h_n, c_n] = plain_recurrent(
      {inputs.x, weight, bias, h0, c0, kernels::name(inputs.cell), inputs.reverse, "", "", {}, none, 0}, inputs.batch_sizes);
  return {std::move(y), std::move(h_n), inputs.cell == kernels::RecurrentCell::kLstm ? std::move(c_n) : at::Tensor()};
}

at::Tensor ternary_linear(const at::Tensor& x, const PackedWeight& weight, const OptionalTensor& bias,
                          const ActQuant& activation) {
  static const auto op = handle("bitlab::ternary_linear", cpu::ternary_linear);
  return op.call(x, weight.codes, weight.scale, optional(weight.scale_neg), bias, optional(activation.act_scale),
                 name(activation.kind), weight.group);
}

at::Tensor ternary_conv(const at::Tensor& x, const PackedWeight& weight, const OptionalTensor& bias,
                        at::IntArrayRef kernel_size, const ConvWindow& window, const ActQuant& activation) {
  static const auto op = handle("bitlab::ternary_conv", cpu::ternary_conv);
  return op.call(x, weight.codes, weight.scale, optional(weight.scale_neg), bias, optional(activation.act_scale),
                 kernel_size, window.stride, window.padding, window.dilation, window.transposed, window.output_padding,
                 window.groups, name(activation.kind), weight.group);
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, double theta) {
  static const auto op = handle("bitlab::rotary", any_device::rotary);
  return op.call(x, positions, theta);
}

}  // namespace bitlab::ops

using namespace bitlab::ops;

TORCH_LIBRARY(bitlab, m) {
#define BITLAB_SCHEMA(name, schema) m.def(schema);
#include "bitlab/ops/schemas.def"
#undef BITLAB_SCHEMA
}

TORCH_LIBRARY_IMPL(bitlab, CPU, m) {
  m.impl("quantize_weight", cpu::quantize_weight);
  m.impl("quantize_activation", cpu::quantize_activation);
  m.impl("ternary_pack", cpu::ternary_pack);
  m.impl("ternary_linear", cpu::ternary_linear);
  m.impl("ternary_conv", cpu::ternary_conv);
  m.impl("ternary_embedding", cpu::ternary_embedding);
  m.impl("rotary_table", cpu::rotary_table);
  m.impl("bit_linear", BitOperators<cpu::bit_product>::linear);
  m.impl("bit_conv", BitOperators<cpu::bit_product>::conv);
  m.impl("sigmoid", cpu::sigmoid);
  m.impl("tanh", cpu::tanh);
  m.impl("bit_recurrent", bit_recurrent_operator<cpu::bit_recurrent>);
  m.impl("ternary_recurrent", cpu::ternary_recurrent);
}

TORCH_LIBRARY_IMPL(bitlab, CUDA, m) {
  m.impl("quantize_weight", cuda::quantize_weight);
  m.impl("quantize_activation", cuda::quantize_activation);
  m.impl("ternary_linear", cuda::ternary_linear);
  m.impl("ternary_conv", cuda::ternary_conv);
  m.impl("ternary_embedding", cuda::ternary_embedding);
  m.impl("bit_linear", BitOperators<cuda::bit_product>::linear);
  m.impl("bit_conv", BitOperators<cuda::bit_product>::conv);
}

TORCH_LIBRARY_IMPL(bitlab, CompositeExplicitAutograd, m) {
  m.impl("quantize_weight", any_device::quantize_weight);
  m.impl("quantize_activation", any_device::quantize_activation);
  m.impl("bit_linear", BitOperators<any_device::bit_product>::linear);
  m.impl("bit_conv", BitOperators<any_device::bit_product>::conv);
  m.impl("bit_weight", any_device::bit_weight);
  m.impl("bit_embedding", any_device::bit_embedding);
  m.impl("bit_recurrent", bit_recurrent_operator<any_device::bit_recurrent>);
  m.impl("sigmoid", any_device::sigmoid);
  m.impl("tanh", any_device::tanh);
  m.impl("rotary_table", any_device::rotary_table);
}

// Made of operators that have the gradients.
TORCH_LIBRARY_IMPL(bitlab, CompositeImplicitAutograd, m) {
  m.impl("batch_norm", any_device::batch_norm);
  m.impl("rotary", any_device::rotary);
}

// bit_weight is there what it is on any device: made of operators that need no values.
TORCH_LIBRARY_IMPL(bitlab, Meta, m) {
  m.impl("quantize_weight", meta::quantize_weight);
  m.impl("quantize_activation", meta::quantize_activation);
  m.impl("ternary_pack", meta::ternary_pack);
  m.impl("bit_linear", BitOperators<meta::bit_product>::linear);
  m.impl("bit_conv", BitOperators<meta::bit_product>::conv);
  m.impl("ternary_linear", meta::ternary_linear);
  m.impl("ternary_conv", meta::ternary_conv);
  m.impl("bit_embedding", meta::bit_embedding);
  m.impl("ternary_embedding", meta::ternary_embedding);
  m.impl("bit_recurrent", bit_recurrent_operator<meta::bit_recurrent>);
  m.impl("ternary_recurrent", meta::ternary_recurrent);
  m.impl("rotary_table", meta::rotary_table);
}

TORCH_LIBRARY_IMPL(bitlab, Autograd, m) {
  m.impl("bit_linear", BitOperators<autograd::bit_product>::linear);
  m.impl("bit_conv", BitOperators<autograd::bit_product>::conv);
  m.impl("bit_weight", autograd::bit_weight);
  m.impl("bit_embedding", autograd::bit_embedding);
  m.impl("bit_recurrent", bit_recurrent_operator<autograd::bit_recurrent>);
  m.impl("sigmoid", autograd::sigmoid);
  m.impl("tanh", autograd::tanh);
  for (const char* op : {"quantize_activation", "ternary_linear", "ternary_conv", "ternary_recurrent"})
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&refuse_gradients>());
}

#define BITLAB_SCHEMA(name, schema) m.impl(#name, torch::CppFunction::makeFromBoxedFunction<&run_under_autocast<kDevice>>());
TORCH_LIBRARY_IMPL(bitlab, AutocastCPU, m) {
  constexpr auto kDevice = c10::DeviceType::CPU;
#include "bitlab/ops/schemas.def"
}

TORCH_LIBRARY_IMPL(bitlab, AutocastCUDA, m) {
  constexpr auto kDevice = c10::DeviceType::CUDA;
#include "bitlab/ops/schemas.def"
}
#undef BITLAB_SCHEMA
