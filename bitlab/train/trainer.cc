#include "bitlab/train/trainer.h"

#include <chrono>
#include <cmath>
#include <numbers>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/randperm.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include "bitlab/train/checkpoint.h"
#include "bitlab/train/evaluate.h"

namespace bitlab::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Biases and other vectors do not decay. The optimizer's defaults keep the constructor's weight decay: LibTorch takes a group's value
// that equals the constructor's for one that was not given, and would put ours in its place.
template <class Optimizer, class Options>
std::unique_ptr<torch::optim::Optimizer> with_groups(Learner& learner, const Options& options, double weight_decay) {
  std::vector<at::Tensor> matrices, vectors;
  for (const NamedParameter& parameter : learner.parameters())
    (parameter.tensor.dim() > 1 ? matrices : vectors).push_back(parameter.tensor);
  const auto group = [&](const std::vector<at::Tensor>& tensors, double decay) {
    auto own = std::make_unique<Options>(options);
    own->weight_decay(decay);
    return torch::optim::OptimizerParamGroup(tensors, std::move(own));
  };
  return std::make_unique<Optimizer>(std::vector{group(matrices, weight_decay), group(vectors, 0)}, options);
}

std::unique_ptr<torch::optim::Optimizer> make_optimizer(Learner& learner, const TrainingConfig& config) {
  using namespace torch::optim;
  if (config.optimizer == config::Optimizer::kSgd)
    return with_groups<SGD>(learner, SGDOptions(config.learning_rate).momentum(config.momentum), config.weight_decay);
  return with_groups<AdamW>(learner, AdamWOptions(config.learning_rate), config.weight_decay);
}

std::vector<int64_t> shuffled(int64_t count, uint64_t seed) {
  const at::Tensor order = at::randperm(count, at::detail::createCPUGenerator(seed));
  return {order.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>() + count};
}

int64_t steps_of(const TrainingConfig& config, int64_t samples) {
  return (samples + config.batch_size - 1) / config.batch_size;
}

}  // namespace

double learning_rate(const TrainingConfig& config, int64_t step, int64_t steps) {
  const auto warmup = static_cast<int64_t>(std::floor(config.warmup * static_cast<double>(steps)));
  if (step < warmup) return config.learning_rate * static_cast<double>(step + 1) / static_cast<double>(warmup);
  if (config.schedule == config::Schedule::kConstant) return config.learning_rate;
  const double progress = static_cast<double>(step - warmup) / static_cast<double>(std::max<int64_t>(steps - warmup, 1));
  return config.learning_rate * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

double ternary_share(const TrainingConfig& config, int64_t step, int64_t steps) {
  const double turning = config.ternary_warmup * static_cast<double>(steps);
  return turning < 1 ? 1.0 : std::min(1.0, static_cast<double>(step) / turning);
}

BitTrainer::BitTrainer(Learner& learner, TrainingConfig config, TrainerOptions options)
    : learner_(learner), config_(config), options_(std::move(options)) {}

BitTrainer::~BitTrainer() = default;

Status BitTrainer::check(const data::ImageDataset& training) const {
  const auto& c = config_;
  if (c.epochs < 1 || c.batch_size < 1 || c.threads < 0)
    return make_error(ErrorCode::kInvalidArgument,
                      "[train] epochs and batch_size of at least 1 and threads of at least 0, got {}, {} and {}", c.epochs,
                      c.batch_size, c.threads);
  if (!(c.ternary_warmup >= 0 && c.ternary_warmup <= 1))
    return make_error(ErrorCode::kInvalidArgument, "[train] ternary_warmup in [0, 1], got {}", c.ternary_warmup);
  if (!(c.learning_rate > 0 && std::isfinite(c.learning_rate)) || !(c.warmup >= 0 && c.warmup <= 1) ||
      !(c.weight_decay >= 0) || !(c.momentum >= 0))
    return make_error(
        ErrorCode::kInvalidArgument,
        "[train] learning_rate > 0, warmup in [0, 1], weight_decay >= 0 and momentum >= 0, got {}, {}, {} and {}",
        c.learning_rate, c.warmup, c.weight_decay, c.momentum);
  if (training.count < 1) return make_error(ErrorCode::kInvalidArgument, "[train] at least one training sample, got none");
  return {};
}

Result<double> BitTrainer::run_epoch(const data::ImageDataset& training, int64_t epoch) {
  const TraceScope scope(options_.trace, "train", "epoch");
  const int64_t steps = steps_of(config_, training.count);
  const auto order = shuffled(training.count, static_cast<uint64_t>(config_.seed + epoch));
  double sum = 0;
  learner_.train(true);
  for (int64_t step = 0, begin = 0; step < steps; ++step, begin += config_.batch_size) {
    const int64_t size = std::min(config_.batch_size, training.count - begin);
    const int64_t done = (epoch - 1) * steps + step, all = config_.epochs * steps;
    const double rate = learning_rate(config_, done, all);
    if (config_.ternary_warmup > 0) learner_.set_blend(ternary_share(config_, done, all));
    for (auto& group : optimizer_->param_groups()) group.options().set_lr(rate);
    optimizer_->zero_grad();
    const Batch batch =
        make_batch(training, std::span(order).subspan(static_cast<size_t>(begin), static_cast<size_t>(size)));
    const at::Tensor loss = learner_.forward(batch).at("loss");
    const double value = loss.item<double>();
    if (!std::isfinite(value))
      return make_error(ErrorCode::kNotFinite,
                        "[train] a finite loss, got {} in epoch {}, step {}; a lower learning_rate may help", value, epoch,
                        step + 1);
    loss.backward();
    optimizer_->step();
    sum += value * static_cast<double>(size);
    if (options_.on_step)
      options_.on_step({epoch, config_.epochs, step + 1, steps, sum / static_cast<double>(begin + size), rate});
  }
  return sum / static_cast<double>(training.count);
}

Result<TrainingReport> BitTrainer::fit(const data::ImageDataset& training, const data::ImageDataset& validation) try {
  BITLAB_RETURN_IF_ERROR(check(training));
  if (config_.threads > 0) at::set_num_threads(static_cast<int>(config_.threads));
  optimizer_ = make_optimizer(learner_, config_);
  TrainingReport report;
  State best;
  const auto start = Clock::now();
  for (int64_t epoch = 1; epoch <= config_.epochs; ++epoch) {
    const auto epoch_start = Clock::now();
    EpochReport current{epoch, 0, 0, 0};
    BITLAB_TRY(current.loss, run_epoch(training, epoch));
    if (validation.count > 0) {
      BITLAB_TRY(const Evaluation evaluation, evaluate(learner_, validation));
      current.accuracy = evaluation.accuracy;
    }
    current.seconds = seconds_since(epoch_start);
    report.epochs.push_back(current);
    if (report.best_epoch == 0 || validation.count == 0 || current.accuracy > report.best_accuracy) {
      report.best_epoch = epoch;
      report.best_accuracy = current.accuracy;
      best = learner_.state();
      if (!options_.checkpoint.empty()) BITLAB_RETURN_IF_ERROR(save_checkpoint(best, options_.checkpoint));
    }
    if (options_.on_epoch) options_.on_epoch(current);
  }
  BITLAB_RETURN_IF_ERROR(learner_.load(best));
  if (config_.ternary_warmup > 0) learner_.set_blend(1);
  report.seconds = seconds_since(start);
  return report;
} catch (const Exception& error) {
  return error.error();
} catch (const c10::Error& error) {
  return make_error(ErrorCode::kInvalidArgument, "[train] a model that takes the data, got '{}'",
                    error.what_without_backtrace());
}

}  // namespace bitlab::train
