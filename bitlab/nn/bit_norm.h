// Norms whose weight is ternary: each channel is left out, kept or turned, by one scale. The bias stays float32.
#pragma once

#include <ostream>
#include <vector>

#include <torch/arg.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/pimpl.h>

#include "bitlab/nn/quantizer.h"

namespace bitlab::nn {

struct BitLayerNormOptions {
  explicit BitLayerNormOptions(std::vector<int64_t> normalized_shape) : normalized_shape_(std::move(normalized_shape)) {}
  // The last sizes of x, over which it is normalized.
  TORCH_ARG(std::vector<int64_t>, normalized_shape);
  // Added to the variance.
  TORCH_ARG(double, eps) = 1e-5;
  // Whether there are a weight and a bias.
  TORCH_ARG(bool, elementwise_affine) = true;
  TORCH_ARG(bool, bias) = true;
  TORCH_ARG(BitQuantConfig, quant);
};

// As torch::nn::LayerNorm with w' = t s of its weight: ((x - mean) / sqrt(variance + eps)) w' + b; arXiv:1607.06450.
// Parameters: weight and bias of normalized_shape, ones and zeros to begin with; those of the quantizer. Scales "channel" are one scale.
class BitLayerNormImpl : public TernaryLayer<BitLayerNormImpl> {
 public:
  explicit BitLayerNormImpl(std::vector<int64_t> normalized_shape)
      : BitLayerNormImpl(BitLayerNormOptions(std::move(normalized_shape))) {}
  explicit BitLayerNormImpl(BitLayerNormOptions options_);
  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& x);

  BitLayerNormOptions options;
  at::Tensor weight, bias;  // undefined without
};
TORCH_MODULE(BitLayerNorm);

struct BitRMSNormOptions {
  explicit BitRMSNormOptions(std::vector<int64_t> normalized_shape) : normalized_shape_(std::move(normalized_shape)) {}
  TORCH_ARG(std::vector<int64_t>, normalized_shape);
  // Added to the mean of squares.
  TORCH_ARG(double, eps) = 1e-6;
  TORCH_ARG(bool, elementwise_affine) = true;
  TORCH_ARG(BitQuantConfig, quant);
};

// x / sqrt(mean of x^2 + eps) w'; arXiv:1910.07467. Parameters: weight of normalized_shape, ones to begin with; those of the quantizer.
class BitRMSNormImpl : public TernaryLayer<BitRMSNormImpl> {
 public:
  explicit BitRMSNormImpl(std::vector<int64_t> normalized_shape)
      : BitRMSNormImpl(BitRMSNormOptions(std::move(normalized_shape))) {}
  explicit BitRMSNormImpl(BitRMSNormOptions options_);
  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& x);

  BitRMSNormOptions options;
  at::Tensor weight;  // undefined without
};
TORCH_MODULE(BitRMSNorm);

struct BitGroupNormOptions {
  BitGroupNormOptions(int64_t num_groups, int64_t num_channels) : num_groups_(num_groups), num_channels_(num_channels) {}
  TORCH_ARG(int64_t, num_groups);
  TORCH_ARG(int64_t, num_channels);
  TORCH_ARG(double, eps) = 1e-5;
  TORCH_ARG(bool, affine) = true;
  TORCH_ARG(BitQuantConfig, quant);
};

// As torch::nn::GroupNorm with w' = t s of its weight; arXiv:1803.08494. x [B, num_channels, ...]. Parameters: weight and bias
// [num_channels], ones and zeros to begin with; those of the quantizer. Error: InvalidArgument: num_groups does not divide num_channels.
class BitGroupNormImpl : public TernaryLayer<BitGroupNormImpl> {
 public:
  BitGroupNormImpl(int64_t num_groups, int64_t num_channels)
      : BitGroupNormImpl(BitGroupNormOptions(num_groups, num_channels)) {}
  explicit BitGroupNormImpl(BitGroupNormOptions options_);
  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& x);

  BitGroupNormOptions options;
  at::Tensor weight, bias;  // undefined without
};
TORCH_MODULE(BitGroupNorm);

enum class NormKind { kLayer, kRms };
std::string_view name(NormKind kind);  // "layer", "rms"

// A norm over the last dimension, where blocks let one choose.
struct BitNormOptions {
  explicit BitNormOptions(int64_t size) : size_(size) { quant_ = BitQuantConfig::none(); }
  TORCH_ARG(int64_t, size);
  TORCH_ARG(NormKind, kind) = NormKind::kLayer;
  TORCH_ARG(double, eps) = 1e-5;
  // Of a layer norm; RMS norms have none.
  TORCH_ARG(bool, bias) = true;
  // Not ternary by default.
  TORCH_ARG(BitQuantConfig, quant);
};
// A BitLayerNorm or a BitRMSNorm.
torch::nn::AnyModule make_norm(const BitNormOptions& options);

}  // namespace bitlab::nn
