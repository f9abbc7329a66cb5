// Products of registered weights, replaced by their ternary forms while a guard lives: how a class whose layers are typed members becomes
// ternary without a change of its source.
//
// The guard includes a dispatch key that LibTorch's release builds leave free (DeferredInit), with kernels for aten::linear, addmm, matmul, mm,
// conv1d to 3d, conv_transpose1d to 3d, convolution, lstm, gru and embedding: where the weight argument lies in the storage of a registered weight, as a whole, as its
// transpose or as a block of its rows, the operators of ops.h run; a batch norm in eval becomes the contract's affine step
// (ops::batch_norm); all else goes on as it was, but that any operator which reads a master weight, or a view of one, reads its quantized
// value. The registry travels with at::ThreadLocalState, so threads of ATen see it; a plain std::thread needs a guard of its own.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "bitlab/nn/product_layer.h"

namespace bitlab::convert {

// A weight of somebody else's module, and how it is quantized. A module, so that learned scales and steps are trained and saved.
class InterceptedWeight : public torch::nn::Module, public nn::Quantized {
 public:
  // `path`: of the weight, `layer`: of the layer that rules know. `window`: of a convolution, else null. `is_master`: its
  // quantized value stands for it wherever it is read; `quant` has float activations then. Errors: those of Quantizer::reset().
  InterceptedWeight(std::string path, std::string layer, at::Tensor weight, const BitQuantConfig& quant,
                    const ops::ConvWindow* window, nn::Quantizer::Use use, bool is_master);
  std::vector<nn::Quantizer*> own_quantizers() override { return {&quantizer}; }
  void train(bool on = true) override;

  // x by the whole weight, or by `rows` of it from `begin` on; their scales are those of the whole.
  at::Tensor linear(const at::Tensor& x, int64_t begin, int64_t rows, const at::Tensor& bias);
  at::Tensor conv(const at::Tensor& x, const at::Tensor& bias, const ops::ConvWindow& window);
  at::Tensor embedding(const at::Tensor& indices, int64_t padding_idx);
  ops::RecurrentStates recurrent(const ops::RecurrentInputs& inputs, const at::Tensor& bias);
  // Whether products of the weight are computed by linear() and conv(); those of master weights in int8 go on as they are.
  bool has_product() const { return !is_master() || is_ternary(*quant_.method); }

  // Gradients with respect to its value reach the weight.
  bool is_master() const { return is_master_; }
  // Its value in the place of `tensor`, which is the weight or a view of it.
  at::Tensor value_of(const at::Tensor& tensor) const;

  const std::string path, layer;
  nn::Quantizer quantizer;
  // Not registered: it belongs to the module that is wrapped, whose parameter this is.
  struct {
    at::Tensor tensor;
  } weight;
  int64_t hits = 0;

 protected:
  void reset();
  // The float map of x.
  at::Tensor product_of(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) const;

  BitQuantConfig quant_;
  std::optional<ops::ConvWindow> window_;  // of the last convolution
  nn::Quantizer::Use use_;
  bool is_master_;
  at::Tensor last_bias_;      // what the last product was called with
  at::Tensor own_bias_;       // of a frozen weight whose products have none
  bool was_divided_ = false;  // a product read some of its rows alone
};

// The weight of a layer's products, which calibration and analysis take like a layer.
class InterceptedProduct : public InterceptedWeight, public nn::ProductLayer {
 public:
  using InterceptedWeight::InterceptedWeight;
  View view() override { return {weight.tensor, last_bias_, quantizer, quant_, !was_divided_}; }
  at::Tensor product(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) const override {
    return product_of(x, w, bias);
  }
  // Writes into the module's own weight and bias. Errors (bitlab::Exception): Unsupported, a bias that is no parameter.
  void freeze(const nn::FrozenWeight& frozen) override;
};

// How a tensor lies in a registered weight.
struct Found {
  InterceptedWeight* weight = nullptr;  // null: it does not
  enum class Form { kWhole, kTransposed, kRows, kOther } form = Form::kOther;
  bool transposed = false;      // of kRows
  int64_t begin = 0, rows = 0;  // of kRows
};

class WeightRegistry {
 public:
  void add(std::shared_ptr<InterceptedWeight> weight);
  Found find(const at::Tensor& tensor) const;
  // Follows weights whose storage was replaced, as torch::load and Module::to do.
  void sync();
  const std::vector<std::shared_ptr<InterceptedWeight>>& weights() const { return weights_; }
  bool has_masters() const { return has_masters_; }

 private:
  bool has_masters_ = false;
  std::vector<std::shared_ptr<InterceptedWeight>> weights_;
  std::unordered_multimap<const c10::StorageImpl*, InterceptedWeight*> by_storage_;
};

class InterceptionGuard {
 public:
  explicit InterceptionGuard(WeightRegistry& registry);

 private:
  c10::impl::IncludeDispatchKeyGuard key_;
  c10::DebugInfoGuard registry_;
};

// Watches the calling thread: registered weights must be read by the operators above alone, or by ones that make a view.
class Audit {
 public:
  explicit Audit(const WeightRegistry& registry);
  ~Audit();
  Audit(const Audit&) = delete;
  Audit& operator=(const Audit&) = delete;

  // What is wrong, after the forward pass: "'fc.weight' is read by aten::mul". Empty: nothing.
  std::vector<std::string> findings() const;
  // The weights that no operator read, as "'fc.weight' is read by no product". In eval that is how a head looks which only training uses.
  std::vector<std::string> unread() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace bitlab::convert
