#include "bitlab/train/learner.h"

#include <algorithm>
#include <unordered_set>

#include <ATen/core/grad_mode.h>

#include "bitlab/nn/product_layer.h"
#include "bitlab/train/state_dict.h"

namespace bitlab::train {

State ModuleLearner::state() {
  State state;
  for (const auto& [name, tensor] : state_of(module_)) state[name] = tensor.detach().clone();
  return state;
}

Status ModuleLearner::load(const State& state) { return load_into(module_, state); }

std::vector<NamedParameter> parameters_of(const torch::nn::Module& module) {
  std::unordered_set<const void*> tables;  // of modules whose class is called so, whoever wrote it
  for (const auto& part : module.modules(false))
    if (part->name().find("Embedding") != std::string::npos)
      for (const at::Tensor& own : part->parameters(false)) tables.insert(own.unsafeGetTensorImpl());
  std::vector<NamedParameter> list;
  for (const auto& item : module.named_parameters())
    list.push_back({item.key(), item.value(), tables.contains(item.value().unsafeGetTensorImpl())});
  return list;
}

at::Device device_of(const std::vector<NamedParameter>& parameters) {
  return parameters.empty() ? at::Device(at::kCPU) : parameters[0].tensor.device();
}

void ModuleLearner::to(at::Device device) {
  module_.to(device);
  for (at::Tensor& parameter : module_.parameters())
    if (at::Tensor& gradient = parameter.mutable_grad(); gradient.defined()) gradient = gradient.to(device);
}

std::vector<NamedParameter> ModuleLearner::parameters() { return parameters_of(module_); }

TernaryWeight ternary_weight(std::string name, const at::Tensor& latent, const ops::WeightQuant& quant,
                             const ops::ConvWindow* window) {
  const at::NoGradGuard no_grad;
  const bool is_transposed = window != nullptr && window->transposed;
  const ops::WeightLayout layout("train", latent, is_transposed, window == nullptr ? 1 : window->groups);
  const ops::QuantizedWeight found = ops::quantize_weight(latent, quant, window);
  const at::Tensor plus = layout.spread(found.scale, quant.spec);
  const at::Tensor minus = found.scale_neg.defined() ? layout.spread(found.scale_neg, quant.spec) : plus;
  return {std::move(name), latent, found.t, layout.to_matrix(found.t), plus, minus};
}

std::vector<TernaryWeight> ModuleLearner::ternary_weights() {
  const at::NoGradGuard no_grad;
  const std::vector<NamedParameter> all = parameters();
  std::vector<TernaryWeight> list;
  for (const auto& [path, unused, suffix, module, layer] : nn::products_of(module_)) {
    if (!layer->view().quantizer.is_active() || !is_ternary(*layer->view().quant.method)) continue;
    const nn::ProductLayer::View view = layer->view();
    const auto own = std::find_if(all.begin(), all.end(),
                                  [&](const NamedParameter& parameter) { return parameter.tensor.is_same(view.weight); });
    if (own == all.end()) continue;
    list.push_back(view.quantizer.as_evaluated([&](const ops::WeightQuant& quant, const ops::ConvWindow* window) {
      return ternary_weight(own->name, view.weight, quant, window);
    }));
  }
  return list;
}

void ModuleLearner::set_blend(const nn::Blend& blend) { nn::set_blend(module_, blend); }

}  // namespace bitlab::train
