// A user's own class, made ternary without a change of its source.
#pragma once

#include <filesystem>
#include <functional>

#include "bitlab/convert/converter.h"
#include "bitlab/convert/interception.h"
#include "bitlab/nn/named_tensors.h"

namespace bitlab::convert {

// Wraps a module: layers in containers are replaced (BitConverter), the weights of all others, typed members and functional calls, are intercepted
// while forward() runs, in training, in eval and under capture (interception.h). Which weights: those of torch::nn's linear, convolution and
// embedding layers, the projections of torch::nn::MultiheadAttention, and parameters of the user's own classes with two dimensions or more
// whose first size is above 1; rules (type "parameter" for the last two) decide for each.
//
//   struct Net : torch::nn::Module { torch::nn::Linear fc{nullptr}; … };
//   auto model = convert::BitModel::wrap(std::make_shared<Net>(), config);
//   at::Tensor y = model->forward(x);
//
// The first forward pass in training, and the first in eval, is audited: where a weight is read by anything but a product (w * 0.5, a clone, a
// weight norm), or in training by nothing, it throws Unsupported and names weight and reader. A rule with `master: true` makes it a master weight,
// ternary wherever it is read, with float activations; one with `method: none` leaves it as it is. Scales that are learned, steps and the warm-up
// are parameters and buffers of "intercepted.<path, '.' as '/'>"; the wrapped module is the child "model".
// A BitModel serves one thread at a time, and threads that its module starts by itself (std::thread) see the float weights.
class BitModel : public torch::nn::Module {
 public:
  // Errors (bitlab::Exception): those of BitConverter::convert and of the layers.
  BitModel(std::shared_ptr<torch::nn::Module> model, nn::Forward forward, MixedPrecisionConfig config,
           const ConvertOptions& options = {});

  // For a module with a forward of its own, of named tensors or of one.
  template <class Model>
  static std::shared_ptr<BitModel> wrap(std::shared_ptr<Model> model, MixedPrecisionConfig config,
                                        const ConvertOptions& options = {}) {
    nn::Forward forward = nn::forward_of(*model);
    return std::make_shared<BitModel>(std::move(model), std::move(forward), std::move(config), options);
  }

  // Calls anything that uses the module, under the interception; the first call in either mode is audited.
  template <class Call>
  auto intercept(Call call) -> decltype(call()) {
    const InterceptionGuard guard(registry_);
    bool& audited = audited_[is_training() ? 1 : 0];
    if (audited) return call();
    auto result = audit(call);
    audited = true;
    return result;
  }

  nn::NamedTensors forward(const nn::NamedTensors& inputs) {
    return intercept([&] { return forward_(inputs); });
  }
  // For a network of one tensor: the first of what it returns.
  at::Tensor forward(const at::Tensor& x) { return nn::forward_one(*this, x); }

  const ConversionReport& report() const { return report_; }
  const MixedPrecisionConfig& config() const { return config_; }

  // Whether the rules make this model again: not where post-training quantization gave a layer codes of its own; deploy such a model. Error:
  // Unsupported, naming the layer.
  Status check_made_by_rules() const;
  // The state of the module with the rules that made it, in LibTorch's archive. Errors: those of check_made_by_rules(), IoError.
  Status save_to(const std::filesystem::path& path) const;
  // Loads a state into a model that was made with the same rules. Errors: NotFound, Corrupt, InvalidArgument (other rules).
  Status load_from(const std::filesystem::path& path);
  // The rules that a file was saved with: make the model with them, then load_from(). Errors: NotFound, Corrupt.
  static Result<MixedPrecisionConfig> saved_config(const std::filesystem::path& path);

 private:
  template <class Call>
  auto audit(Call& call) -> decltype(call()) {
    const Audit audit(registry_);
    auto result = call();
    refuse(audit);
    return result;
  }
  void refuse(const Audit& audit) const;

  std::shared_ptr<torch::nn::Module> model_;
  nn::Forward forward_;
  MixedPrecisionConfig config_;
  WeightRegistry registry_;
  ConversionReport report_;
  bool audited_[2] = {false, false};  // in eval, in training
};

// The path by which rules know a ternary layer `key` of `root`, which may be a BitModel.
std::string layer_path(const torch::nn::Module& root, const std::string& key, const torch::nn::Module& layer);

// A model with rules for its layers.
using BitMixedPrecisionModel = BitModel;

}  // namespace bitlab::convert
