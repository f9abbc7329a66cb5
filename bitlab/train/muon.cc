#include "bitlab/train/internal/muon.h"

#include <algorithm>
#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/zeros_like.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

namespace bitlab::train {
namespace {

using torch::optim::AdamWParamState;
using torch::optim::SGDParamState;

// A state of that type, begun where there is none.
template <class State, class Begin>
State& state_of(std::unique_ptr<torch::optim::OptimizerParamState>& slot, const Begin& begin) {
  if (slot == nullptr) {
    auto fresh = std::make_unique<State>();
    begin(*fresh);
    slot = std::move(fresh);
  }
  return static_cast<State&>(*slot);
}

void step_orthogonal(at::Tensor& weight, const MuonOptions& options, SGDParamState& state) {
  const at::Tensor gradient = weight.grad();
  at::Tensor& mean = state.momentum_buffer();
  mean.lerp_(gradient, 1 - options.momentum());
  const at::Tensor turned = orthogonal(gradient.lerp(mean, options.momentum()).flatten(1));
  const auto widest = static_cast<double>(std::max(turned.size(0), turned.size(1)));
  weight.mul_(1 - options.lr() * options.weight_decay());
  weight.add_(turned.reshape_as(weight), -0.2 * std::sqrt(widest) * options.lr());
}

void step_adamw(at::Tensor& weight, const MuonOptions& options, AdamWParamState& state) {
  const at::Tensor gradient = weight.grad();
  const auto [beta1, beta2] = options.betas();
  state.step(state.step() + 1);
  weight.mul_(1 - options.lr() * options.weight_decay());
  state.exp_avg().lerp_(gradient, 1 - beta1);
  state.exp_avg_sq().mul_(beta2).addcmul_(gradient, gradient, 1 - beta2);
  const auto steps = static_cast<double>(state.step());
  const double size = std::sqrt(1 - std::pow(beta2, steps));
  const at::Tensor divisor = (state.exp_avg_sq().sqrt() / size).add_(options.eps());
  weight.addcdiv_(state.exp_avg(), divisor, -options.lr() / (1 - std::pow(beta1, steps)));
}

}  // namespace

at::Tensor orthogonal(const at::Tensor& x) {
  constexpr double kA = 3.4445, kB = -4.775,
                   kC = 2.0315;  // of the source above: the fastest growth of small singular values
  const bool is_tall = x.size(0) > x.size(1);
  at::Tensor y = is_tall ? x.t() : x;
  y = y / y.norm().clamp_min(1e-7);
  for (int i = 0; i < 5; ++i) {
    const at::Tensor square = y.mm(y.t());
    y = at::addmm(y, at::addmm(square, square, square, kB, kC), y, kA);
  }
  return is_tall ? y.t() : y;
}

bool Muon::is_orthogonal(const at::Tensor& parameter) const {
  for (const auto& group : param_groups())
    for (const at::Tensor& own : group.params())
      if (own.is_same(parameter)) return static_cast<const MuonOptions&>(group.options()).orthogonal();
  return false;
}

at::Tensor Muon::step(LossClosure closure) {
  at::Tensor loss;
  if (closure != nullptr) {
    const at::AutoGradMode with_gradients(true);
    loss = closure();
  }
  const at::NoGradGuard no_grad;
  for (auto& group : param_groups_) {
    const auto& options = static_cast<const MuonOptions&>(group.options());
    for (at::Tensor& weight : group.params()) {
      if (!weight.grad().defined()) continue;
      auto& slot = state_[weight.unsafeGetTensorImpl()];
      if (options.orthogonal()) {
        step_orthogonal(weight, options, state_of<SGDParamState>(slot, [&](SGDParamState& state) {
                          state.momentum_buffer(at::zeros_like(weight));
                        }));
      } else {
        step_adamw(weight, options, state_of<AdamWParamState>(slot, [&](AdamWParamState& state) {
                     state.step(0);
                     state.exp_avg(at::zeros_like(weight));
                     state.exp_avg_sq(at::zeros_like(weight));
                   }));
      }
    }
  }
  return loss;
}

}  // namespace bitlab::train
