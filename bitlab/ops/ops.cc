// The registrations: which implementation serves which dispatch key.
#include "bitlab/ops/ops.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "bitlab/ops/check.h"
#include "bitlab/ops/implementations.h"

namespace bitlab::ops {
namespace {

// Autocast: the operators quantize on their own, so they get float32.
void run_in_float32(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const size_t count = op.schema().arguments().size();
  for (size_t i = stack->size() - count; i < stack->size(); ++i) {
    c10::IValue& value = (*stack)[i];
    if (!value.isTensor() || !value.toTensor().defined() || !value.toTensor().is_floating_point()) continue;
    value = at::autocast::cached_cast(at::kFloat, value.toTensor(), value.toTensor().device().type());
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

}  // namespace

QuantizedWeight quantize_weight(const at::Tensor& weight, const ternary::WeightSpec& spec) {
  static const auto op = handle("bitlab::quantize_weight", cpu::quantize_weight);
  auto [t, scale] = op.call(weight, name(spec.method), name(spec.granularity));
  return {std::move(t), std::move(scale)};
}

PackedWeight ternary_pack(const at::Tensor& weight, const ternary::WeightSpec& spec) {
  static const auto op = handle("bitlab::ternary_pack", cpu::ternary_pack);
  auto [codes, scale] = op.call(weight, name(spec.method), name(spec.granularity));
  return {std::move(codes), std::move(scale)};
}

QuantizedActivation quantize_activation(const at::Tensor& x, int64_t start_dim, ternary::ActKind activation) {
  static const auto op = handle("bitlab::quantize_activation", cpu::quantize_activation);
  auto [q, a] = op.call(x, start_dim, name(activation));
  return {std::move(q), std::move(a)};
}

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
                      const ternary::WeightSpec& spec, ternary::ActKind activation) {
  static const auto op = handle("bitlab::bit_linear", any_device::bit_linear);
  return op.call(x, weight, bias, name(spec.method), name(spec.granularity), name(activation));
}

at::Tensor bit_conv2d(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, const Conv2dWindow& window,
                      const ternary::WeightSpec& spec, ternary::ActKind activation) {
  static const auto op = handle("bitlab::bit_conv2d", any_device::bit_conv2d);
  return op.call(x, weight, bias, window.stride, window.padding, window.dilation, name(spec.method), name(spec.granularity),
                 name(activation));
}

at::Tensor ternary_linear(const at::Tensor& x, const PackedWeight& weight, const OptionalTensor& bias,
                          ternary::ActKind activation) {
  static const auto op = handle("bitlab::ternary_linear", cpu::ternary_linear);
  return op.call(x, weight.codes, weight.scale, bias, name(activation));
}

at::Tensor ternary_conv2d(const at::Tensor& x, const PackedWeight& weight, const OptionalTensor& bias,
                          at::IntArrayRef kernel_size, const Conv2dWindow& window, ternary::ActKind activation) {
  static const auto op = handle("bitlab::ternary_conv2d", cpu::ternary_conv2d);
  return op.call(x, weight.codes, weight.scale, bias, kernel_size, window.stride, window.padding, window.dilation,
                 name(activation));
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
  m.impl("ternary_conv2d", cpu::ternary_conv2d);
}

TORCH_LIBRARY_IMPL(bitlab, CompositeExplicitAutograd, m) {
  m.impl("quantize_weight", any_device::quantize_weight);
  m.impl("quantize_activation", any_device::quantize_activation);
  m.impl("bit_linear", any_device::bit_linear);
  m.impl("bit_conv2d", any_device::bit_conv2d);
}

TORCH_LIBRARY_IMPL(bitlab, Meta, m) {
  m.impl("quantize_weight", meta::quantize_weight);
  m.impl("quantize_activation", meta::quantize_activation);
  m.impl("ternary_pack", meta::ternary_pack);
  m.impl("bit_linear", meta::bit_linear);
  m.impl("bit_conv2d", meta::bit_conv2d);
  m.impl("ternary_linear", meta::ternary_linear);
  m.impl("ternary_conv2d", meta::ternary_conv2d);
}

TORCH_LIBRARY_IMPL(bitlab, Autograd, m) {
  m.impl("bit_linear", autograd::bit_linear);
  m.impl("bit_conv2d", autograd::bit_conv2d);
  for (const char* op : {"quantize_activation", "ternary_linear", "ternary_conv2d"})
    m.impl(op, torch::CppFunction::makeFromBoxedFunction<&refuse_gradients>());
}

TORCH_LIBRARY_IMPL(bitlab, AutocastCPU, m) {
#define BITLAB_SCHEMA(name, schema) m.impl(#name, torch::CppFunction::makeFromBoxedFunction<&run_in_float32>());
#include "bitlab/ops/schemas.def"
}

TORCH_LIBRARY_IMPL(bitlab, AutocastCUDA, m) {
#include "bitlab/ops/schemas.def"
#undef BITLAB_SCHEMA
}
