// lsq: the gradient of a weight stops where it is clamped, and the scale learns from what rounding moved, slowed down by the root of the number of
// weights (arXiv:1902.08153, eq. 3 and section 2.2).
#include <ATen/TensorOperators.h>

#include "bitlab/ops/internal/method.h"

namespace bitlab::ops {
namespace {

at::Tensor lsq_slope(const EncodedWeight& of) { return (of.latent.abs() < of.spread(of.weight.scale)).to(at::kFloat); }

std::vector<at::Tensor> lsq_scale(const EncodedWeight& of, const at::Tensor& g) {
  const at::Tensor ratio = of.latent / of.spread(of.weight.scale), inside = (ratio.abs() < 1).to(at::kFloat);
  const at::Tensor sums = of.sum(g * (of.weight.t.to(at::kFloat) - ratio * inside));
  const c10::SymFloat shared = c10::SymFloat(of.latent.sym_numel()) / c10::SymFloat(sums.sym_numel());
  return {sums * of.learned[0].sign() / at::Scalar(shared.sqrt())};
}

}  // namespace

constinit const MethodGradient kLsqGradient{.reads_latent = true, .slope = lsq_slope, .parameters = lsq_scale};

}  // namespace bitlab::ops
