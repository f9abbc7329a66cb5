// The linear map of a layer, at::linear or a convolution, and its exact form on integers.
#pragma once

#include <array>
#include <optional>

#include <ATen/core/Tensor.h>

#include "bitlab/ops/layout.h"
#include "bitlab/ops/ops.h"

namespace bitlab::ops {

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
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& weight) const;
  // Gradients of x, of the weight and of a bias [N] behind the product, where they are asked for.
  std::array<at::Tensor, 3> backward(const at::Tensor& g, const at::Tensor& x, const at::Tensor& weight,
                                     std::array<bool, 3> needed) const;
};

// The product of integers |q| <= 127 and |t| <= limit, summed without rounding: float32 holds every sum below 2^24, float64 those of every depth
// that layers may have. How the operands travel is a choice by device:
//
//   kHalf      bfloat16 or float16 operands, both of which hold these integers, and float32 sums: half the memory, and the matrix units of
//              GPUs. Of linear layers on CUDA under autocast, for sums below 2^24
//   kFloat32   for sums below 2^24
//   kFloat64   for the others
class IntegerProduct {
 public:
  enum class Kind { kHalf, kFloat32, kFloat64 };

  // What the choice depends on.
  struct Facts {
    c10::DeviceType device;
    std::optional<at::ScalarType> autocast;  // the type that autocast asks for, where it is on
    bool is_linear;
    bool fits_float32;  // 127 limit K < 2^24
  };
  static Kind choose(const Facts& facts);

  IntegerProduct(const Product& product, const at::Tensor& x, const c10::SymInt& depth, ternary::Method method);

  // Integers as the product takes them.
  at::Tensor operand(const at::Tensor& integers) const { return integers.to(type_); }
  // The sums, in float32 or float64.
  at::Tensor operator()(const at::Tensor& q, const at::Tensor& t) const;

 private:
  const Product& product_;
  Kind kind_;
  at::ScalarType type_;
};

}  // namespace bitlab::ops
