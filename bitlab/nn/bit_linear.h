// A linear layer with ternary weights: docs/numerics.md, BitNet b1.58 (arXiv:2402.17764).
#pragma once

#include <ostream>

#include <torch/arg.h>
#include <torch/nn/pimpl.h>

#include "bitlab/nn/product_layer.h"

namespace bitlab::nn {

struct BitLinearOptions {
  BitLinearOptions(int64_t in_features, int64_t out_features) : in_features_(in_features), out_features_(out_features) {}
  TORCH_ARG(int64_t, in_features);
  TORCH_ARG(int64_t, out_features);
  // Adds a learned float32 bias.
  TORCH_ARG(bool, bias) = true;
  // How weights and activations are quantized; BitQuantConfig::none() makes a torch::nn::Linear of it.
  TORCH_ARG(BitQuantConfig, quant);
};

// x float32 [..., in_features] -> [..., out_features]. Parameters: weight [out_features, in_features], latent float32;
// bias [out_features]; those of the quantizer. Initialized as torch::nn::Linear. Errors: those of ops.h.
class BitLinearImpl : public TernaryLayer<BitLinearImpl>, public ProductLayer {
 public:
  BitLinearImpl(int64_t in_features, int64_t out_features) : BitLinearImpl(BitLinearOptions(in_features, out_features)) {}
  explicit BitLinearImpl(const BitLinearOptions& options_);

  void reset() override;
  void reset_parameters();
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& x);
  at::Tensor product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) const override;
  View view() override { return {weight, bias, quantizer, options.quant()}; }
  void freeze(const FrozenWeight& frozen) override;

  BitLinearOptions options;
  at::Tensor weight;
  at::Tensor bias;  // undefined without
};

TORCH_MODULE(BitLinear);

}  // namespace bitlab::nn
