// What the trainer agrees upon with the other processes.
#include <set>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/tensor.h>

#include "bitlab/train/internal/random_numbers.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {

// Buffers, as running statistics that each process has of its own samples, become those of process 0; so do the parameters, where that is asked for.
void BitTrainer::take_from_first(bool parameters) {
  const at::NoGradGuard no_grad;
  std::set<std::string> own;
  if (!parameters)
    for (const NamedParameter& parameter : learner_.parameters()) own.insert(parameter.name);
  const State state = learner_.state();
  for (const auto& [name, tensor] : state)
    if (!own.contains(name)) options_.peers->broadcast(tensor);
  learner_.load(state).value();
}

// All processes have the network of process 0, and random numbers of their own.
void BitTrainer::begin_together() {
  take_from_first(/*parameters=*/true);
  const at::Device device = device_of(parameters_);
  for (at::Generator random : {random_numbers(), random_numbers(device)}) {
    random.set_current_seed(random.current_seed() + static_cast<uint64_t>(options_.peers->rank()));
    if (device.is_cpu()) break;
  }
}

// The mean loss over the items of all processes, and how many these are.
void BitTrainer::count_together(double& loss, StepContext& step) const {
  step.all_items = step.items;
  if (options_.peers == nullptr) return;
  const at::Tensor sums = at::tensor({loss * static_cast<double>(step.items), static_cast<double>(step.items)}, at::kDouble);
  options_.peers->sum(sums);
  step.all_items = static_cast<int64_t>(sums[1].item<double>());
  loss = sums[0].item<double>() / sums[1].item<double>();
}

// In all processes, where one is asked to.
bool BitTrainer::is_stopped() const {
  const bool own = options_.stop && options_.stop();
  if (options_.peers == nullptr) return own;
  const at::Tensor asked = at::scalar_tensor(own ? 1 : 0, at::kDouble);
  options_.peers->sum(asked);
  return asked.item<double>() > 0;
}

}  // namespace bitlab::train
