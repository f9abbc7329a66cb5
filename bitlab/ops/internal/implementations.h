// The functions behind the operators, by the dispatch keys that they are registered for in ops.cc. Each operator has one signature, in every
// namespace. Results that a weight does not have are tensors without values, of shape [0].
#pragma once

#include <string_view>
#include <tuple>

#include "bitlab/ops/ops.h"

namespace bitlab::ops {

using TwoTensors = std::tuple<at::Tensor, at::Tensor>;
using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using FourTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

using QuantizeWeightOp = FourTensors(const at::Tensor& weight, std::string_view spec, at::TensorList learned,
                                     bool transposed, int64_t groups);
using QuantizeActivationOp = TwoTensors(const at::Tensor& x, int64_t start_dim, std::string_view activation,
                                        const OptionalTensor& act_scale);
using TernaryPackOp = ThreeTensors(const at::Tensor& weight, std::string_view spec, at::TensorList learned, bool transposed,
                                   int64_t groups);
using BitWeightOp = at::Tensor(const at::Tensor& weight, std::string_view spec, at::TensorList learned, double blend);
using BitEmbeddingOp = at::Tensor(const at::Tensor& weight, const at::Tensor& indices, std::string_view spec,
                                  at::TensorList learned, double blend, int64_t padding_idx, bool scale_grad_by_freq);

// The arguments of bit_linear, and of bit_conv where there is a window. An implementation is a function of them; BitOperators makes the two
// operators of it, with the arguments as the dispatcher passes them.
struct BitProductCall {
  const at::Tensor &x, &weight;
  const OptionalTensor& bias;
  std::optional<ConvWindow> window;
  std::string_view spec, activation;
  at::TensorList learned;
  const OptionalTensor& act_scale;
  double blend;
  std::optional<at::ScalarType> dtype = std::nullopt;
};
using BitProductOp = at::Tensor(const BitProductCall& call);

template <BitProductOp* implementation>
struct BitOperators {
  static at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view spec,
                           std::string_view activation, at::TensorList learned, const OptionalTensor& act_scale,
                           double blend, std::optional<at::ScalarType> dtype) {
    return implementation({x, weight, bias, std::nullopt, spec, activation, learned, act_scale, blend, dtype});
  }
  static at::Tensor conv(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                         at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed, at::IntArrayRef output_padding,
                         int64_t groups, std::string_view spec, std::string_view activation, at::TensorList learned,
                         const OptionalTensor& act_scale, double blend, std::optional<at::ScalarType> dtype) {
    ConvWindow window{stride.vec(), padding.vec(), dilation.vec(), transposed, output_padding.vec(), groups};
    if (output_padding.empty()) window.output_padding.assign(stride.size(), 0);
    return implementation({x, weight, bias, std::move(window), spec, activation, learned, act_scale, blend, dtype});
  }
};

// The arguments of bit_recurrent, and the operator of an implementation, as the dispatcher passes them.
struct BitRecurrentCall {
  const at::Tensor &x, &weight;
  const OptionalTensor &bias, &h0, &c0;
  std::string_view cell;
  bool reverse;
  std::string_view spec, activation;
  at::TensorList learned;
  const OptionalTensor& act_scale;
  double blend;
};
using BitRecurrentOp = ThreeTensors(const BitRecurrentCall& call);

template <BitRecurrentOp* implementation>
ThreeTensors bit_recurrent_operator(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
                                    const OptionalTensor& h0, const OptionalTensor& c0, std::string_view cell, bool reverse,
                                    std::string_view spec, std::string_view activation, at::TensorList learned,
                                    const OptionalTensor& act_scale, double blend) {
  return implementation({x, weight, bias, h0, c0, cell, reverse, spec, activation, learned, act_scale, blend});
}

// Of a packed sequence, x [sum, gates H]: what depends on the values of a tensor is no operator.
ThreeTensors packed_bit_recurrent(const BitRecurrentCall& call, const at::Tensor& batch_sizes);
// The same with a float weight: how it is quantized does not matter. Without batch_sizes the sequences are not packed.
ThreeTensors plain_recurrent(const BitRecurrentCall& call, const at::Tensor& batch_sizes);
using TernaryRecurrentOp = ThreeTensors(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                                        const OptionalTensor& scale_neg, const OptionalTensor& bias,
                                        const OptionalTensor& h0, const OptionalTensor& c0, const OptionalTensor& act_scale,
                                        std::string_view cell, bool reverse, std::string_view activation, int64_t group);
using FunctionOp = at::Tensor(const at::Tensor& x);

using TernaryEmbeddingOp = at::Tensor(const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& scale_neg,
                                      const at::Tensor& indices, int64_t depth, int64_t group);
using TernaryLinearOp = at::Tensor(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                                   const OptionalTensor& scale_neg, const OptionalTensor& bias,
                                   const OptionalTensor& act_scale, std::string_view activation, int64_t group);
using TernaryConvOp = at::Tensor(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                                 const OptionalTensor& scale_neg, const OptionalTensor& bias,
                                 const OptionalTensor& act_scale, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                                 at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
                                 at::IntArrayRef output_padding, int64_t groups, std::string_view activation, int64_t group);

using BatchNormOp = at::Tensor(const at::Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                               const at::Tensor& mean, const at::Tensor& variance, double eps);
using RotaryOp = at::Tensor(const at::Tensor& x, const at::Tensor& positions, double theta);
// The table that rotary() rotates by, float32 [T, size / 2] each: an operator of its own, since it reads the positions.
using RotaryTableOp = TwoTensors(const at::Tensor& positions, int64_t size, double theta);

namespace cpu {
QuantizeWeightOp quantize_weight;
QuantizeActivationOp quantize_activation;
TernaryPackOp ternary_pack;
TernaryLinearOp ternary_linear;
TernaryConvOp ternary_conv;
TernaryEmbeddingOp ternary_embedding;
TernaryRecurrentOp ternary_recurrent;
RotaryTableOp rotary_table;
FunctionOp sigmoid, tanh;
// Where gradients are off and the blend is 1, these compute on packed codes (weight_cache.h); else as on any device.
BitProductOp bit_product;
BitRecurrentOp bit_recurrent;
}  // namespace cpu

// NVIDIA GPUs, with libbitlab_cuda where it is there.
namespace cuda {
QuantizeWeightOp quantize_weight;
QuantizeActivationOp quantize_activation;
TernaryLinearOp ternary_linear;
TernaryConvOp ternary_conv;
TernaryEmbeddingOp ternary_embedding;
// Where gradients are off and the blend is 1, on codes that are kept.
BitProductOp bit_product;
}  // namespace cuda

// Devices without kernels of their own.
namespace any_device {
QuantizeWeightOp quantize_weight;
QuantizeActivationOp quantize_activation;
BitProductOp bit_product;
BitWeightOp bit_weight;
BatchNormOp batch_norm;
BitEmbeddingOp bit_embedding;
BitRecurrentOp bit_recurrent;
FunctionOp sigmoid, tanh;
RotaryOp rotary;
RotaryTableOp rotary_table;
}  // namespace any_device

namespace autograd {
BitProductOp bit_product;
BitWeightOp bit_weight;
BitEmbeddingOp bit_embedding;
BitRecurrentOp bit_recurrent;
FunctionOp sigmoid, tanh;
}  // namespace autograd

// The operators themselves, through the dispatcher.
namespace redispatch {
QuantizeWeightOp quantize_weight;
BitProductOp bit_product;
BitWeightOp bit_weight;
BitEmbeddingOp bit_embedding;
BitRecurrentOp bit_recurrent;
TernaryRecurrentOp ternary_recurrent;
FunctionOp sigmoid, tanh;
RotaryTableOp rotary_table;
}  // namespace redispatch

// Shapes and dtypes without values.
namespace meta {
QuantizeWeightOp quantize_weight;
QuantizeActivationOp quantize_activation;
TernaryPackOp ternary_pack;
BitProductOp bit_product;
TernaryLinearOp ternary_linear;
TernaryConvOp ternary_conv;
BitEmbeddingOp bit_embedding;
TernaryEmbeddingOp ternary_embedding;
BitRecurrentOp bit_recurrent;
TernaryRecurrentOp ternary_recurrent;
RotaryTableOp rotary_table;
}  // namespace meta

}  // namespace bitlab::ops
