// Optimizers as configs name them, LibTorch's and muon, and their state by the names of parameters.
#pragma once

#include <memory>
#include <vector>

#include "bitlab/config/config.h"
#include "bitlab/train/learner.h"

namespace torch::optim {
class Optimizer;
}

namespace bitlab::train {

// Parameters with one learning rate and one weight decay: shares of those of the config.
struct ParameterGroup {
  double rate = 1, decay = 1;
  bool orthogonal = false;  // stepped by muon, and not by adamw beside it
  std::vector<at::Tensor> tensors{};
};

// In the order of the first parameter of each. Those that no rule fits: weights, which decay, and vectors, as biases, norms and scales, which do not.
std::vector<ParameterGroup> groups_of(const std::vector<NamedParameter>& parameters, const TrainingConfig& config);

// One that has `groups` for its groups.
std::unique_ptr<torch::optim::Optimizer> make_optimizer(const std::vector<ParameterGroup>& groups,
                                                        const TrainingConfig& config);

// The rate and decay of its next step, before the shares of the groups.
void set_rates(torch::optim::Optimizer& optimizer, const std::vector<ParameterGroup>& groups, double rate, double decay);

// "<parameter>.step", "<parameter>.exp_avg", "<parameter>.exp_avg_sq" of adam and adamw; "<parameter>.momentum_buffer" of sgd and muon. A copy.
State optimizer_state(torch::optim::Optimizer& optimizer, const std::vector<NamedParameter>& parameters);

// Bytes of the tensors that it keeps for a parameter; 0 before its first step.
int64_t optimizer_bytes(torch::optim::Optimizer& optimizer, const NamedParameter& parameter);

// Errors: UnknownName, ShapeMismatch (a state that is none of this optimizer's).
Status load_optimizer_state(torch::optim::Optimizer& optimizer, const std::vector<NamedParameter>& parameters,
                            const State& state);

}  // namespace bitlab::train
