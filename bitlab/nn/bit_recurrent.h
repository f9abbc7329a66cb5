// LSTM and GRU with ternary weights, of the inputs and of the hidden states.
#pragma once

#include <optional>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include <torch/arg.h>
#include <torch/nn/modules/common.h>
#include <torch/nn/modules/container/any.h>
#include <torch/nn/pimpl.h>

#include "bitlab/nn/product_layer.h"
#include "bitlab/nn/recurrent_layers.h"

namespace bitlab::nn {

struct BitRecurrentOptions {
  BitRecurrentOptions(int64_t input_size, int64_t hidden_size) : input_size_(input_size), hidden_size_(hidden_size) {}
  TORCH_ARG(int64_t, input_size);
  TORCH_ARG(int64_t, hidden_size);
  // Each reads the states of the one before it.
  TORCH_ARG(int64_t, num_layers) = 1;
  // Adds bias_ih and bias_hh, float32.
  TORCH_ARG(bool, bias) = true;
  // Inputs and outputs are [B, T, ...] in place of [T, B, ...].
  TORCH_ARG(bool, batch_first) = false;
  // Of what the layers but the last one give, in training.
  TORCH_ARG(double, dropout) = 0;
  // A second direction, from the last token to the first; its states stand behind those of the first one.
  TORCH_ARG(bool, bidirectional) = false;
  // How the weights of each layer and direction are quantized, and the inputs and hidden states, by token. Its smoothing does not matter.
  TORCH_ARG(BitQuantConfig, quant);
};
using BitLSTMOptions = BitRecurrentOptions;
using BitGRUOptions = BitRecurrentOptions;

// What both are: kernels/recurrent/recurrent.h has the formulas. With D directions, L layers and H hidden values:
//
//   x float32 [T, B, input_size], [B, T, input_size] under batch_first, or [T, input_size]; T at least 1
//   -> output [..., D H], h_n (and c_n) [L D, B, H], without B for a single sample; h_0 (and c_0), of the same shape, are zeros where they are left out
//
// Parameters of layer k: weight_ih_l<k> [gates H, input_size or D H], weight_hh_l<k> [gates H, H], latent float32, bias_ih_l<k> and bias_hh_l<k>
// [gates H]; of the other direction the same with _reverse behind; then those of the quantizers, with the suffix of their weight: weight_scale_ih_l0.
// Initialized as in torch::nn; a static step of hidden states begins at 1 / limit, since they lie in (-1, 1). Without quantization: LibTorch's layer.
// Errors: InvalidArgument (options), ShapeMismatch (x, states), those of ops.h.
template <class Derived>
class BitRecurrent : public torch::nn::Cloneable<Derived>, public Quantized, public ProductLayers {
 public:
  void reset() override;
  void reset_parameters();
  void pretty_print(std::ostream& stream) const override;
  void train(bool on = true) override;
  std::vector<Quantizer*> own_quantizers() override;
  // Freezing one of a layer without biases gives all of them one.
  std::vector<std::pair<std::string, std::shared_ptr<ProductLayer>>> product_layers() override;

  // Makes the parameters of another module, which has the same names, the layer's own: the same tensors. Learned scales begin from the weights.
  void adopt(const torch::nn::Module& source);

  BitRecurrentOptions options;

 protected:
  explicit BitRecurrent(const BitRecurrentOptions& options_) : options(options_) { reset(); }

  // Of x and of the states to begin with, which may be undefined.
  RecurrentOutputs run(const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0);

 private:
  // A weight with what belongs to it.
  struct Product {
    at::Tensor weight, bias;
    BitQuantConfig quant{};
    Quantizer quantizer{};
    bool is_frozen = false;
  };
  class Layer;
  struct Direction {
    Product ih, hh;
  };
  // f(product, what is behind its names, its depth, its use) of all.
  template <class F>
  void for_each_product(const F& f);
  void register_bias(Product& product, const std::string& suffix);
  void check(const at::Tensor& x, const at::Tensor& h0, const at::Tensor& c0) const;
  RecurrentOutputs run_float(const at::Tensor& x, const RecurrentOutputs& begin);
  RecurrentOutputs run_ternary(const at::Tensor& x, const RecurrentOutputs& begin);

  std::vector<Direction> directions_;  // of layer 0, then of layer 1, ...
};

// Hochreiter and Schmidhuber 1997, with the gates i, f, g, o.
class BitLSTMImpl : public BitRecurrent<BitLSTMImpl> {
 public:
  static constexpr ops::RecurrentCell kCell = ops::RecurrentCell::kLstm;
  static constexpr const char* kName = "BitLSTM";
  BitLSTMImpl(int64_t input_size, int64_t hidden_size) : BitLSTMImpl(BitLSTMOptions(input_size, hidden_size)) {}
  explicit BitLSTMImpl(const BitLSTMOptions& options_) : BitRecurrent(options_) {}

  using Hidden = std::tuple<at::Tensor, at::Tensor>;  // h, c
  std::tuple<at::Tensor, Hidden> forward(const at::Tensor& x, const std::optional<Hidden>& hx = std::nullopt);

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(std::optional<Hidden>())})
};
extern template class BitRecurrent<BitLSTMImpl>;
TORCH_MODULE(BitLSTM);

// Cho et al. 2014 (arXiv:1406.1078), with the gates r, z, n; the second bias of n within the reset gate.
class BitGRUImpl : public BitRecurrent<BitGRUImpl> {
 public:
  static constexpr ops::RecurrentCell kCell = ops::RecurrentCell::kGru;
  static constexpr const char* kName = "BitGRU";
  BitGRUImpl(int64_t input_size, int64_t hidden_size) : BitGRUImpl(BitGRUOptions(input_size, hidden_size)) {}
  explicit BitGRUImpl(const BitGRUOptions& options_) : BitRecurrent(options_) {}

  std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& x, const at::Tensor& hx = {});

 protected:
  FORWARD_HAS_DEFAULT_ARGS({1, torch::nn::AnyValue(at::Tensor())})
};
extern template class BitRecurrent<BitGRUImpl>;
TORCH_MODULE(BitGRU);

}  // namespace bitlab::nn
