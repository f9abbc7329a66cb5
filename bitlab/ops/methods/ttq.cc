// ttq: a scale learns from the weights that it multiplies, and scales their gradient (arXiv:1612.01064, eq. 7 and 8).
#include <ATen/TensorOperators.h>
#include <ATen/ops/where.h>

#include "bitlab/ops/internal/method.h"

namespace bitlab::ops {
namespace {

at::Tensor ttq_slope(const EncodedWeight& of) {
  const at::Tensor& t = of.weight.t;
  return at::where(t > 0, of.spread(of.weight.scale), at::where(t < 0, of.spread(of.weight.scale_neg), 1.0));
}

std::vector<at::Tensor> ttq_scales(const EncodedWeight& of, const at::Tensor& g) {
  const at::Tensor& t = of.weight.t;
  return {of.sum(g * (t > 0)), of.sum(-(g * (t < 0)))};
}

}  // namespace

constinit const MethodGradient kTtqGradient{.reads_latent = false, .slope = ttq_slope, .parameters = ttq_scales};

}  // namespace bitlab::ops
