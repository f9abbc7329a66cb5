#include "bitlab/ops/internal/product.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>

namespace bitlab::ops {

at::Tensor Product::operator()(const at::Tensor& x, const at::Tensor& weight) const {
  if (!window) return at::linear(x, weight);
  return at::convolution(x, weight, {}, window->stride, window->padding, window->dilation, window->transposed,
                         window->output_padding, window->groups);
}

std::array<at::Tensor, 3> Product::backward(const at::Tensor& g, const at::Tensor& x, const at::Tensor& weight,
                                            std::array<bool, 3> needed) const {
  if (window) {
    auto [gx, gw, gb] =
        at::convolution_backward(g, x, weight, at::OptionalIntArrayRef(g.size(1)), window->stride, window->padding,
                                 window->dilation, window->transposed, window->output_padding, window->groups, needed);
    return {gx, gw, gb};
  }
  const at::Tensor rows = g.reshape_symint({-1, g.sym_size(-1)});
  at::Tensor gx, gw, gb;
  if (needed[0]) gx = g.matmul(weight);
  if (needed[1]) gw = rows.t().matmul(x.reshape_symint({-1, x.sym_size(-1)}));
  if (needed[2]) gb = rows.sum(0);
  return {gx, gw, gb};
}

IntegerProduct::Kind IntegerProduct::choose(const Facts& facts) {
  if (!facts.fits_float32) return Kind::kFloat64;
  const bool has_units = facts.device == c10::DeviceType::CUDA && facts.is_linear;
  return has_units && facts.autocast ? Kind::kHalf : Kind::kFloat32;
}

IntegerProduct::IntegerProduct(const Product& product, const at::Tensor& x, const c10::SymInt& depth, ternary::Method method)
    : product_(product) {
  const c10::DeviceType device = x.device().type();
  std::optional<at::ScalarType> autocast;
  if (at::autocast::is_autocast_available(device) && at::autocast::is_autocast_enabled(device))
    autocast = at::autocast::get_autocast_dtype(device);
  kind_ = choose({device, autocast, !product.window, depth * ternary::kActMax * info(method).limit < (1 << 24)});
  type_ = kind_ == Kind::kHalf ? *autocast : kind_ == Kind::kFloat32 ? at::kFloat : at::kDouble;
}

at::Tensor IntegerProduct::operator()(const at::Tensor& q, const at::Tensor& t) const {
  if (kind_ != Kind::kHalf) return product_(q, t);
  std::vector<int64_t> shape = q.sizes().vec();
  shape.back() = t.size(0);
  return at::mm(q.reshape({-1, q.size(-1)}), t.t(), at::kFloat).view(shape);
}

}  // namespace bitlab::ops
