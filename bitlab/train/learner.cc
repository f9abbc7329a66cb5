#include "bitlab/train/learner.h"

#include "bitlab/nn/quantizer.h"
#include "bitlab/train/state_dict.h"

namespace bitlab::train {

State ModuleLearner::state() {
  State state;
  for (const auto& [name, tensor] : state_of(module_)) state[name] = tensor.detach().clone();
  return state;
}

Status ModuleLearner::load(const State& state) { return load_into(module_, state); }

std::vector<NamedParameter> ModuleLearner::parameters() {
  std::vector<NamedParameter> list;
  for (const auto& item : module_.named_parameters()) list.push_back({item.key(), item.value()});
  return list;
}

void ModuleLearner::set_blend(double share) { nn::set_blend(module_, share); }

}  // namespace bitlab::train
