// tga: the threshold learns through the scale, whose slope in D is that of a Gaussian cut at D (arXiv:1810.01018). With weights of mean zero and
// of the deviation d = sqrt(mean w^2), the mean of |w| beyond D is d h(D / d), where h is the density over the tail of the normal distribution,
// and its slope is
//
//   ds/dD = h(z) (h(z) - z),  z = D / d
//
// The scale itself is the weights' own mean. All of the gradient reaches the latent weight.
#include <cmath>
#include <numbers>

#include <ATen/TensorOperators.h>
#include <ATen/ops/special_erfcx.h>

#include "bitlab/ops/internal/method.h"

namespace bitlab::ops {
namespace {

at::Tensor tga_slope(const EncodedWeight& /*of*/) { return {}; }

// In float64: h(z) - z is a small difference where z is large.
at::Tensor slope_of_scale(const at::Tensor& threshold, const at::Tensor& deviation) {
  const at::Tensor z = threshold.to(at::kDouble) / deviation.to(at::kDouble).clamp_min(1e-30);
  const at::Tensor h = std::sqrt(2 / std::numbers::pi) / at::special_erfcx(z / std::numbers::sqrt2);
  return h * (h - z);
}

std::vector<at::Tensor> tga_threshold(const EncodedWeight& of, const at::Tensor& g) {
  const at::Tensor squares = of.sum(of.latent.square());
  const c10::SymFloat shared = c10::SymFloat(of.latent.sym_numel()) / c10::SymFloat(squares.sym_numel());
  const at::Tensor slope = slope_of_scale(of.weight.threshold, (squares / at::Scalar(shared)).sqrt()).to(at::kFloat);
  return {of.sum(g * of.weight.t) * slope * of.learned[0].sign()};
}

}  // namespace

constinit const MethodGradient kTgaGradient{.reads_latent = true, .slope = tga_slope, .parameters = tga_threshold};

}  // namespace bitlab::ops
