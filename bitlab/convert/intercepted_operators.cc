// The operators that compute products of registered weights in place of LibTorch's (interception.h).
#include <array>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>

#include <ATen/RedispatchFunctions.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/conv_transpose1d.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/conv_transpose3d.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gru.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/lstm.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/pad.h>
#include <torch/library.h>

#include "bitlab/convert/internal/interception.h"
#include "bitlab/nn/recurrent_layers.h"
#include "bitlab/ops/internal/call_observer.h"
#include "bitlab/ops/padding.h"

namespace bitlab::convert {
namespace {

Found find(const at::Tensor& tensor) {
  const WeightRegistry* registry = current_registry();
  return registry == nullptr ? Found{} : registry->find(tensor);
}

// Everything that a replacement calls runs as it is.
struct Replacement {
  c10::impl::ExcludeDispatchKeyGuard excluded{kInterceptionKey};
  explicit Replacement(InterceptedWeight& weight) : Replacement(std::array{&weight}) {}
  explicit Replacement(std::span<InterceptedWeight* const> weights) {
    for (InterceptedWeight* weight : weights) ++weight->hits;
    ops::notify_rewritten();
  }
};

c10::DispatchKeySet below(c10::DispatchKeySet keys) {
  return keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kInterceptionKey);
}

using ops::OptionalTensor, ops::tensor_of;

// What an operator reads in the place of a tensor: of a master weight its value.
at::Tensor as_read(const at::Tensor& tensor) {
  const Found found = find(tensor);
  if (found.weight == nullptr || !found.weight->is_master()) return tensor;
  const Replacement replacement(*found.weight);
  return found.weight->value_of(tensor);
}

// f of the tensors as they are read, where a master weight is among them; else undefined.
template <class F, class... Tensors>
at::Tensor of_values(F f, const Tensors&... tensors) {
  const WeightRegistry* registry = current_registry();
  if (registry == nullptr || !registry->has_masters()) return {};
  const std::tuple values{as_read(tensors)...};
  const bool changed = std::apply([&](const auto&... v) { return !(v.is_same(tensors) && ...); }, values);
  return changed ? std::apply(f, values) : at::Tensor();
}

// The values of master weights among them; nothing where there are none.
std::vector<at::Tensor> values_among(at::TensorList tensors) {
  const WeightRegistry* registry = current_registry();
  if (registry == nullptr || !registry->has_masters()) return {};
  std::vector<at::Tensor> values;
  bool changed = false;
  for (const at::Tensor& tensor : tensors) {
    values.push_back(as_read(tensor));
    changed = changed || !values.back().is_same(tensor);
  }
  return changed ? values : std::vector<at::Tensor>();
}

// The same for every operator without a kernel of its own here; what it writes to is left alone.
bool reads_values(const c10::FunctionSchema& schema, torch::jit::Stack& stack) {
  const WeightRegistry* registry = current_registry();
  if (registry == nullptr || !registry->has_masters() || is_view(schema.name())) return false;
  bool changed = false;
  const size_t count = schema.arguments().size();
  for (size_t i = 0; i < count; ++i) {
    c10::IValue& argument = stack[stack.size() - count + i];
    const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
    if (alias != nullptr && alias->isWrite()) continue;
    if (argument.isTensor()) {
      const at::Tensor value = as_read(argument.toTensor());
      changed = changed || !value.is_same(argument.toTensor());
      argument = value;
    } else if (argument.isTensorList()) {
      const std::vector<at::Tensor> values = values_among(argument.toTensorVector());
      if (values.empty()) continue;
      argument = values;
      changed = true;
    }
  }
  return changed;
}

void any_operator(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  if (reads_values(op.schema(), *stack)) {
    op.callBoxed(stack);
  } else {
    op.redispatchBoxed(below(keys), stack);
  }
}

// x w^T where `found` is w, or with `transposed` its transpose; undefined where it is neither.
at::Tensor product(const Found& found, const at::Tensor& x, bool transposed, const at::Tensor& bias) {
  if (found.weight == nullptr || !found.weight->has_product() || found.weight->weight.tensor.dim() != 2) return {};
  const bool whole = found.form == (transposed ? Found::Form::kTransposed : Found::Form::kWhole) ||
                     (found.form == Found::Form::kWhole && found.weight->weight.tensor.numel() == 1);  // its own transpose
  const bool block = found.form == Found::Form::kRows && found.transposed == transposed;
  if (!whole && !block) return {};
  const Replacement replacement(*found.weight);
  return found.weight->linear(x, found.begin, found.rows, bias);
}

at::Tensor linear(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias) {
  at::Tensor y = product(find(weight), x, false, tensor_of(bias));
  if (!y.defined()) y = of_values([&](const auto& a, const auto& b) { return at::linear(a, b, bias); }, x, weight);
  return y.defined() ? y : at::redispatch::linear(below(keys), x, weight, bias);
}

at::Tensor matmul(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& weight) {
  at::Tensor y = product(find(weight), x, true, {});
  if (!y.defined()) y = of_values([](const auto& a, const auto& b) { return at::matmul(a, b); }, x, weight);
  return y.defined() ? y : at::redispatch::matmul(below(keys), x, weight);
}

at::Tensor mm(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& weight) {
  at::Tensor y = product(find(weight), x, true, {});
  if (!y.defined()) y = of_values([](const auto& a, const auto& b) { return at::mm(a, b); }, x, weight);
  return y.defined() ? y : at::redispatch::mm(below(keys), x, weight);
}

at::Tensor addmm(c10::DispatchKeySet keys, const at::Tensor& bias, const at::Tensor& x, const at::Tensor& weight,
                 const at::Scalar& beta, const at::Scalar& alpha) {
  at::Tensor y;
  if (beta.equal(1) && alpha.equal(1) && bias.dim() == 1) y = product(find(weight), x, true, bias);
  if (!y.defined())
    y = of_values([&](const auto& a, const auto& b, const auto& c) { return at::addmm(a, b, c, beta, alpha); }, bias, x,
                  weight);
  return y.defined() ? y : at::redispatch::addmm(below(keys), bias, x, weight, beta, alpha);
}

// The convolution of a registered weight; undefined where it is none.
at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, ops::ConvWindow window) {
  const Found found = find(weight);
  if (found.weight == nullptr || !found.weight->has_product() || found.form != Found::Form::kWhole) return {};
  const Replacement replacement(*found.weight);
  for (std::vector<int64_t>* sizes : {&window.stride, &window.padding, &window.dilation, &window.output_padding})
    if (sizes->size() == 1) sizes->resize(static_cast<size_t>(weight.dim() - 2), sizes->front());  // one number for all
  return found.weight->conv(x, tensor_of(bias), window);
}

// A convolution whose padding is a text, as one with numbers: x gets the odd zeros of "same" beforehand. `conv` computes it again, of x, weight
// and padding. Undefined where the weight is none of the registry's.
template <class Conv>
at::Tensor convolution_by_text(const at::Tensor& x, const at::Tensor& weight, at::IntArrayRef stride,
                               std::string_view padding, at::IntArrayRef dilation, Conv conv) {
  const Found found = find(weight);
  const bool is_known = padding == "same" || padding == "valid";
  if (found.weight == nullptr || found.form != Found::Form::kWhole || !is_known)
    return of_values([&](const auto& a, const auto& b) { return conv(a, b, padding); }, x, weight);
  ops::notify_rewritten();
  const at::IntArrayRef kernel = weight.sizes().slice(2);
  const std::vector<int64_t> none(kernel.size(), 0);
  if (padding == "valid") return conv(x, weight, none);
  const ops::SamePadding same = ops::same_padding(kernel, stride, dilation);
  return conv(same.odd == none ? x : at::pad(x, ops::sides(none, same.odd)), weight, same.both);
}

#define BITLAB_INTERCEPT_CONV(name)                                                                                    \
  at::Tensor name(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, \
                  at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {         \
    at::Tensor y = convolution(x, weight, bias, {stride.vec(), padding.vec(), dilation.vec(), false, {0}, groups});    \
    const auto again = [&](const auto& a, const auto& b) {                                                             \
      return at::name(a, b, bias, stride, padding, dilation, groups);                                                  \
    };                                                                                                                 \
    if (!y.defined()) y = of_values(again, x, weight);                                                                 \
    return y.defined() ? y : at::redispatch::name(below(keys), x, weight, bias, stride, padding, dilation, groups);    \
  }                                                                                                                    \
  at::Tensor name##_by_text(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& weight,                   \
                            const OptionalTensor& bias, at::IntArrayRef stride, std::string_view padding,              \
                            at::IntArrayRef dilation, int64_t groups) {                                                \
    const auto again = [&](const auto& a, const auto& b, const auto& sizes) {                                          \
      return at::name(a, b, bias, stride, sizes, dilation, groups);                                                    \
    };                                                                                                                 \
    const at::Tensor y = convolution_by_text(x, weight, stride, padding, dilation, again);                             \
    return y.defined() ? y : at::redispatch::name(below(keys), x, weight, bias, stride, padding, dilation, groups);    \
  }
BITLAB_INTERCEPT_CONV(conv1d)
BITLAB_INTERCEPT_CONV(conv2d)
BITLAB_INTERCEPT_CONV(conv3d)
#undef BITLAB_INTERCEPT_CONV

#define BITLAB_INTERCEPT_CONV_TRANSPOSE(name)                                                                            \
  at::Tensor name(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,   \
                  at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef output_padding, int64_t groups,       \
                  at::IntArrayRef dilation) {                                                                            \
    at::Tensor y =                                                                                                       \
        convolution(x, weight, bias, {stride.vec(), padding.vec(), dilation.vec(), true, output_padding.vec(), groups}); \
    const auto again = [&](const auto& a, const auto& b) {                                                               \
      return at::name(a, b, bias, stride, padding, output_padding, groups, dilation);                                    \
    };                                                                                                                   \
    if (!y.defined()) y = of_values(again, x, weight);                                                                   \
    return y.defined()                                                                                                   \
               ? y                                                                                                       \
               : at::redispatch::name(below(keys), x, weight, bias, stride, padding, output_padding, groups, dilation);  \
  }
BITLAB_INTERCEPT_CONV_TRANSPOSE(conv_transpose1d)
BITLAB_INTERCEPT_CONV_TRANSPOSE(conv_transpose2d)
BITLAB_INTERCEPT_CONV_TRANSPOSE(conv_transpose3d)
#undef BITLAB_INTERCEPT_CONV_TRANSPOSE

// What traces of TorchScript call.
at::Tensor any_convolution(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                           at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                           at::IntArrayRef output_padding, int64_t groups) {
  at::Tensor y =
      convolution(x, weight, bias, {stride.vec(), padding.vec(), dilation.vec(), transposed, output_padding.vec(), groups});
  const auto again = [&](const auto& a, const auto& b) {
    return at::convolution(a, b, bias, stride, padding, dilation, transposed, output_padding, groups);
  };
  return y.defined() ? y : of_values(again, x, weight);
}

at::Tensor aten_convolution(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& weight,
                            const OptionalTensor& bias, at::IntArrayRef stride, at::IntArrayRef padding,
                            at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding, int64_t groups) {
  const at::Tensor y = any_convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups);
  return y.defined() ? y
                     : at::redispatch::convolution(below(keys), x, weight, bias, stride, padding, dilation, transposed,
                                                   output_padding, groups);
}

at::Tensor aten_convolution_of_backend(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& weight,
                                       const OptionalTensor& bias, at::IntArrayRef stride, at::IntArrayRef padding,
                                       at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
                                       int64_t groups, bool benchmark, bool deterministic, bool cudnn, bool tf32) {
  const at::Tensor y = any_convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups);
  return y.defined() ? y
                     : at::redispatch::_convolution(below(keys), x, weight, bias, stride, padding, dilation, transposed,
                                                    output_padding, groups, benchmark, deterministic, cudnn, tf32);
}

// In eval the contract's affine step, which the runtime computes to the bit, in place of LibTorch's own rounding.
at::Tensor batch_norm(c10::DispatchKeySet keys, const at::Tensor& x, const OptionalTensor& weight,
                      const OptionalTensor& bias, const OptionalTensor& mean, const OptionalTensor& variance, bool training,
                      double momentum, double eps, bool cudnn_enabled) {
  const bool fits = !training && mean && mean->defined() && variance && variance->defined() && x.dim() >= 2;
  if (!fits || current_registry() == nullptr)
    return at::redispatch::batch_norm(below(keys), x, weight, bias, mean, variance, training, momentum, eps, cudnn_enabled);
  const c10::impl::ExcludeDispatchKeyGuard excluded(kInterceptionKey);
  ops::notify_rewritten();
  return ops::batch_norm(x, weight, bias, *mean, *variance, eps);
}

at::Tensor embedding(c10::DispatchKeySet keys, const at::Tensor& weight, const at::Tensor& indices, c10::SymInt padding_idx,
                     bool scale_grad_by_freq, bool sparse) {
  const Found found = find(weight);
  if (found.weight != nullptr && found.form == Found::Form::kWhole && !scale_grad_by_freq && !sparse) {
    const Replacement replacement(*found.weight);
    return found.weight->embedding(indices, padding_idx.expect_int());
  }
  const at::Tensor y = of_values(
      [&](const auto& table) { return at::embedding_symint(table, indices, padding_idx, scale_grad_by_freq, sparse); },
      weight);
  return y.defined() ? y
                     : at::redispatch::embedding_symint(below(keys), weight, indices, std::move(padding_idx),
                                                        scale_grad_by_freq, sparse);
}

// The layers and directions of an LSTM or GRU whose weights are all registered; nothing where they are not.
std::optional<nn::RecurrentOutputs> recurrent(const nn::RecurrentLayers& layers, const at::Tensor& x, const at::Tensor& h0,
                                              const at::Tensor& c0, at::TensorList parameters, bool has_biases) {
  const int64_t each = has_biases ? 4 : 2, all = layers.layers * (layers.bidirectional ? 2 : 1);
  if (static_cast<int64_t>(parameters.size()) != each * all) return std::nullopt;  // projections
  const auto at = [&](int64_t i, int64_t place) { return parameters[static_cast<size_t>(i * each + place)]; };
  const auto bias = [&](int64_t i, int64_t place) { return has_biases ? at(i, place) : at::Tensor(); };
  std::vector<InterceptedWeight*> weights;
  for (int64_t i = 0; i < all; ++i)
    for (const int64_t place : {0, 1}) {
      const Found found = find(at(i, place));
      if (found.weight == nullptr || found.form != Found::Form::kWhole || !found.weight->has_product()) return std::nullopt;
      weights.push_back(found.weight);
    }
  const auto weight = [&](int64_t i, int64_t place) -> InterceptedWeight& {
    return *weights[static_cast<size_t>(2 * i + place)];
  };
  const Replacement replacement(weights);
  return nn::run_recurrent(
      layers, x, h0, c0,
      [&](int64_t i, const at::Tensor& read) { return weight(i, 0).linear(read, 0, at(i, 0).size(0), bias(i, 2)); },
      [&](int64_t i, const ops::RecurrentInputs& inputs) { return weight(i, 1).recurrent(inputs, bias(i, 3)); });
}

// What a call of an LSTM or GRU gives where its weights are registered; else again(their values) of masters, or it goes on as it was.
template <class Again, class GoOn>
std::invoke_result_t<GoOn> recurrent_or(const nn::RecurrentLayers& layers, const at::Tensor& x, const at::Tensor& h0,
                                        const at::Tensor& c0, at::TensorList parameters, bool has_biases, const Again& again,
                                        const GoOn& go_on) {
  if (auto found = recurrent(layers, x, h0, c0, parameters, has_biases)) {
    if constexpr (std::tuple_size_v<std::invoke_result_t<GoOn>> == 3) {
      return {found->y, found->h, found->c};
    } else {
      return {found->y, found->h};
    }
  }
  const std::vector<at::Tensor> values = values_among(parameters);
  return values.empty() ? go_on() : again(values);
}

using LstmStates = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using GruStates = std::tuple<at::Tensor, at::Tensor>;
using ops::RecurrentCell;

LstmStates lstm(c10::DispatchKeySet keys, const at::Tensor& x, at::TensorList hx, at::TensorList parameters, bool has_biases,
                int64_t layers, double dropout, bool train, bool bidirectional, bool batch_first) {
  return recurrent_or(
      {RecurrentCell::kLstm, layers, bidirectional, batch_first, train ? dropout : 0}, x, hx[0], hx[1], parameters,
      has_biases,
      [&](at::TensorList values) {
        return at::lstm(x, hx, values, has_biases, layers, dropout, train, bidirectional, batch_first);
      },
      [&] {
        return at::redispatch::lstm(below(keys), x, hx, parameters, has_biases, layers, dropout, train, bidirectional,
                                    batch_first);
      });
}

GruStates gru(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& hx, at::TensorList parameters,
              bool has_biases, int64_t layers, double dropout, bool train, bool bidirectional, bool batch_first) {
  return recurrent_or(
      {RecurrentCell::kGru, layers, bidirectional, batch_first, train ? dropout : 0}, x, hx, {}, parameters, has_biases,
      [&](at::TensorList values) {
        return at::gru(x, hx, values, has_biases, layers, dropout, train, bidirectional, batch_first);
      },
      [&] {
        return at::redispatch::gru(below(keys), x, hx, parameters, has_biases, layers, dropout, train, bidirectional,
                                   batch_first);
      });
}

LstmStates packed_lstm(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& batch_sizes, at::TensorList hx,
                       at::TensorList parameters, bool has_biases, int64_t layers, double dropout, bool train,
                       bool bidirectional) {
  return recurrent_or(
      {RecurrentCell::kLstm, layers, bidirectional, false, train ? dropout : 0, batch_sizes}, x, hx[0], hx[1], parameters,
      has_biases,
      [&](at::TensorList values) {
        return at::lstm(x, batch_sizes, hx, values, has_biases, layers, dropout, train, bidirectional);
      },
      [&] {
        return at::redispatch::lstm(below(keys), x, batch_sizes, hx, parameters, has_biases, layers, dropout, train,
                                    bidirectional);
      });
}

GruStates packed_gru(c10::DispatchKeySet keys, const at::Tensor& x, const at::Tensor& batch_sizes, const at::Tensor& hx,
                     at::TensorList parameters, bool has_biases, int64_t layers, double dropout, bool train,
                     bool bidirectional) {
  return recurrent_or(
      {RecurrentCell::kGru, layers, bidirectional, false, train ? dropout : 0, batch_sizes}, x, hx, {}, parameters,
      has_biases,
      [&](at::TensorList values) {
        return at::gru(x, batch_sizes, hx, values, has_biases, layers, dropout, train, bidirectional);
      },
      [&] {
        return at::redispatch::gru(below(keys), x, batch_sizes, hx, parameters, has_biases, layers, dropout, train,
                                   bidirectional);
      });
}

}  // namespace

TORCH_LIBRARY_IMPL(_, DeferredInit, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&any_operator>()); }

TORCH_LIBRARY_IMPL(aten, DeferredInit, m) {
  m.impl("linear", linear);
  m.impl("matmul", matmul);
  m.impl("mm", mm);
  m.impl("addmm", addmm);
  m.impl("conv1d", conv1d);
  m.impl("conv2d", conv2d);
  m.impl("conv3d", conv3d);
  m.impl("conv1d.padding", conv1d_by_text);
  m.impl("conv2d.padding", conv2d_by_text);
  m.impl("conv3d.padding", conv3d_by_text);
  m.impl("conv_transpose1d", conv_transpose1d);
  m.impl("conv_transpose2d.input", conv_transpose2d);
  m.impl("conv_transpose3d.input", conv_transpose3d);
  m.impl("convolution", aten_convolution);
  m.impl("_convolution", aten_convolution_of_backend);
  m.impl("embedding", embedding);
  m.impl("lstm.input", lstm);
  m.impl("gru.input", gru);
  m.impl("lstm.data", packed_lstm);
  m.impl("gru.data", packed_gru);
  m.impl("batch_norm", batch_norm);
}

}  // namespace bitlab::convert
