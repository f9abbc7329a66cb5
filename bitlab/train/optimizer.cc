#include "bitlab/train/internal/optimizer.h"

#include <algorithm>

#include <ATen/ops/scalar_tensor.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include "bitlab/config/path_pattern.h"
#include "bitlab/train/internal/muon.h"

namespace bitlab::train {
namespace {

template <class Optimizer, class Options>
std::unique_ptr<torch::optim::Optimizer> with_groups(const std::vector<ParameterGroup>& groups, Options options) {
  std::vector<torch::optim::OptimizerParamGroup> list;
  for (const ParameterGroup& group : groups) list.emplace_back(group.tensors, std::make_unique<Options>(options));
  return std::make_unique<Optimizer>(std::move(list), options);
}

// set(options) of a group, as the type that they have.
template <class Set>
void with_options(torch::optim::OptimizerOptions& options, Set set) {
  using namespace torch::optim;
  if (auto* muon = dynamic_cast<MuonOptions*>(&options); muon != nullptr) return set(*muon);
  if (auto* adamw = dynamic_cast<AdamWOptions*>(&options); adamw != nullptr) return set(*adamw);
  if (auto* adam = dynamic_cast<AdamOptions*>(&options); adam != nullptr) return set(*adam);
  set(dynamic_cast<SGDOptions&>(options));
}

// is_hidden: of a layer between embeddings and the last one.
ParameterGroup shares_of(const NamedParameter& parameter, bool is_hidden, const TrainingConfig& config) {
  ParameterGroup group;
  const bool is_weight = parameter.tensor.dim() > 1;
  auto by = is_hidden ? config::ParameterOptimizer::kMuon : config::ParameterOptimizer::kAdamW;
  group.decay = is_weight ? 1 : 0;
  for (const ParameterRule& rule : config.parameters) {
    if (!config::matches_path(rule.path, parameter.name)) continue;
    group.rate = rule.rate;
    if (rule.decay >= 0) group.decay = rule.decay;
    if (rule.optimizer != config::ParameterOptimizer::kDefault) by = rule.optimizer;
    break;
  }
  group.orthogonal = config.optimizer == config::Optimizer::kMuon && is_weight && by == config::ParameterOptimizer::kMuon;
  return group;
}

// What an optimizer keeps for one parameter, as references to its tensors; `step` has none of its own.
struct Slots {
  std::vector<std::pair<std::string, at::Tensor*>> tensors;
  std::function<int64_t()> step;
  std::function<void(int64_t)> set_step;
};

Slots slots_of(torch::optim::OptimizerParamState& state) {
  using namespace torch::optim;
  const auto of_adam = [](auto* adam) -> Slots {
    return {{{"exp_avg", &adam->exp_avg()}, {"exp_avg_sq", &adam->exp_avg_sq()}},
            [adam] { return adam->step(); },
            [adam](int64_t step) { adam->step(step); }};
  };
  if (auto* adamw = dynamic_cast<AdamWParamState*>(&state); adamw != nullptr) return of_adam(adamw);
  if (auto* adam = dynamic_cast<AdamParamState*>(&state); adam != nullptr) return of_adam(adam);
  return {{{"momentum_buffer", &dynamic_cast<SGDParamState&>(state).momentum_buffer()}}, {}, {}};
}

std::unique_ptr<torch::optim::OptimizerParamState> new_slots(const torch::optim::Optimizer& optimizer,
                                                             const at::Tensor& parameter) {
  const auto* muon = dynamic_cast<const Muon*>(&optimizer);
  if (dynamic_cast<const torch::optim::AdamW*>(&optimizer) != nullptr ||
      (muon != nullptr && !muon->is_orthogonal(parameter)))
    return std::make_unique<torch::optim::AdamWParamState>();
  if (dynamic_cast<const torch::optim::Adam*>(&optimizer) != nullptr)
    return std::make_unique<torch::optim::AdamParamState>();
  return std::make_unique<torch::optim::SGDParamState>();
}

const at::Tensor* find(const State& state, const std::string& name) {
  const auto found = state.find(name);
  return found == state.end() ? nullptr : &found->second;
}

// One parameter's slots from a state; nothing where it has none, as before its first step. Returns how many tensors it took.
Result<size_t> load_slots(torch::optim::Optimizer& optimizer, const NamedParameter& parameter, const State& state) {
  auto own = new_slots(optimizer, parameter.tensor);
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

std::vector<ParameterGroup> groups_of(const std::vector<NamedParameter>& parameters, const TrainingConfig& config) {
  std::vector<ParameterGroup> groups;
  const auto last = std::find_if(parameters.rbegin(), parameters.rend(),
                                 [](const NamedParameter& parameter) { return parameter.tensor.dim() > 1; });
  for (const NamedParameter& parameter : parameters) {
    const bool is_last = last != parameters.rend() && &*last == &parameter;
    const ParameterGroup shares = shares_of(parameter, !parameter.is_table && !is_last, config);
    auto group = std::find_if(groups.begin(), groups.end(), [&](const ParameterGroup& other) {
      return other.rate == shares.rate && other.decay == shares.decay && other.orthogonal == shares.orthogonal;
    });
    if (group == groups.end()) group = groups.insert(group, shares);
    group->tensors.push_back(parameter.tensor);
  }
  return groups;
}

std::unique_ptr<torch::optim::Optimizer> make_optimizer(const std::vector<ParameterGroup>& groups,
                                                        const TrainingConfig& config) {
  using namespace torch::optim;
  const auto adam_like = [&](auto options) { return options.betas({config.beta1, config.beta2}).eps(config.epsilon); };
  const double rate = config.learning_rate;
  std::unique_ptr<torch::optim::Optimizer> optimizer;
  if (config.optimizer == config::Optimizer::kSgd) {
    optimizer = with_groups<SGD>(groups, SGDOptions(rate).momentum(config.momentum).nesterov(config.nesterov));
  } else if (config.optimizer == config::Optimizer::kAdam) {
    optimizer = with_groups<Adam>(groups, adam_like(AdamOptions(rate)));
  } else if (config.optimizer == config::Optimizer::kMuon) {
    optimizer = with_groups<Muon>(groups, adam_like(MuonOptions(rate)).momentum(config.momentum));
    for (size_t i = 0; i < groups.size(); ++i)  // LibTorch gives new groups the defaults of fields that are not its own
      static_cast<MuonOptions&>(optimizer->param_groups()[i].options()).orthogonal(groups[i].orthogonal);
  } else {
    optimizer = with_groups<AdamW>(groups, adam_like(AdamWOptions(rate)));
  }
  set_rates(*optimizer, groups, rate, config.weight_decay);
  return optimizer;
}

void set_rates(torch::optim::Optimizer& optimizer, const std::vector<ParameterGroup>& groups, double rate, double decay) {
  for (size_t i = 0; i < groups.size(); ++i)
    with_options(optimizer.param_groups()[i].options(), [&](auto& options) {
      options.lr(rate * groups[i].rate);
      options.weight_decay(decay * groups[i].decay);
    });
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
