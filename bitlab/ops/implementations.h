// The functions behind the operators, by the dispatch keys that they are registered for in ops.cc.
#pragma once

#include <string_view>
#include <tuple>

#include "bitlab/ops/ops.h"

namespace bitlab::ops {

using OptionalTensor = std::optional<at::Tensor>;
using TwoTensors = std::tuple<at::Tensor, at::Tensor>;

namespace cpu {
TwoTensors quantize_weight(const at::Tensor& weight, std::string_view method, std::string_view granularity);
TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation);
TwoTensors ternary_pack(const at::Tensor& weight, std::string_view method, std::string_view granularity);
at::Tensor ternary_linear(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& bias,
                          std::string_view activation);
at::Tensor ternary_conv2d(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& bias,
                          at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                          at::IntArrayRef dilation, std::string_view activation);
}  // namespace cpu

// Devices without kernels of their own.
namespace any_device {
TwoTensors quantize_weight(const at::Tensor& weight, std::string_view method, std::string_view granularity);
TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation);
at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view method,
                      std::string_view granularity, std::string_view activation);
at::Tensor bit_conv2d(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, std::string_view method,
                      std::string_view granularity, std::string_view activation);
}  // namespace any_device

namespace autograd {
at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view method,
                      std::string_view granularity, std::string_view activation);
at::Tensor bit_conv2d(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, std::string_view method,
                      std::string_view granularity, std::string_view activation);
}  // namespace autograd

// Shapes and dtypes without values.
namespace meta {
TwoTensors quantize_weight(const at::Tensor& weight, std::string_view method, std::string_view granularity);
TwoTensors quantize_activation(const at::Tensor& x, int64_t start_dim, std::string_view activation);
TwoTensors ternary_pack(const at::Tensor& weight, std::string_view method, std::string_view granularity);
at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, std::string_view method,
                      std::string_view granularity, std::string_view activation);
at::Tensor bit_conv2d(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, at::IntArrayRef stride,
                      at::IntArrayRef padding, at::IntArrayRef dilation, std::string_view method,
                      std::string_view granularity, std::string_view activation);
at::Tensor ternary_linear(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& bias,
                          std::string_view activation);
at::Tensor ternary_conv2d(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale, const OptionalTensor& bias,
                          at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef padding,
                          at::IntArrayRef dilation, std::string_view activation);
}  // namespace meta

}  // namespace bitlab::ops
