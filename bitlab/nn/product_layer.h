// What layers whose weight meets activations in a product (BitLinear, BitConv1d to BitConvTranspose3d) offer to calibration, conversion and
// analysis, whatever their dimensions.
#pragma once

#include "bitlab/nn/quantizer.h"

namespace bitlab::nn {

class ProductLayer {
 public:
  virtual ~ProductLayer() = default;

  struct View {
    at::Tensor weight, bias;  // bias may be undefined
    Quantizer& quantizer;
    const BitQuantConfig& quant;
    bool is_whole = true;  // every product is of all of the weight
  };
  virtual View view() = 0;

  // The layer's float map of x, as LibTorch computes it; padding other than zeros is around x already. `bias` may be undefined.
  virtual at::Tensor product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) const = 0;

  // Takes codes and scales over: the method becomes lsq by channel with the latent weight t s, so that codes are t and scales are as given,
  // and training can go on from there. Activations keep their kind and step. A bias is added where there was none. The weight and a bias stay the
  // tensors that they are; the scale is a new one, which an optimizer must be told.
  virtual void freeze(const FrozenWeight& frozen) = 0;
};

}  // namespace bitlab::nn
