#include "bitlab/train/hooks.h"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_vector_norm.h>

namespace bitlab::train {
namespace {

void scale_gradients(const std::vector<NamedParameter>& parameters, double factor) {
  const at::NoGradGuard no_grad;
  for (const NamedParameter& parameter : parameters)
    if (at::Tensor& gradient = parameter.tensor.mutable_grad(); gradient.defined()) gradient.mul_(factor);
}

}  // namespace

void AccumulateGradients::before_backward(StepContext& step) {
  step.objective = step.objective * static_cast<double>(step.items);
}

void AccumulateGradients::after_backward(StepContext& step) {
  items_ += step.items;
  step.updates = ++pending_ == batches_ || step.ends_epoch;
  if (!step.updates) return;
  scale_gradients(step.parameters, 1 / static_cast<double>(items_));
  pending_ = items_ = 0;
}

void ClipGradients::before_update(StepContext& step) {
  double squares = 0;
  for (const NamedParameter& parameter : step.parameters)
    if (const at::Tensor& gradient = parameter.tensor.grad(); gradient.defined()) {
      const auto norm = at::linalg_vector_norm(gradient.detach(), 2, {}, false, at::kDouble).item<double>();
      squares += norm * norm;
    }
  const double norm = std::sqrt(squares);
  if (norm > max_norm_) scale_gradients(step.parameters, max_norm_ / norm);
}

}  // namespace bitlab::train
