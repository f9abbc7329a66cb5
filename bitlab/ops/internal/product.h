// The linear map of a layer, at::linear or a convolution, and its exact form on integers.
#pragma once

#include <array>
#include <optional>
#include <utility>

#include <ATen/core/Tensor.h>

#include "bitlab/ops/layout.h"
#include "bitlab/ops/ops.h"

namespace bitlab::ops {

// What the codes of a weight depend on besides its values and what its method learns.
struct Encoding {
  ternary::WeightSpec spec;
  bool transposed;
  int64_t groups;
  Encoding(ternary::WeightSpec encoder, const ConvWindow* window)
      : spec(encoder), transposed(window != nullptr && window->transposed), groups(window == nullptr ? 1 : window->groups) {}
  bool operator==(const Encoding&) const = default;
};

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
  // Gradients of x, of the weight and of a bias [N] behind the product, where they are asked for: products in the type of x and weight, of which those of
  // the weight and the bias are made float32.
  std::array<at::Tensor, 3> backward(const at::Tensor& g, const at::Tensor& x, const at::Tensor& weight,
                                     std::array<bool, 3> needed) const;

 private:
  std::array<at::Tensor, 3> backward_in_type(const at::Tensor& g, const at::Tensor& x, const at::Tensor& weight,
                                             std::array<bool, 3> needed) const;
};

// How a convolution's result lies in memory: as x [B, C, ...] does, with the channels last or not, whatever computes it; contiguous without a batch
// and in one dimension.
at::MemoryFormat conv_format(const at::Tensor& x, size_t dimensions);

// The type that autocast asks for. An operator runs with autocast switched off for those that it calls, which is why it is noted here: for the
// calling thread, as long as a scope lives.
class AutocastScope {
 public:
  explicit AutocastScope(at::ScalarType type) : before_(std::exchange(current_, type)) {}
  ~AutocastScope() { current_ = before_; }
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;
  static std::optional<at::ScalarType> type() { return current_; }

 private:
  static thread_local std::optional<at::ScalarType> current_;
  std::optional<at::ScalarType> before_;
};
// Of the products of a backward pass: on CUDA autocast's, as those of a float layer, or without it that of the results; on CPUs autocast's where they
// multiply it (elsewhere LibTorch's products of bfloat16 are slower than float32's, some by far), and else float32.
at::ScalarType gradient_type(const at::Tensor& x, at::ScalarType result);

// The product of integers |q| <= 127 and |t| <= limit, summed without rounding: float32 holds every sum below 2^24, float64 those of every depth
// that layers may have. How the operands travel is a choice by device:
//
//   kHalf      bfloat16 or float16 operands, both of which hold these integers, and float32 sums: half the memory, and the matrix units of
//              GPUs. Of linear layers on CUDA under autocast, for sums below 2^24
//   kFloat32   for sums below 2^24
//   kFloat64   for the others, and for convolutions on CUDA, where cuDNN transforms what it convolves in float32 (Winograd, FFT), which rounds
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
