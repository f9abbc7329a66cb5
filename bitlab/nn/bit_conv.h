// Convolutions with ternary weights over one, two or three dimensions, plain and transposed: docs/numerics.md.
//
//   BitConv1d, BitConv2d, BitConv3d                              as torch::nn::Conv1d to Conv3d
//   BitConvTranspose1d, BitConvTranspose2d, BitConvTranspose3d   as torch::nn::ConvTranspose1d to 3d
#pragma once

#include <initializer_list>
#include <ostream>

#include <torch/arg.h>
#include <torch/expanding_array.h>
#include <torch/nn/options/conv.h>
#include <torch/nn/pimpl.h>

#include "bitlab/nn/product_layer.h"
#include "bitlab/ops/padding.h"

namespace bitlab::nn {

template <size_t D>
struct BitConvOptions {
  using padding_t = typename torch::nn::ConvOptions<D>::padding_t;
  using padding_mode_t = typename torch::nn::ConvOptions<D>::padding_mode_t;

  BitConvOptions(int64_t in_channels, int64_t out_channels, torch::ExpandingArray<D> kernel_size)
      : in_channels_(in_channels), out_channels_(out_channels), kernel_size_(std::move(kernel_size)) {}
  TORCH_ARG(int64_t, in_channels);
  TORCH_ARG(int64_t, out_channels);
  TORCH_ARG(torch::ExpandingArray<D>, kernel_size);
  TORCH_ARG(torch::ExpandingArray<D>, stride) = 1;
  // On both sides of each size; torch::kValid: none; torch::kSame: so much that the output has the input's sizes, with a stride of 1.
  // Of transposed convolutions, numbers alone.
  TORCH_ARG(padding_t, padding) = 0;

 public:
  // \cond   the reference has one entry for a name
  auto& padding(std::initializer_list<int64_t> sizes) { return padding(torch::ExpandingArray<D>(sizes)); }
  // \endcond

  // Added to the output's size on one side; of transposed convolutions.
  TORCH_ARG(torch::ExpandingArray<D>, output_padding) = 0;
  TORCH_ARG(torch::ExpandingArray<D>, dilation) = 1;
  // Of channels: group i of the filters sees group i of the channels.
  TORCH_ARG(int64_t, groups) = 1;
  // Adds a learned float32 bias.
  TORCH_ARG(bool, bias) = true;
  // How an input is continued beyond its edges: torch::kZeros, kReflect (mirrored without the edge), kReplicate (the edge's value),
  // kCircular (the other end). Transposed convolutions have zeros alone.
  TORCH_ARG(padding_mode_t, padding_mode) = torch::kZeros;
  // How weights and activations are quantized; BitQuantConfig::none() makes LibTorch's layer of it.
  TORCH_ARG(BitQuantConfig, quant);
};

// x float32 [B, in_channels, sizes...] or without B -> [.., out_channels, sizes...]; activations share a scale by sample.
// Parameters: weight [out_channels, in_channels / groups, kernel...], or [in_channels, out_channels / groups, kernel...] where it is
// transposed, latent float32; bias [out_channels]; those of the quantizer. Initialized as LibTorch's layers. Errors: those of ops.h, and
// InvalidArgument for options that do not fit.
template <size_t D, bool kTransposed, class Derived>
class BitConvNd : public TernaryLayer<Derived>, public ProductLayer {
 public:
  explicit BitConvNd(BitConvOptions<D> options_) : options(std::move(options_)) { reset(); }

  void reset() override;
  void reset_parameters();
  void pretty_print(std::ostream& stream) const override;
  at::Tensor forward(const at::Tensor& x);
  at::Tensor product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) const override;
  View view() override { return {weight, bias, this->quantizer, options.quant()}; }
  void freeze(const FrozenWeight& frozen) override;

  BitConvOptions<D> options;
  at::Tensor weight;
  at::Tensor bias;  // undefined without

 private:
  bool has_zeros() const;            // around x
  ops::SamePadding margins() const;  // around x
  ops::ConvWindow window() const;    // of the operators, whose x has what is not zeros, or odd, around it already
};

#define BITLAB_CONV(Name, D, transposed)                                                        \
  class Name##Impl : public BitConvNd<D, transposed, Name##Impl> {                              \
   public:                                                                                      \
    Name##Impl(int64_t in_channels, int64_t out_channels, torch::ExpandingArray<D> kernel_size) \
        : Name##Impl(BitConvOptions<D>(in_channels, out_channels, std::move(kernel_size))) {}   \
    explicit Name##Impl(BitConvOptions<D> options_) : BitConvNd(std::move(options_)) {}         \
  };                                                                                            \
  extern template class BitConvNd<D, transposed, Name##Impl>;                                   \
  TORCH_MODULE(Name);
BITLAB_CONV(BitConv1d, 1, false)
BITLAB_CONV(BitConv2d, 2, false)
BITLAB_CONV(BitConv3d, 3, false)
BITLAB_CONV(BitConvTranspose1d, 1, true)
BITLAB_CONV(BitConvTranspose2d, 2, true)
BITLAB_CONV(BitConvTranspose3d, 3, true)
#undef BITLAB_CONV

using BitConv1dOptions = BitConvOptions<1>;
using BitConv2dOptions = BitConvOptions<2>;
using BitConv3dOptions = BitConvOptions<3>;

}  // namespace bitlab::nn
