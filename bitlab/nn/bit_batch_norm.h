// Batch norms whose evaluation is the affine step of the numeric contract: docs/numerics.md.
//
//   BitBatchNorm1d, BitBatchNorm2d, BitBatchNorm3d   as torch::nn::BatchNorm1d to BatchNorm3d; arXiv:1502.03167
#pragma once

#include <optional>
#include <ostream>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

namespace bitlab::nn {

struct BitBatchNormOptions {
  explicit BitBatchNormOptions(int64_t num_features) : num_features_(num_features) {}
  TORCH_ARG(int64_t, num_features);
  // Added to the variance.
  TORCH_ARG(double, eps) = 1e-5;
  // Share of a new batch in the running statistics; none: each batch counts the same.
  TORCH_ARG(std::optional<double>, momentum) = 0.1;
  // Whether there are a weight and a bias.
  TORCH_ARG(bool, affine) = true;
  // Without, evaluation normalizes by the batch, too.
  TORCH_ARG(bool, track_running_stats) = true;
};

// x [B, C, sizes...] -> the same shape; 1d: [B, C] or [B, C, L]. Nothing in it is ternary. Training is LibTorch's. Evaluation with running
// statistics is ops::batch_norm(), the bits that a deployed file computes.
// Parameters: weight and bias [C], ones and zeros to begin with. Buffers: running_mean, running_var [C], num_batches_tracked int64 [].
// Error: ShapeMismatch.
template <size_t D, class Derived>
class BitBatchNormNd : public torch::nn::Cloneable<Derived> {
 public:
  explicit BitBatchNormNd(const BitBatchNormOptions& options_) : options(options_) { reset(); }

  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& x);

  BitBatchNormOptions options;
  at::Tensor weight, bias;                                    // undefined unless affine
  at::Tensor running_mean, running_var, num_batches_tracked;  // undefined where they are not tracked
};

#define BITLAB_BATCH_NORM(Name, D)                                                               \
  class Name##Impl : public BitBatchNormNd<D, Name##Impl> {                                      \
   public:                                                                                       \
    explicit Name##Impl(int64_t num_features) : Name##Impl(BitBatchNormOptions(num_features)) {} \
    explicit Name##Impl(const BitBatchNormOptions& options_) : BitBatchNormNd(options_) {}       \
  };                                                                                             \
  extern template class BitBatchNormNd<D, Name##Impl>;                                           \
  TORCH_MODULE(Name);
BITLAB_BATCH_NORM(BitBatchNorm1d, 1)
BITLAB_BATCH_NORM(BitBatchNorm2d, 2)
BITLAB_BATCH_NORM(BitBatchNorm3d, 3)
#undef BITLAB_BATCH_NORM

}  // namespace bitlab::nn
