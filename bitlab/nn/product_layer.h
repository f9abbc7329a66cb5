// What layers whose weights meet activations in a product (BitLinear, BitConv1d to BitConvTranspose3d, BitLSTM, BitGRU) offer to calibration,
// conversion and analysis, whatever their dimensions.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

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

// A module of several products, such as a recurrent layer.
class ProductLayers {
 public:
  virtual ~ProductLayers() = default;
  // In the order in which they run, by the names of their weights. They live no longer than the module.
  virtual std::vector<std::pair<std::string, std::shared_ptr<ProductLayer>>> product_layers() = 0;
};

// A product of a network.
struct FoundProduct {
  std::string path;    // of its module
  std::string name;    // the same, and the weight's name where the module has several
  std::string suffix;  // of its weight's name, and of what belongs to it: "_ih_l0", or nothing
  std::shared_ptr<torch::nn::Module> module;
  std::shared_ptr<ProductLayer> layer;
};
// Those of all modules below this one, a module's one after the other; a module with several places has its first one.
std::vector<FoundProduct> products_of(const torch::nn::Module& network);

}  // namespace bitlab::nn
