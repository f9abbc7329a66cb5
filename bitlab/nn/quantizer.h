// What the ternary layers share: how a layer's weight and activations are quantized, with the parameters that this takes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <torch/nn/cloneable.h>

#include "bitlab/config/config.h"
#include "bitlab/ops/layout.h"
#include "bitlab/ops/ops.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::nn {

// Codes and scales that are a layer's own: no encoder changes them any more.
struct FrozenWeight {
  at::Tensor t;      // [the weight's shape], in {-1, 0, 1}
  at::Tensor scale;  // float32 [N], at least ternary::kScaleEpsilon
  at::Tensor bias;   // float32 [N]
};

// A number of a tensor, which checkpoints hold and the host reads in each forward pass. Of a tensor on a device, which the host would wait for, it is
// read again only where somebody else wrote it.
template <class Number>
class HostNumber {
 public:
  Number of(const at::Tensor& tensor) {
    if (tensor.is_cpu()) return tensor.item<Number>();
    const SeenAt now{tensor.unsafeGetTensorImpl(), tensor._version()};
    if (seen_ != now) value_ = tensor.item<Number>(), seen_ = now;
    return value_;
  }
  void set(const at::Tensor& tensor, Number value) {
    const at::NoGradGuard no_grad;
    tensor.fill_(value);
    value_ = value, seen_ = {tensor.unsafeGetTensorImpl(), tensor._version()};
  }

 private:
  using SeenAt = std::pair<const void*, int64_t>;
  Number value_{};
  SeenAt seen_{};
};

// Gives a static step its beginning where it has none, LSQ's (arXiv:1902.08153, section 2.1): 2 mean|x| / sqrt(limit), with the largest |q| as limit.
// act_scale float32 [1], 0 where it has not begun.
void begin_act_scale(at::Tensor& act_scale, const at::Tensor& x, ternary::ActKind activation);

// The configuration of a frozen layer.
BitQuantConfig frozen_config(BitQuantConfig quant);

// The quantization of one layer. Registers with the layer, where its configuration asks for them,
//
//   weight_scale, weight_scale_neg, weight_threshold
//                 float32 [1] or [N], parameters: what the method learns, of ternary/methods.def
//   act_scale     float32 [1], a parameter: the step of static activations; 0 until the first forward pass in training, or a
//                 calibration, sets it
//   blend         float64 [], a buffer: 1, or lower while the layer warms up from float to ternary. It counts in training mode: in eval
//                 a layer is ternary, as it is deployed
//   draw          int64 [], a buffer of stochastic rounding: the draw of the last forward pass in training (ternary/internal/draw.h). It begins
//                 at a number from LibTorch's generator, so that a seed and a checkpoint give the same bits again
//   input_scale   float32 [C] or [C, 1...], a buffer of layers that are smoothed: what each channel of x is multiplied by; ones at first
//
// Layers in eval may be called by any number of threads at once; what changes a layer (train(), an observer, a training step) may not.
class Quantizer {
 public:
  // Whether the weight meets activations in a product, which may be hidden states, in (-1, 1), or is used by itself (embeddings, norms): then those do
  // not matter.
  enum class Use { kProduct, kHiddenProduct, kValue };
  // `suffix`: behind the names of what is registered, in a layer of several weights (weight_scale_ih_l0).
  // Errors (bitlab::Exception): choices that do not fit together, naming what does.
  void reset(torch::nn::Module& layer, const BitQuantConfig& quant, const at::Tensor& weight, const ops::ConvWindow* window,
             Use use = Use::kProduct, const std::string& suffix = "");
  // The window of a convolution that nothing told before its first call. What is learned by channel begins anew, where the weight's channels are others than
  // reset() took them for.
  void set_window(const at::Tensor& weight, const ops::ConvWindow& window);
  // What is learned, as it begins for the weight's values: after these were set. Norms, whose weights begin as ones, are not around zero: with
  // lsq's usual beginning all of their codes would be 0.
  void initialize_scales(const at::Tensor& weight, bool around_zero = true);
  // A static step, as it begins: 0, which the first forward pass in training sets, or of hidden states 1 / limit.
  void initialize_step();

  // Whether the layer computes with its quantized weight: it is configured to, and not bypassed.
  bool is_active() const { return quant_.enabled() && !bypassed_; }
  // While set, the layer computes in float: for calibration and analysis, no part of the state.
  void bypass(bool on) { bypassed_ = on; }
  // Called with what each product of the layer reads, before it is quantized; {}: nobody.
  using Observer = std::function<void(const at::Tensor& x)>;
  void observe(Observer observer) { observer_ = std::move(observer); }
  // How far the layer has turned from float (0) to ternary (1) in training. Nothing where it is configured to stay float.
  void set_blend(double share);
  // What the layer's product, quantized or not, reads in place of x: x itself, or x by input_scale. Shows it to the observer.
  at::Tensor input(const at::Tensor& x) const;
  // Moves a part of the range of x into the weight, which makes both easier to quantize (Xiao et al. 2022, arXiv:2211.10438, eq. 4): channel c of x
  // is divided by s[c] = max|x[c]|^smoothing / max|w[c]|^(1 - smoothing), and the weights that read it are multiplied by it; s is rounded to
  // a power of two, so that the float product keeps its bits. `most`: max|x[c]| [C]. Of layers whose configuration smooths; hidden states stay as they are.
  void smooth(at::Tensor& weight, const at::Tensor& most);
  // From x of the product to max|x[c]| [C].
  at::Tensor most_by_channel(const at::Tensor& x) const;

  // y of a linear layer, or with `window` of a convolution.
  at::Tensor forward(const torch::nn::Module& layer, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return forward(layer, x, weight, bias, window());
  }
  // The same where the window is known at the call alone; it must agree with that of reset() on transposition and groups.
  at::Tensor forward(const torch::nn::Module& layer, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                     const ops::ConvWindow* call_window);

  // The states of a recurrent layer in one direction, of the weight and bias of its hidden states, quantized or not. Shows the hidden states that are
  // multiplied to the observer.
  ops::RecurrentStates recurrent(const torch::nn::Module& layer, const ops::RecurrentInputs& inputs,
                                 const at::Tensor& weight, const at::Tensor& bias);

  // The weight's value t s, differentiable: [N, ...], or [K], a row.
  at::Tensor value(const torch::nn::Module& layer, const at::Tensor& weight) const;
  // The rows of the weight, a table [N, depth].
  at::Tensor embedding(const torch::nn::Module& layer, const at::Tensor& weight, const at::Tensor& indices,
                       int64_t padding_idx, bool scale_grad_by_freq) const;
  ops::QuantizedWeight quantized(const at::Tensor& weight) const {
    return ops::quantize_weight(weight, weight_quant(), window());
  }
  // use(how the weight is quantized in evaluation, its window or null).
  auto as_evaluated(const auto& use) const { return use(weight_quant(), window()); }
  // What x becomes on its way into the product: q a, or x itself where activations stay float.
  at::Tensor activated(const at::Tensor& x) const;
  // Between the weight and its matrix [N, K].
  ops::WeightLayout layout(const at::Tensor& weight) const;
  // Makes codes and scales the layer's own: the method becomes that of frozen_config(), with the latent weight t s, which is written into `weight`,
  // and a bias, which is registered where there was none.
  void freeze(torch::nn::Module& layer, BitQuantConfig& quant, at::Tensor& weight, at::Tensor& bias,
              const FrozenWeight& frozen);

  // The names under which it may register something, for files that lack them; without a suffix.
  static std::vector<std::string> state_names();
  // The learned parameter of that kind; undefined where the method learns none.
  at::Tensor learned(ternary::Parameter parameter) const;

  at::Tensor act_scale, blend, draw, input_scale;

 private:
  const ops::ConvWindow* window() const { return window_ ? &*window_ : nullptr; }
  // As in evaluation, or in a step of training.
  ops::WeightQuant weight_quant() const { return {quant_.weight_spec(), learned_}; }
  ops::WeightQuant weight_quant(const torch::nn::Module& layer) const;
  ops::ActQuant activation() const { return {quant_.activation, act_scale}; }
  void check_activation() const;
  void register_state(torch::nn::Module& layer, const at::Tensor& weight);
  int64_t scales_of(const at::Tensor& weight) const;
  std::vector<int64_t> input_scale_shape(const at::Tensor& weight) const;
  double blend_of(const torch::nn::Module& layer) const { return layer.is_training() ? blend_now_.of(blend) : 1; }

  BitQuantConfig quant_;
  std::optional<ops::ConvWindow> window_;
  Use use_ = Use::kProduct;
  std::string suffix_;
  std::vector<at::Tensor> learned_;  // in the order of methods.def
  bool bypassed_ = false;
  Observer observer_;
  mutable HostNumber<double> blend_now_;
  mutable HostNumber<int64_t> draw_now_;
};

// A module with quantizers of its own, one for each weight, whatever else it is: what trainers find.
class Quantized {
 public:
  virtual ~Quantized() = default;
  virtual std::vector<Quantizer*> own_quantizers() = 0;
};

// How far the i-th of n layers has turned, from 0.
using Blend = std::function<double(int64_t layer, int64_t layers)>;
// Quantizer::set_blend() for every module of a network that is Quantized, in the order in which they are registered; those that stay float do not count.
void set_blend(torch::nn::Module& network, const Blend& blend);
void set_blend(torch::nn::Module& network, double share);

// What layers with a quantizer share. `Derived` has a member `weight`.
template <class Derived>
class TernaryLayer : public torch::nn::Cloneable<Derived>, public Quantized {
 public:
  std::vector<Quantizer*> own_quantizers() override { return {&quantizer}; }
  void train(bool on = true) override {
    torch::nn::Module::train(on);
    // So that changes through `.data()`, which leave no trace in a tensor, are seen.
    if (const at::Tensor& weight = static_cast<Derived*>(this)->weight; weight.defined()) ops::forget_codes(weight);
  }

  // Makes the tensors of another module the layer's parameters: the same tensors, so that they stay what optimizers and other modules hold, and
  // train or not as before. `bias` may be undefined, where the layer has none. Learned scales begin from the weight.
  void adopt(const at::Tensor& weight, const at::Tensor& bias) {
    auto& self = static_cast<Derived&>(*this);
    this->to(weight.device());  // what the quantizer registered
    this->parameters_["weight"] = self.weight = weight;
    if constexpr (requires { self.bias; })
      if (bias.defined()) this->parameters_["bias"] = self.bias = bias;
    if (quantizer.is_active()) quantizer.initialize_scales(weight);
  }

  Quantizer quantizer;
};

}  // namespace bitlab::nn
