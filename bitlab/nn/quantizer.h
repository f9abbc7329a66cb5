// What the ternary layers share: how a layer's weight and activations are quantized, with the parameters that this takes.
#pragma once

#include <functional>

#include <torch/nn/cloneable.h>

#include "bitlab/config/config.h"
#include "bitlab/ops/layout.h"
#include "bitlab/ops/ops.h"
#include "bitlab/ops/weight_cache.h"

namespace bitlab::nn {

// The quantization of one layer. Registers with the layer, where its configuration asks for them,
//
//   weight_scale, weight_scale_neg   float32 [1] or [N], parameters: learned scales (ttq, lsq)
//   act_scale                        float32 [1], a parameter: the step of static activations; 0 until the first forward pass in training,
//                                    or a calibration, sets it
//   blend                            float64 [], a buffer: 1, or lower while the layer warms up from float to ternary. It counts in
//                                    training mode: in eval a layer is ternary, as it is deployed
//
// Layers in eval may be called by any number of threads at once; what changes a layer (train(), an observer, a training step) may not.
class Quantizer {
 public:
  // Whether the weight meets activations in a product, or is used by itself (embeddings, norms): then those do not matter.
  enum class Use { kProduct, kValue };
  // Errors (bitlab::Exception): choices that do not fit together, naming what does.
  void reset(torch::nn::Module& layer, const BitQuantConfig& quant, const at::Tensor& weight, const ops::ConvWindow* window,
             Use use = Use::kProduct);
  // Learned scales as they begin for the weight's values: after these were set. Nothing for other methods. `steps` is lsq's scale in
  // units of mean|w|: 2 as in its paper, for weights around zero; norms, whose weights begin as ones, take 1, lest all codes be 0.
  void initialize_scales(const at::Tensor& weight, double steps = 2);

  // Whether the layer computes with its quantized weight: it is configured to, and not bypassed.
  bool is_active() const { return quant_.enabled() && !bypassed_; }
  // While set, the layer computes in float: for calibration and analysis, no part of the state.
  void bypass(bool on) { bypassed_ = on; }
  // Called with what each product of the layer reads, before it is quantized; {}: nobody.
  using Observer = std::function<void(const at::Tensor& x)>;
  void observe(Observer observer) { observer_ = std::move(observer); }
  void show(const at::Tensor& x) const {
    if (observer_) observer_(x);
  }
  // How far the layer has turned from float (0) to ternary (1) in training. Nothing where it is configured to stay float.
  void set_blend(double share);

  // y of a linear layer, or with `window` of a convolution.
  at::Tensor forward(const torch::nn::Module& layer, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return forward(layer, x, weight, bias, window());
  }
  // The same where the window is known at the call alone; it must agree with that of reset() on transposition and groups.
  at::Tensor forward(const torch::nn::Module& layer, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                     const ops::ConvWindow* call_window);

  // The weight's value t s, differentiable: [N, ...], or [K], a row.
  at::Tensor value(const torch::nn::Module& layer, const at::Tensor& weight) const;
  // The rows of the weight, a table [N, depth].
  at::Tensor embedding(const torch::nn::Module& layer, const at::Tensor& weight, const at::Tensor& indices,
                       int64_t padding_idx, bool scale_grad_by_freq) const;
  ops::QuantizedWeight quantized(const at::Tensor& weight) const {
    return ops::quantize_weight(weight, weight_quant(), window());
  }
  // What x becomes on its way into the product: q a, or x itself where activations stay float.
  at::Tensor activated(const at::Tensor& x) const;
  // Between the weight and its matrix [N, K].
  ops::WeightLayout layout(const at::Tensor& weight) const;
  // Makes codes and scales the layer's own (product_layer.h), of a weight that was reset to frozen_config().
  void freeze(at::Tensor& weight, const at::Tensor& t, const at::Tensor& scale, const at::Tensor& step);

  at::Tensor weight_scale, weight_scale_neg, act_scale, blend;

 private:
  const ops::ConvWindow* window() const { return window_ ? &*window_ : nullptr; }
  ops::WeightQuant weight_quant() const { return {quant_.weight_spec(), weight_scale, weight_scale_neg}; }
  ops::ActQuant activation() const { return {quant_.activation, act_scale}; }
  void check_activation() const;
  void begin_act_scale(const at::Tensor& x);
  double blend_of(const torch::nn::Module& layer) const { return layer.is_training() ? blend.item<double>() : 1; }

  BitQuantConfig quant_;
  std::optional<ops::ConvWindow> window_;
  bool bypassed_ = false;
  Observer observer_;
};

// A module with a quantizer of its own, whatever else it is: what trainers find.
class Quantized {
 public:
  virtual ~Quantized() = default;
  virtual Quantizer& own_quantizer() = 0;
};

// Quantizer::set_blend() for every module of a network that is Quantized.
void set_blend(torch::nn::Module& network, double share);

// What layers with a quantizer share. `Derived` has a member `weight`.
template <class Derived>
class TernaryLayer : public torch::nn::Cloneable<Derived>, public Quantized {
 public:
  Quantizer& own_quantizer() override { return quantizer; }
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
