#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sqrt.h>

#include "bitlab/ops/internal/check.h"
#include "bitlab/ops/internal/implementations.h"

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
  std::vector<int64_t> shape(static_cast<size_t>(x.dim() - 1), 1);
  shape[0] = mean.size(0);
  return at::add(at::mul(x, alpha.to(x.scalar_type()).view(shape)), beta.to(x.scalar_type()).view(shape));
}

}  // namespace any_device
}  // namespace bitlab::ops
