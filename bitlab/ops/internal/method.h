// How a method that learns gets its gradients: methods/<name>.cc has the rule of each row of methods.def with learned parameters. Other methods
// follow the gradient of their spec (bit_gradients.cc).
#pragma once

#include <vector>

#include "bitlab/ops/layout.h"
#include "bitlab/ops/ops.h"

namespace bitlab::ops {

// What a rule reads: the encoding of a weight, and what it was made from.
struct EncodedWeight {
  const WeightLayout& layout;
  const ternary::WeightSpec& spec;
  const QuantizedWeight& weight;
  const at::Tensor& latent;      // undefined where the rule does not read it
  const at::TensorList learned;  // in the order of methods.def

  // Scales in the shape of the weight, and sums over the weights that share one.
  at::Tensor spread(const at::Tensor& scale) const { return layout.spread(scale, spec); }
  at::Tensor sum(const at::Tensor& values) const { return layout.sum_to_scale(values, spec); }
};

struct MethodGradient {
  bool reads_latent;
  // What of the gradient at the weight's value t s reaches the latent weight, as a factor; undefined: all.
  at::Tensor (*slope)(const EncodedWeight& of);
  // The gradients of the learned parameters, from g, that at the weight's value.
  std::vector<at::Tensor> (*parameters)(const EncodedWeight& of, const at::Tensor& g);
};

// Null where nothing is learned.
const MethodGradient* gradient_rule(ternary::Method method);

#define BITLAB_METHOD(Name, ...) extern const MethodGradient k##Name##Gradient;  // of methods that learn
#include "bitlab/ternary/methods.def"
#undef BITLAB_METHOD

}  // namespace bitlab::ops
