#include "bitlab/train/hooks.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_sample_dirichlet.h>
#include <ATen/ops/full.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "bitlab/data/random.h"
#include "bitlab/train/internal/gradient_sums.h"

namespace bitlab::train {
namespace {

void scale_gradients(const std::vector<NamedParameter>& parameters, double factor) {
  const at::NoGradGuard no_grad;
  for (const NamedParameter& parameter : parameters)
    if (at::Tensor& gradient = parameter.tensor.mutable_grad(); gradient.defined()) gradient.mul_(factor);
}

// of(gradient), a scalar, of each one that is there.
template <class F>
std::vector<at::Tensor> of_gradients(const std::vector<NamedParameter>& parameters, F of) {
  std::vector<at::Tensor> numbers;
  for (const NamedParameter& parameter : parameters)
    if (const at::Tensor& gradient = parameter.tensor.grad(); gradient.defined()) numbers.push_back(of(gradient));
  return numbers;
}

// What a checkpoint of another device has left there moves to where it is needed.
void follow(at::Tensor& tensor, at::Device device) {
  if (tensor.defined()) tensor = tensor.to(device);
}

}  // namespace

AccumulateGradients::AccumulateGradients(int64_t batches, std::shared_ptr<Peers> peers, std::set<std::string> narrow)
    : batches_(batches) {
  if (peers != nullptr) sums_ = std::make_unique<GradientSums>(std::move(peers), std::move(narrow));
}

AccumulateGradients::~AccumulateGradients() = default;

void AccumulateGradients::before_backward(StepContext& step) {
  step.objective = step.objective * static_cast<double>(step.items);
  step.updates = pending_ + 1 == batches_ || step.ends_epoch;
  if (step.updates && sums_ != nullptr) sums_->begin(step.parameters);
}

void AccumulateGradients::after_backward(StepContext& step) {
  items_ += step.all_items;
  ++pending_;
  if (!step.updates) return;
  if (sums_ != nullptr) sums_->finish();
  scale_gradients(step.parameters, 1 / static_cast<double>(items_));
  pending_ = items_ = 0;
}

void LossScaling::before_backward(StepContext& step) { step.objective = step.objective * scale_; }

void LossScaling::after_backward(StepContext& step) {
  step.loss_scale = scale_;
  if (!step.updates) return;
  scale_gradients(step.parameters, 1 / scale_);
  const bool is_finite = [&] {
    const std::vector<at::Tensor> finite =
        of_gradients(step.parameters, [](const at::Tensor& gradient) { return gradient.isfinite().all(); });
    return finite.empty() || at::stack(finite).all().item<bool>();
  }();
  adapt(is_finite);
  step.skips = !is_finite;
  step.loss_scale = scale_;
}

void LossScaling::adapt(bool is_finite) {
  constexpr double kLeast = 1.0 / (1 << 24), kMost = std::numeric_limits<float>::max();
  if (!is_finite) {
    if (scale_ < kLeast)
      throw Exception(make_error(ErrorCode::kNotFinite,
                                 "[train] finite gradients at some scale of the loss, got none down to {}", scale_));
    scale_ *= options_.backoff;
    taken_ = 0;
  } else if (++taken_ == options_.interval) {
    if (scale_ * options_.growth <= kMost) scale_ *= options_.growth;
    taken_ = 0;
  }
}

State LossScaling::state() {
  return {{"scale", at::scalar_tensor(scale_, at::kDouble)}, {"taken", at::scalar_tensor(taken_, at::kLong)}};
}

Status LossScaling::load(const State& state) {
  if (!state.contains("scale") || !state.contains("taken"))
    return make_error(ErrorCode::kCorrupt, "[train] a scale of the loss in the checkpoint, got none");
  scale_ = state.at("scale").item<double>();
  taken_ = state.at("taken").item<int64_t>();
  return {};
}

void ClipGradients::before_update(StepContext& step) {
  const std::vector<at::Tensor> norms = of_gradients(step.parameters, [](const at::Tensor& gradient) {
    return at::linalg_vector_norm(gradient.detach(), 2, {}, false, at::kDouble);
  });
  if (norms.empty()) return;
  const at::Tensor numbers = at::stack(norms).cpu();  // a device is waited for once
  double squares = 0;
  for (int64_t i = 0; i < numbers.numel(); ++i) squares += std::pow(numbers.const_data_ptr<double>()[i], 2);
  const double norm = std::sqrt(squares);
  if (norm > max_norm_) scale_gradients(step.parameters, max_norm_ / norm);
}

Mixup::Draw Mixup::draw(double alpha, uint64_t seed, int64_t step, int64_t count) {
  constexpr uint64_t kStream = 0x6D6978;  // no epoch's
  auto generator = at::make_generator<at::CPUGeneratorImpl>(data::Random(seed, kStream, static_cast<uint64_t>(step)).bits());
  const auto doubles = at::TensorOptions(at::kDouble);
  const double share = at::_sample_dirichlet(at::full({2}, alpha, doubles), generator)[0].item<double>();
  return {share, at::randperm(count, generator, at::TensorOptions(at::kLong))};
}

void Mixup::before_forward(StepContext& step) {
  const int64_t count = step.batch.empty() ? 0 : step.batch[0].second.size(0);
  const Draw draw = Mixup::draw(alpha_, seed_, step.step, count);
  share_ = draw.share;
  own_ = step.batch;
  others_ = {};
  const at::Tensor order = count == 0 ? draw.order : draw.order.to(own_[0].second.device());
  bool is_mixed = false;
  for (const auto& [name, tensor] : own_) {
    const at::Tensor other = tensor.index_select(0, order);
    others_.set(name, other);
    if (!tensor.is_floating_point()) continue;
    step.batch.set(name, tensor * share_ + other * (1 - share_));
    is_mixed = true;
  }
  if (!is_mixed)
    throw Exception(make_error(ErrorCode::kInvalidArgument, "[train] floating-point inputs for mixup, got none of {{{}}}",
                               own_.names()));
}

void Mixup::after_forward(StepContext& step) {
  step.loss = step.criterion(step.outputs, own_) * share_ + step.criterion(step.outputs, others_) * (1 - share_);
}

void FreezeOscillation::follow(const TernaryWeight& weight) {
  const auto track = [&](const char* name) -> at::Tensor& { return tracks_[weight.name + "." + name]; };
  const at::Tensor now = weight.codes.to(at::kFloat);
  at::Tensor &codes = track("codes"), &direction = track("direction"), &frequency = track("frequency"),
             &mean = track("mean"), &held = track("held"), &is_held = track("is_held");
  for (at::Tensor* kept : {&codes, &direction, &frequency, &mean, &held, &is_held}) train::follow(*kept, now.device());
  if (!codes.defined() || codes.sizes() != now.sizes()) {
    codes = now, mean = now.clone();
    direction = at::zeros_like(now), frequency = at::zeros_like(now), held = at::zeros_like(now);
    is_held = at::zeros_like(now, at::TensorOptions(at::kBool));
    return;
  }
  const at::Tensor turned = (now - codes).sign();
  const at::Tensor has_turned = turned.ne(0);
  frequency = frequency.lerp(has_turned.logical_and(turned.eq(-direction)).to(at::kFloat), momentum_);
  mean = mean.lerp(now, momentum_);
  direction = at::where(has_turned, turned, direction);
  const at::Tensor is_new = frequency.gt(threshold_).logical_and(is_held.logical_not());
  held = at::where(is_new, mean.round(), held);
  is_held = is_held.logical_or(is_new);
  codes = at::where(is_held, held, now);
  const at::Tensor value = at::where(held.lt(0), held * weight.minus, held * weight.plus);
  weight.latent.detach().copy_(at::where(is_held, value, weight.latent));
}

void FreezeOscillation::after_update(StepContext& step) {
  const at::NoGradGuard no_grad;
  for (const TernaryWeight& weight : step.learner.ternary_weights()) follow(weight);
}

Status FreezeOscillation::load(const State& state) {
  tracks_.clear();
  for (const auto& [name, tensor] : state) tracks_[name] = tensor.clone();
  return {};
}

void MovingAverage::after_update(StepContext& step) {
  const at::NoGradGuard no_grad;
  for (const NamedParameter& parameter : step.parameters) {
    at::Tensor& mean = mean_[parameter.name];
    follow(mean, parameter.tensor.device());
    if (mean.defined())
      mean.lerp_(parameter.tensor, 1 - decay_);
    else
      mean = parameter.tensor.detach().clone();
  }
}

void MovingAverage::exchange(const NamedParameter& parameter) {
  const auto found = mean_.find(parameter.name);
  if (found == mean_.end()) return;  // no step yet
  const at::NoGradGuard no_grad;
  const at::Tensor own = parameter.tensor.detach().clone();
  parameter.tensor.copy_(found->second);
  found->second.copy_(own);
}

void MovingAverage::before_evaluation(Learner& learner) {
  for (const NamedParameter& parameter : learner.parameters()) exchange(parameter);
}

// Backwards, as a tied parameter comes under several names.
void MovingAverage::after_evaluation(Learner& learner) {
  const std::vector<NamedParameter> parameters = learner.parameters();
  for (auto i = parameters.rbegin(); i != parameters.rend(); ++i) exchange(*i);
}

Status MovingAverage::load(const State& state) {
  mean_.clear();
  for (const auto& [name, tensor] : state) mean_[name] = tensor.clone();
  return {};
}

}  // namespace bitlab::train
