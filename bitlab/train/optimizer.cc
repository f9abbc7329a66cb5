#include "bitlab/train/internal/optimizer.h"

#include <ATen/ops/scalar_tensor.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

namespace bitlab::train {
namespace {

// The optimizer's defaults keep the constructor's weight decay: LibTorch takes a group's value that equals the constructor's for one that was
// not given, and would put ours in its place.
template <class Optimizer, class Options>
std::unique_ptr<torch::optim::Optimizer> with_groups(const std::vector<NamedParameter>& parameters, const Options& options,
                                                     double weight_decay) {
  std::vector<at::Tensor> matrices, vectors;
  for (const NamedParameter& parameter : parameters)
    (parameter.tensor.dim() > 1 ? matrices : vectors).push_back(parameter.tensor);
  const auto group = [&](const std::vector<at::Tensor>& tensors, double decay) {
    auto own = std::make_unique<Options>(options);
    own->weight_decay(decay);
    return torch::optim::OptimizerParamGroup(tensors, std::move(own));
  };
  return std::make_unique<Optimizer>(std::vector{group(matrices, weight_decay), group(vectors, 0)}, options);
}

// What an optimizer keeps for one parameter, as references to its tensors; `step` has none of its own.
struct Slots {
  std::vector<std::pair<std::string, at::Tensor*>> tensors;
  std::function<int64_t()> step;
  std::function<void(int64_t)> set_step;
};

Slots slots_of(torch::optim::OptimizerParamState& state) {
  using namespace torch::optim;
  if (auto* adam = dynamic_cast<AdamWParamState*>(&state); adam != nullptr)
    return {{{"exp_avg", &adam->exp_avg()}, {"exp_avg_sq", &adam->exp_avg_sq()}},
            [adam] { return adam->step(); },
            [adam](int64_t step) { adam->step(step); }};
  return {{{"momentum_buffer", &dynamic_cast<SGDParamState&>(state).momentum_buffer()}}, {}, {}};
}

std::unique_ptr<torch::optim::OptimizerParamState> new_slots(const torch::optim::Optimizer& optimizer) {
  if (dynamic_cast<const torch::optim::AdamW*>(&optimizer) != nullptr)
    return std::make_unique<torch::optim::AdamWParamState>();
  return std::make_unique<torch::optim::SGDParamState>();
}

const at::Tensor* find(const State& state, const std::string& name) {
  const auto found = state.find(name);
  return found == state.end() ? nullptr : &found->second;
}

// One parameter's slots from a state; nothing where it has none, as before its first step. Returns how many tensors it took.
Result<size_t> load_slots(torch::optim::Optimizer& optimizer, const NamedParameter& parameter, const State& state) {
  auto own = new_slots(optimizer);
  const Slots slots = slots_of(*own);
  size_t taken = 0;
  for (const auto& [key, tensor] : slots.tensors) {
    const at::Tensor* saved = find(state, parameter.name + "." + key);
    if (saved == nullptr) continue;
    if (saved->sizes() != parameter.tensor.sizes())
      return make_error(ErrorCode::kShapeMismatch, "[train] a state of the optimizer of {}, got {} (name={}.{})",
                        c10::str(parameter.tensor.sizes()), c10::str(saved->sizes()), parameter.name, key);
    *tensor = saved->to(parameter.tensor.options()).clone();
    ++taken;
  }
  const at::Tensor* step = slots.set_step ? find(state, parameter.name + ".step") : nullptr;
  if (step != nullptr) {
    slots.set_step(step->item<int64_t>());
    ++taken;
  }
  if (taken > 0) optimizer.state()[parameter.tensor.unsafeGetTensorImpl()] = std::move(own);
  return taken;
}

}  // namespace

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const std::vector<NamedParameter>& parameters,
                                                        const TrainingConfig& config) {
  using namespace torch::optim;
  if (config.optimizer == config::Optimizer::kSgd)
    return with_groups<SGD>(parameters, SGDOptions(config.learning_rate).momentum(config.momentum), config.weight_decay);
  return with_groups<AdamW>(parameters, AdamWOptions(config.learning_rate), config.weight_decay);
}

State optimizer_state(torch::optim::Optimizer& optimizer, const std::vector<NamedParameter>& parameters) {
  State state;
  for (const NamedParameter& parameter : parameters) {
    const auto found = optimizer.state().find(parameter.tensor.unsafeGetTensorImpl());
    if (found == optimizer.state().end()) continue;
    const Slots slots = slots_of(*found->second);
    for (const auto& [key, tensor] : slots.tensors)
      if (tensor->defined()) state[parameter.name + "." + key] = tensor->detach().clone();
    if (slots.step) state[parameter.name + ".step"] = at::scalar_tensor(slots.step(), at::kLong);
  }
  return state;
}

int64_t optimizer_bytes(torch::optim::Optimizer& optimizer, const NamedParameter& parameter) {
  const auto found = optimizer.state().find(parameter.tensor.unsafeGetTensorImpl());
  if (found == optimizer.state().end()) return 0;
  int64_t bytes = 0;
  for (const auto& [key, tensor] : slots_of(*found->second).tensors)
    if (tensor->defined()) bytes += static_cast<int64_t>(tensor->nbytes());
  return bytes;
}

Status load_optimizer_state(torch::optim::Optimizer& optimizer, const std::vector<NamedParameter>& parameters,
                            const State& state) {
  size_t taken = 0;
  for (const NamedParameter& parameter : parameters) {
    BITLAB_TRY(const size_t own, load_slots(optimizer, parameter, state));
    taken += own;
  }
  if (taken == state.size()) return {};
  return make_error(ErrorCode::kUnknownName,
                    "[train] the state of this optimizer for its parameters, got {} tensors of which it has {}",
                    state.size(), taken);
}

}  // namespace bitlab::train
