// A two-dimensional convolution with ternary weights and int8 activations: docs/numerics.md.
#pragma once

#include <ostream>

#include <torch/arg.h>
#include <torch/expanding_array.h>
#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include "bitlab/nn/quantizer.h"

namespace bitlab::nn {

struct BitConv2dOptions {
  BitConv2dOptions(int64_t in_channels, int64_t out_channels, torch::ExpandingArray<2> kernel_size)
      : in_channels_(in_channels), out_channels_(out_channels), kernel_size_(std::move(kernel_size)) {}
  TORCH_ARG(int64_t, in_channels);
  TORCH_ARG(int64_t, out_channels);
  TORCH_ARG(torch::ExpandingArray<2>, kernel_size);
  TORCH_ARG(torch::ExpandingArray<2>, stride) = 1;
  // Zeros on each side.
  TORCH_ARG(torch::ExpandingArray<2>, padding) = 0;
  TORCH_ARG(torch::ExpandingArray<2>, dilation) = 1;
  // Adds a learned float32 bias.
  TORCH_ARG(bool, bias) = true;
  // How weights and activations are quantized; BitQuantConfig::none() makes a torch::nn::Conv2d of it.
  TORCH_ARG(BitQuantConfig, quant);
};

// x float32 [B, in_channels, H, W] or [in_channels, H, W] -> [.., out_channels, out_h, out_w]; activations share a scale by sample.
// Parameters: weight [out_channels, in_channels, kh, kw], latent float32; bias [out_channels]. Initialized as torch::nn::Conv2d.
// Errors: those of ops.h.
class BitConv2dImpl : public torch::nn::Cloneable<BitConv2dImpl> {
 public:
  BitConv2dImpl(int64_t in_channels, int64_t out_channels, torch::ExpandingArray<2> kernel_size)
      : BitConv2dImpl(BitConv2dOptions(in_channels, out_channels, std::move(kernel_size))) {}
  explicit BitConv2dImpl(const BitConv2dOptions& options_);

  void reset() override;
  void reset_parameters();
  void train(bool on = true) override;
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& x);

  BitConv2dOptions options;
  at::Tensor weight;
  at::Tensor bias;  // undefined without

 private:
  WeightCodes codes_;
};

TORCH_MODULE(BitConv2d);

}  // namespace bitlab::nn
