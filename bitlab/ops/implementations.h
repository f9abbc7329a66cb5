// The functions behind the operators, by the dispatch keys that they are registered for in ops.cc. Each operator has one signature, in every
// namespace.
#pragma once

#include <string_view>
#include <tuple>

#include "bitlab/ops/ops.h"

namespace bitlab::ops {

using OptionalTensor = std::optional<at::Tensor>;
using TwoTensors = std::tuple<at::Tensor, at::Tensor>;

using QuantizeWeightOp = TwoTensors(const at::Tensor& weight, std::string_view method, std::string_view granularity);
using QuantizeActivationOp = TwoTensors(const at::Tensor& x, int64_t start_dim, std::string_view activation);
using TernaryPackOp = TwoTensors(const at::Tensor& weight, std::string_view method, std::string_view granularity);
using BitLinearOp = at::Tensor(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
                               std::string_view method, std::string_view granularity, std::string_view activation);
using BitConv2dOp = at::Tensor(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias,
                               at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                               std::string_view method, std::string_view granularity, std::string_view activation);
using TernaryLinearOp = at::Tensor(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                                   const OptionalTensor& bias, std::string_view activation);
using TernaryConv2dOp = at::Tensor(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                                   const OptionalTensor& bias, at::IntArrayRef kernel_size, at::IntArrayRef stride,
                                   at::IntArrayRef padding, at::IntArrayRef dilation, std::string_view activation);

namespace cpu {
QuantizeWeightOp quantize_weight;
QuantizeActivationOp quantize_activation;
TernaryPackOp ternary_pack;
TernaryLinearOp ternary_linear;
TernaryConv2dOp ternary_conv2d;
}  // namespace cpu

// Devices without kernels of their own.
namespace any_device {
QuantizeWeightOp quantize_weight;
QuantizeActivationOp quantize_activation;
BitLinearOp bit_linear;
BitConv2dOp bit_conv2d;
}  // namespace any_device

namespace autograd {
BitLinearOp bit_linear;
BitConv2dOp bit_conv2d;
}  // namespace autograd

// Shapes and dtypes without values.
namespace meta {
QuantizeWeightOp quantize_weight;
QuantizeActivationOp quantize_activation;
TernaryPackOp ternary_pack;
BitLinearOp bit_linear;
BitConv2dOp bit_conv2d;
TernaryLinearOp ternary_linear;
TernaryConv2dOp ternary_conv2d;
}  // namespace meta

}  // namespace bitlab::ops
