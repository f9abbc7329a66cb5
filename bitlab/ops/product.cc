#include "bitlab/ops/internal/product.h"

#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

#include "bitlab/base/machine.h"
#include "bitlab/ops/internal/traced.h"

namespace bitlab::ops {
namespace {

// [..., K] -> [rows, K]
at::Tensor as_matrix(const at::Tensor& x) { return x.dim() == 2 ? x : x.reshape_symint({-1, x.sym_size(-1)}); }

}  // namespace

at::Tensor Product::operator()(const at::Tensor& x, const at::Tensor& weight) const {
  if (!window) return at::linear(x, weight);
  return at::convolution(x, weight, {}, window->stride, window->padding, window->dilation, window->transposed,
                         window->output_padding, window->groups);
}

at::MemoryFormat conv_format(const at::Tensor& x, size_t dimensions) {
  const bool has_batch = x.dim() == static_cast<int64_t>(dimensions) + 2;
  return has_batch && dimensions > 1 ? x.suggest_memory_format() : at::MemoryFormat::Contiguous;
}

thread_local std::optional<at::ScalarType> AutocastScope::current_;

at::ScalarType gradient_type(const at::Tensor& x, at::ScalarType result) {
  const auto autocast = AutocastScope::type();
  if (x.is_cuda()) return autocast.value_or(result);
  const bool is_quick = autocast == at::kBFloat16 && this_machine().features.contains(Feature::avx512bf16);
  return is_quick ? at::kBFloat16 : at::kFloat;
}

std::array<at::Tensor, 3> Product::backward(const at::Tensor& float_g, const at::Tensor& x, const at::Tensor& weight,
                                            std::array<bool, 3> needed) const {
  auto gradients = backward_in_type(in_type(float_g, x.scalar_type()), x, weight, needed);
  for (at::Tensor* gradient : {&gradients[1], &gradients[2]})
    if (gradient->defined()) *gradient = in_type(*gradient, at::kFloat);
  return gradients;
}

std::array<at::Tensor, 3> Product::backward_in_type(const at::Tensor& g, const at::Tensor& x, const at::Tensor& weight,
                                                    std::array<bool, 3> needed) const {
  if (window) {
    auto [gx, gw, gb] = at::convolution_backward(g, x, weight, at::OptionalIntArrayRef(known(g.sym_size(1))), window->stride,
                                                 window->padding, window->dilation, window->transposed,
                                                 window->output_padding, window->groups, needed);
    return {gx, gw, gb};
  }
  const at::Tensor rows = as_matrix(g);
  at::Tensor gx, gw, gb;
  if (needed[0]) gx = g.dim() == 2 ? g.mm(weight) : g.matmul(weight);
  if (needed[1]) gw = rows.t().mm(as_matrix(x));
  if (needed[2]) gb = rows.sum(0);
  return {gx, gw, gb};
}

IntegerProduct::Kind IntegerProduct::choose(const Facts& facts) {
  const bool on_cuda = facts.device == c10::DeviceType::CUDA;
  if (!facts.fits_float32 || (on_cuda && !facts.is_linear)) return Kind::kFloat64;
  return on_cuda && facts.autocast ? Kind::kHalf : Kind::kFloat32;
}

IntegerProduct::IntegerProduct(const Product& product, const at::Tensor& x, const c10::SymInt& depth, ternary::Method method)
    : product_(product) {
  const auto autocast = AutocastScope::type();
  kind_ = choose({x.device().type(), autocast, !product.window, depth * ternary::kActMax * info(method).limit < (1 << 24)});
  type_ = kind_ == Kind::kHalf ? *autocast : kind_ == Kind::kFloat32 ? at::kFloat : at::kDouble;
}

at::Tensor IntegerProduct::operator()(const at::Tensor& q, const at::Tensor& t) const {
  if (kind_ != Kind::kHalf) return product_(q, t);
  c10::SymDimVector shape(q.sym_sizes().begin(), q.sym_sizes().end());
  shape.back() = t.sym_size(0);
  return at::mm(as_matrix(q), t.t(), at::kFloat).view_symint(shape);
}

}  // namespace bitlab::ops
