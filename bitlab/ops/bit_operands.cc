#include "bitlab/ops/internal/bit_operands.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/where.h>

#include "bitlab/ops/internal/traced.h"

namespace bitlab::ops {
namespace {

at::Tensor blended_value(const at::Tensor& quantized, const at::Tensor& latent, double blend) {
  return blend == 1 ? quantized : latent + (quantized - latent) * blend;
}

// The product of integers and their scale, on its way to a value of `type`: what is blended is so in float32. Small scales are none of float16's numbers, though
// their products may be.
at::Tensor scaled(const at::Tensor& integers, const at::Tensor& scale, const Settings& s, at::ScalarType type) {
  const at::ScalarType product = s.blend == 1 ? type : at::kFloat;
  if (product != at::kHalf) return integers * in_type(scale, product);
  at::Tensor values = at::empty_like(integers, integers.options().dtype(product));
  return at::mul_out(values, integers, scale);
}

// g scaled by a slope that holds for the quantized part; an undefined slope is 1.
at::Tensor blended(const at::Tensor& g, const at::Tensor& slope, double blend) {
  if (!slope.defined()) return g;
  return blend == 1 ? g * slope : g * (slope * blend + (1 - blend));
}

// Of methods that leave the gradient to the spec.
at::Tensor chosen_slope(const EncodedWeight& of) {
  if (of.spec.gradient == ternary::Gradient::kStraightThrough) return {};
  const at::Tensor threshold = of.spread(of.weight.threshold);
  if (of.spec.gradient == ternary::Gradient::kClipped) return (of.latent.abs() <= 2 * threshold).to(at::kFloat);
  const at::Tensor unit = threshold.clamp_min(1e-30);  // where a threshold is zero, everything is far above it
  const at::Tensor u = of.latent / unit, up = at::tanh(2 * (u - 1)), down = at::tanh(2 * (u + 1));
  const at::Tensor& second = of.weight.scale_neg.defined() ? of.weight.scale_neg : of.weight.scale;
  return (of.spread(of.weight.scale) * (1 - up * up) + of.spread(second) * (1 - down * down)) / unit;
}

}  // namespace

at::Tensor Operands::x_value(const Settings& s, at::ScalarType type) const {
  if (!s.quantizes_x()) return in_type(x, type);
  return in_type(blended_value(scaled(q, a, s, type), x, s.blend), type);
}

at::Tensor Operands::weight_value(const Settings& s, at::ScalarType type) const {
  const WeightLayout layout = s.product.layout(weight.t);
  const at::Tensor scale = layout.spread(weight.scale, s.spec);
  if (!weight.scale_neg.defined()) return in_type(blended_value(scaled(weight.t, scale, s, type), latent, s.blend), type);
  const at::Tensor t = weight.t.to(at::kFloat);
  const at::Tensor negative = at::where(t < 0, -layout.spread(weight.scale_neg, s.spec), t);
  return in_type(blended_value(at::where(t > 0, scale, negative), latent, s.blend), type);
}

at::Tensor weight_gradient(const Settings& s, const Operands& o, at::TensorList learned, const at::Tensor& g) {
  const WeightLayout layout = s.product.layout(o.weight.t);
  const EncodedWeight of{layout, s.spec, o.weight, o.latent, learned};
  const MethodGradient* rule = gradient_rule(s.spec.method);
  return blended(g, rule != nullptr ? rule->slope(of) : chosen_slope(of), s.blend);
}

std::vector<at::Tensor> learned_gradients(const Settings& s, const Operands& o, at::TensorList learned,
                                          const at::Tensor& g) {
  const WeightLayout layout = s.product.layout(o.weight.t);
  return gradient_rule(s.spec.method)->parameters({layout, s.spec, o.weight, o.latent, learned}, g * s.blend);
}

std::pair<at::Tensor, at::Tensor> static_gradients(const Settings& s, const Operands& o, const at::Tensor& act_scale,
                                                   const at::Tensor& product_g, bool needs_step) {
  const at::Tensor g = in_type(product_g, at::kFloat);
  const double limit = act_limit(s.activation);
  const at::Tensor ratio = o.x / act_scale, inside = (ratio.abs() < limit).to(at::kFloat);
  at::Tensor step;
  if (needs_step)
    step = ((g * s.blend) * (o.q.to(at::kFloat) - ratio * inside)).sum().reshape({1}) /
           at::Scalar((c10::SymFloat(o.x.sym_numel()) * limit).sqrt());
  return {blended(g, inside, s.blend), step};
}

}  // namespace bitlab::ops
