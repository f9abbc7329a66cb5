// Between LibTorch's order of a weight and the canonical matrix [N, K] of encoders and kernels, whose K runs over (kernel..., c), c fastest.
#pragma once

#include <ATen/core/Tensor.h>

#include "bitlab/ternary/spec.h"

namespace bitlab::ops {

class WeightLayout {
 public:
  // weight: [N, K], [N, C / groups, kernel...] or, transposed, [C, N / groups, kernel...]. Throws ShapeMismatch.
  WeightLayout(const char* op, const at::Tensor& weight, bool transposed, int64_t groups);

  c10::SymInt rows() const;   // N
  c10::SymInt depth() const;  // K

  at::Tensor to_matrix(const at::Tensor& weight) const;    // contiguous [N, K]
  at::Tensor from_matrix(const at::Tensor& matrix) const;  // the shape of the weight

  // Scales as a tensor that multiplies the weight: [1], or its shape with 1 along dimensions that share one; by groups its whole shape.
  at::Tensor spread(const at::Tensor& scale, const ternary::WeightSpec& spec) const;
  // The sums of a tensor of the weight's shape over the weights that share a scale, [1] or [N].
  at::Tensor sum_to_scale(const at::Tensor& values, const ternary::WeightSpec& spec) const;

 private:
  c10::SymDimVector shape_;
  bool transposed_;
  int64_t groups_;
};

}  // namespace bitlab::ops
