// LibTorch's optimizers as configs name them, and their state by the names of parameters.
#pragma once

#include <memory>
#include <vector>

#include "bitlab/config/config.h"
#include "bitlab/train/learner.h"

namespace torch::optim {
class Optimizer;
}

namespace bitlab::train {

// Biases and other vectors do not decay.
std::unique_ptr<torch::optim::Optimizer> make_optimizer(const std::vector<NamedParameter>& parameters,
                                                        const TrainingConfig& config);

// "<parameter>.step", "<parameter>.exp_avg", "<parameter>.exp_avg_sq" of adam; "<parameter>.momentum_buffer" of sgd. A copy.
State optimizer_state(torch::optim::Optimizer& optimizer, const std::vector<NamedParameter>& parameters);

// Bytes of the tensors that it keeps for a parameter; 0 before its first step.
int64_t optimizer_bytes(torch::optim::Optimizer& optimizer, const NamedParameter& parameter);

// Errors: UnknownName, ShapeMismatch (a state that is none of this optimizer's).
Status load_optimizer_state(torch::optim::Optimizer& optimizer, const std::vector<NamedParameter>& parameters,
                            const State& state);

}  // namespace bitlab::train
