#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sqrt.h>

#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/implementations.h"
#include "bitlab/ops/internal/traced.h"

namespace bitlab::ops {

ChannelAffine batch_norm_affine(const OptionalTensor& weight, const OptionalTensor& bias, const at::Tensor& mean,
                                const at::Tensor& variance, double eps) {
  const auto given = [](const OptionalTensor& t) { return t && t->defined(); };  // layers of LibTorch pass undefined ones
  const at::Tensor deviation = at::sqrt(variance.to(at::kDouble) + eps);
  const at::Tensor alpha = given(weight) ? weight->to(at::kDouble) / deviation : deviation.reciprocal();
  const at::Tensor shift = mean.to(at::kDouble) * alpha;
  return {alpha, given(bias) ? bias->to(at::kDouble) - shift : -shift};
}

namespace any_device {

at::Tensor batch_norm(const at::Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const at::Tensor& mean,
                      const at::Tensor& variance, double eps) {
  require(x.dim() >= 2 && x.sym_size(1) == mean.sym_size(0), ErrorCode::kShapeMismatch,
          "[batch_norm] x [B, {}, ...], got {}", show(mean.sym_size(0)), show(x));
  const auto [alpha, beta] = batch_norm_affine(weight, bias, mean, variance, eps);
  c10::SymDimVector shape(static_cast<size_t>(x.dim() - 1), 1);
  shape[0] = mean.sym_size(0);
  const auto by_channel = [&](const at::Tensor& values) { return in_type(values, x.scalar_type()).view_symint(shape); };
  return at::add(at::mul(x, by_channel(alpha)), by_channel(beta));
}

}  // namespace any_device
}  // namespace bitlab::ops
