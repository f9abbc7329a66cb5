#include "bitlab/train/learner.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>

namespace bitlab::train {
namespace {

std::map<std::string, at::Tensor> tensors_of(torch::nn::Module& module) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& item : module.named_parameters()) tensors[item.key()] = item.value();
  for (const auto& item : module.named_buffers()) tensors[item.key()] = item.value();
  return tensors;
}

std::string show(const at::Tensor& tensor) { return c10::str(tensor.sizes()); }

}  // namespace

State Classifier::state() {
  State state;
  for (const auto& [name, tensor] : tensors_of(module_)) state[name] = tensor.detach().clone();
  return state;
}

Status Classifier::load(const State& state) {
  auto tensors = tensors_of(module_);
  for (const auto& [name, value] : state)
    if (!tensors.contains(name))
      return make_error(ErrorCode::kUnknownName, "[train] a parameter of the model, got '{}'", name);
  for (const auto& [name, tensor] : tensors) {
    const auto found = state.find(name);
    if (found == state.end())
      return make_error(ErrorCode::kUnknownName, "[train] every parameter of the model, got none for '{}'", name);
    if (found->second.sizes() != tensor.sizes())
      return make_error(ErrorCode::kShapeMismatch, "[train] a shape of {}, got {} (name={})", show(tensor),
                        show(found->second), name);
  }
  const at::NoGradGuard no_grad;
  for (auto& [name, tensor] : tensors) tensor.copy_(state.at(name));
  return {};
}

std::vector<NamedParameter> Classifier::parameters() {
  std::vector<NamedParameter> list;
  for (const auto& item : module_.named_parameters()) list.push_back({item.key(), item.value()});
  return list;
}

void Classifier::set_blend(double share) {
  const at::NoGradGuard no_grad;
  for (const auto& buffer : module_.named_buffers()) {
    const std::string& name = buffer.key();
    if (name == "blend" || name.ends_with(".blend")) buffer.value().fill_(share);
  }
}

Outputs Classifier::forward(const Batch& batch) {
  const at::Tensor logits = forward_(batch.input);
  return {{"logits", logits}, {"loss", at::cross_entropy_loss(logits, batch.target)}};
}

}  // namespace bitlab::train
