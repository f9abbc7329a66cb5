#include "bitlab/train/learner.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>

#include "bitlab/train/state_dict.h"

namespace bitlab::train {

State Classifier::state() {
  State state;
  for (const auto& [name, tensor] : state_of(module_)) state[name] = tensor.detach().clone();
  return state;
}

Status Classifier::load(const State& state) { return load_into(module_, state); }

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
