// What the ternary layers share: how a layer's weight and activations are quantized, with the parameters that this takes; when it computes
// on packed codes; and those codes.
#pragma once

#include <functional>

#include <torch/nn/cloneable.h>

#include "bitlab/config/config.h"
#include "bitlab/ops/layout.h"
#include "bitlab/ops/ops.h"

namespace bitlab::nn {

// Packed codes of a latent weight: a cache, not state. They are made anew when a tensor that they come from is another or has another
// version, and after drop(), which train() calls because changes through `.data()` leave the version as it was.
class WeightCodes {
 public:
  const ops::PackedWeight& of(const at::Tensor& weight, const ops::WeightQuant& quant, const ops::ConvWindow* window);
  void drop();

 private:
  struct Source {
    at::Tensor tensor;
    int64_t version = -1;
  };
  std::vector<Source> sources_;
  ternary::WeightSpec spec_;
  ops::PackedWeight packed_;
};

// The quantization of one layer. Registers with the layer, where its configuration asks for them,
//
//   weight_scale, weight_scale_neg   float32 [1] or [N], parameters: learned scales (ttq, lsq)
//   act_scale                        float32 [1], a parameter: the step of static activations; 0 until the first forward pass in training,
//                                    or a calibration, sets it
//   blend                            float64 [], a buffer: 1, or lower while the layer warms up from float to ternary
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
  void train() { codes_.drop(); }

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

  // y of a linear layer, or with `window` of a convolution.
  at::Tensor forward(const torch::nn::Module& layer, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return forward(layer, x, weight, bias, window());
  }
  // The same where the window is known at the call alone; it must agree with that of reset() on transposition and groups.
  at::Tensor forward(const torch::nn::Module& layer, const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                     const ops::ConvWindow* call_window);

  // The weight's value t s, differentiable: [N, ...], or [K], a row.
  at::Tensor value(const at::Tensor& weight) const;
  const ops::PackedWeight& codes(const at::Tensor& weight) { return codes_.of(weight, weight_quant(), window()); }
  ops::QuantizedWeight quantized(const at::Tensor& weight) const {
    return ops::quantize_weight(weight, weight_quant(), window());
  }
  // What x becomes on its way into the product: q a, or x itself where activations stay float.
  at::Tensor activated(const at::Tensor& x) const;
  // Between the weight and its matrix [N, K].
  ops::WeightLayout layout(const at::Tensor& weight) const;
  // Makes codes and scales the layer's own (product_layer.h), of a weight that was reset to frozen_config().
  void freeze(at::Tensor& weight, const at::Tensor& t, const at::Tensor& scale, const at::Tensor& step);
  // Whether rows have scales of their own that the weights alone determine: a row's value does not depend on others.
  bool has_scales_of_rows() const { return quant_.granularity != ternary::Granularity::kTensor && !weight_scale.defined(); }

  at::Tensor weight_scale, weight_scale_neg, act_scale, blend;

 private:
  const ops::ConvWindow* window() const { return window_ ? &*window_ : nullptr; }
  ops::WeightQuant weight_quant() const { return {quant_.weight_spec(), weight_scale, weight_scale_neg}; }
  ops::ActQuant activation() const { return {quant_.activation, act_scale}; }
  void check_activation() const;
  void begin_act_scale(const at::Tensor& x);

  BitQuantConfig quant_;
  std::optional<ops::ConvWindow> window_;
  WeightCodes codes_;
  bool bypassed_ = false;
  Observer observer_;
};

// What layers with a quantizer share: train() drops its codes.
template <class Derived>
class TernaryLayer : public torch::nn::Cloneable<Derived> {
 public:
  void train(bool on = true) override {
    torch::nn::Module::train(on);
    quantizer.train();
  }

  Quantizer quantizer;
};

// Whether a layer takes the ternary_ family: in eval, on the CPU, where no gradient is asked for. Otherwise the differentiable
// bit_ family runs, so that a frozen layer passes gradients on; both return the same bits (ops.h says for which scales).
bool runs_on_codes(const torch::nn::Module& layer, const at::Tensor& x);

}  // namespace bitlab::nn
