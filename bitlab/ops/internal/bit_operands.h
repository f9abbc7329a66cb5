// What the operators of training keep between their forward and their backward pass, and the gradients at the quantized operands.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "bitlab/ops/internal/method.h"
#include "bitlab/ops/internal/product.h"

namespace bitlab::ops {

// The choices of a call, parsed.
struct Settings {
  Product product;
  ternary::WeightSpec spec;
  ternary::ActKind activation;
  double blend;
  std::string text;     // of the spec
  at::ScalarType type;  // of the result

  bool quantizes_x() const { return activation != ternary::ActKind::kNone; }
  // Whether the product is of integers, exact, with the contract's epilogue behind it.
  bool is_exact() const { return quantizes_x() && blend == 1 && spec.granularity != ternary::Granularity::kGroup; }
  // Whether the backward pass reads the latent weight.
  bool reads_latent() const {
    const MethodGradient* rule = gradient_rule(spec.method);
    return blend != 1 || (rule != nullptr ? rule->reads_latent : spec.gradient != ternary::Gradient::kStraightThrough);
  }
};

// Integers where they do, a quarter of the memory of the floats that they stand for.
struct Operands {
  at::Tensor q, a;  // of x; undefined where activations stay float
  QuantizedWeight weight;
  at::Tensor x, latent;  // floats, the latter float32; may be undefined where nothing asks for them

  // What the product is of, in float32 or, for a backward pass, a type of fewer bits.
  at::Tensor x_value(const Settings& s, at::ScalarType type = at::kFloat) const;
  at::Tensor weight_value(const Settings& s, at::ScalarType type = at::kFloat) const;
};

// The gradient that reaches the latent weight from g, that of the weight's value.
at::Tensor weight_gradient(const Settings& s, const Operands& o, at::TensorList learned, const at::Tensor& g);
// Those of the learned parameters.
std::vector<at::Tensor> learned_gradients(const Settings& s, const Operands& o, at::TensorList learned, const at::Tensor& g);
// Static activations: the gradient of x stops where q is clamped, and the step learns (LSQ, eq. 3 and section 2.2).
std::pair<at::Tensor, at::Tensor> static_gradients(const Settings& s, const Operands& o, const at::Tensor& act_scale,
                                                   const at::Tensor& g, bool needs_step);

}  // namespace bitlab::ops
