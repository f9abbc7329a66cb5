#include "bitlab/train/trainer.h"

#include <chrono>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/optim/optimizer.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/config/path_pattern.h"
#include "bitlab/train/checkpoint.h"
#include "bitlab/train/internal/event_stream.h"
#include "bitlab/train/internal/optimizer.h"
#include "bitlab/train/internal/schedule.h"
#include "bitlab/train/internal/trainer_state.h"

namespace bitlab::train {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// LibTorch's threads as the config says, and afterwards as they were.
class Threads {
 public:
  explicit Threads(int64_t count) : before_(at::get_num_threads()) {
    if (count > 0) at::set_num_threads(static_cast<int>(count));
  }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

at::Generator random_numbers() { return at::detail::getDefaultCPUGenerator(); }

double value_of(const std::vector<Metric>& metrics, const std::string& name) { return Evaluation{0, metrics}.at(name); }

// Steps of the optimizer in an epoch.
int64_t updates_of(const TrainingConfig& config, const data::Loader& loader) {
  return ceil_div(loader.batches(), config.accumulate);
}

}  // namespace

BitTrainer::BitTrainer(Learner& learner, TrainingConfig config, TrainerOptions options)
    : learner_(learner),
      config_(config),
      options_(std::move(options)),
      hooks_(options_.hooks),
      progress_(std::make_unique<Progress>()),
      events_(std::make_unique<EventStream>(options_.sinks)) {
  if (config_.accumulate > 1) hooks_.push_back(std::make_shared<AccumulateGradients>(config_.accumulate));
  if (config_.clip_norm > 0) hooks_.push_back(std::make_shared<ClipGradients>(config_.clip_norm));
}

BitTrainer::~BitTrainer() = default;

double BitTrainer::seconds_so_far() const {
  double seconds = progress_->seconds;
  for (const EpochReport& epoch : progress_->report.epochs) seconds += epoch.seconds;
  return seconds;
}

Status BitTrainer::check() const {
  const auto& c = config_;
  if (c.epochs < 1 || c.batch_size < 1 || c.threads < 0)
    return make_error(ErrorCode::kInvalidArgument,
                      "[train] epochs and batch_size of at least 1 and threads of at least 0, got {}, {} and {}", c.epochs,
                      c.batch_size, c.threads);
  if (c.accumulate < 1 || !(c.clip_norm >= 0) || c.checkpoint_steps < 0)
    return make_error(ErrorCode::kInvalidArgument,
                      "[train] accumulate of at least 1, clip_norm and checkpoint_steps of at least 0, got {}, {} and {}",
                      c.accumulate, c.clip_norm, c.checkpoint_steps);
  if (!(c.ternary_warmup >= 0 && c.ternary_warmup <= 1))
    return make_error(ErrorCode::kInvalidArgument, "[train] ternary_warmup in [0, 1], got {}", c.ternary_warmup);
  if (!(c.beta1 >= 0 && c.beta1 < 1) || !(c.beta2 >= 0 && c.beta2 < 1) || !(c.epsilon >= 0))
    return make_error(ErrorCode::kInvalidArgument, "[train] beta1 and beta2 in [0, 1) and epsilon >= 0, got {}, {} and {}",
                      c.beta1, c.beta2, c.epsilon);
  if (c.nesterov && !(c.momentum > 0))
    return make_error(ErrorCode::kInvalidArgument, "[train] momentum > 0 with nesterov, got {}", c.momentum);
  if (!(c.final_rate >= 0 && c.final_rate <= 1) || !(c.power > 0) || c.step_epochs < 1 || !(c.step_factor > 0))
    return make_error(
        ErrorCode::kInvalidArgument,
        "[train] final_rate in [0, 1], power > 0, step_epochs of at least 1 and step_factor > 0, got {}, {}, {} and {}",
        c.final_rate, c.power, c.step_epochs, c.step_factor);
  for (const ParameterRule& rule : c.parameters) {
    BITLAB_RETURN_IF_ERROR(config::check_path_pattern(rule.path));
    if (!(rule.rate >= 0 && std::isfinite(rule.rate)) || !std::isfinite(rule.decay))
      return make_error(ErrorCode::kInvalidArgument,
                        "[train] a rate of at least 0 and a number for decay, got {} and {} (path={})", rule.rate,
                        rule.decay, rule.path);
  }
  if (!(c.learning_rate > 0 && std::isfinite(c.learning_rate)) || !(c.warmup >= 0 && c.warmup <= 1) ||
      !(c.weight_decay >= 0) || !(c.momentum >= 0))
    return make_error(
        ErrorCode::kInvalidArgument,
        "[train] learning_rate > 0, warmup in [0, 1], weight_decay >= 0 and momentum >= 0, got {}, {}, {} and {}",
        c.learning_rate, c.warmup, c.weight_decay, c.momentum);
  return {};
}

void BitTrainer::begin() {
  parameters_ = learner_.parameters();
  groups_ = groups_of(parameters_, config_);
  optimizer_ = make_optimizer(groups_, config_);
  *progress_ = {};
}

Result<BitTrainer::StepResult> BitTrainer::step(nn::NamedTensors batch, bool ends_epoch) {
  if (optimizer_ == nullptr) begin();
  const int64_t items = learner_.task().items(batch);
  StepContext context{learner_, parameters_, *optimizer_, std::move(batch), items, ends_epoch};
  const auto call = [&](void (StepHook::*seam)(StepContext&)) {
    for (const auto& hook : hooks_) (hook.get()->*seam)(context);
  };
  call(&StepHook::before_forward);
  context.outputs = learner_.forward(context.batch);
  context.loss = learner_.task().loss(context.outputs, context.batch);
  call(&StepHook::after_forward);
  const auto value = context.loss.item<double>();
  if (!std::isfinite(value))
    return make_error(ErrorCode::kNotFinite, "[train] a finite loss, got {}; a lower learning_rate may help", value);
  context.objective = context.loss;
  call(&StepHook::before_backward);
  context.objective.backward();
  call(&StepHook::after_backward);
  if (!context.updates) return StepResult{value, items, false};
  call(&StepHook::before_update);
  optimizer_->step();
  optimizer_->zero_grad();
  call(&StepHook::after_update);
  return StepResult{value, items, true};
}

// The step that the schedules know: `learning_rate` and the layers' blend are those of the optimizer's next step.
Result<BitTrainer::StepResult> BitTrainer::take_step(data::Loader& loader, nn::NamedTensors batch) {
  const int64_t all = config_.epochs * updates_of(config_, loader);
  const double rate = learning_rate(config_, progress_->updates, all);
  if (config_.ternary_warmup > 0) learner_.set_blend(ternary_share(config_, progress_->updates, all));
  set_rates(*optimizer_, groups_, rate, config_.weight_decay * decay_share(config_, progress_->updates, all));
  const auto [epoch, position] = loader.state();
  auto result = step(std::move(batch), position == loader.batches());
  if (!result.ok())
    return make_error(result.error().code, "{} (epoch={}, step={})", result.error().message, epoch, position);
  progress_->loss_sum += result->loss * static_cast<double>(result->items);
  progress_->items += result->items;
  progress_->updates += result->updated ? 1 : 0;
  BITLAB_RETURN_IF_ERROR(report_step(loader, *result, rate));
  return result;
}

Status BitTrainer::report_step(const data::Loader& loader, const StepResult& result, double rate) const {
  const auto [epoch, position] = loader.state();
  const double mean = progress_->loss_sum / static_cast<double>(std::max<int64_t>(progress_->items, 1));
  const StepReport report{epoch, config_.epochs, position, loader.batches(), mean, rate, result.loss, result.items};
  BITLAB_RETURN_IF_ERROR(events_->step(report));
  if (options_.on_step) options_.on_step(report);
  return {};
}

Status BitTrainer::run_epoch(data::Loader& loader) {
  const TraceScope scope(options_.trace, "train", "epoch");
  const auto start = Clock::now();
  const double before = progress_->seconds;
  learner_.train(true);
  for (;;) {
    for (const auto& hook : hooks_) hook->before_batch();
    BITLAB_TRY(auto batch, loader.next());
    if (!batch) break;
    BITLAB_TRY(const StepResult result, take_step(loader, tensors_of(*batch)));
    progress_->seconds = before + seconds_since(start);
    const bool is_due = config_.checkpoint_steps > 0 && progress_->updates % config_.checkpoint_steps == 0;
    if (result.updated && is_due) BITLAB_RETURN_IF_ERROR(save_checkpoint(loader));
  }
  return {};
}

Status BitTrainer::end_epoch(const data::DatasetPtr& validation) {
  Progress& p = *progress_;
  const auto start = Clock::now();
  EpochReport current{static_cast<int64_t>(p.report.epochs.size()) + 1,
                      p.loss_sum / static_cast<double>(std::max<int64_t>(p.items, 1)),
                      {},
                      p.seconds};
  const bool is_validated = validation != nullptr && validation->size() > 0;
  if (is_validated) {
    BITLAB_TRY(Evaluation evaluation, evaluate(learner_, validation, {.workers = config_.workers}));
    current.metrics = std::move(evaluation.metrics);
    BITLAB_RETURN_IF_ERROR(events_->evaluation(current.epoch, current.metrics));
  }
  current.seconds += seconds_since(start);
  const Goal goal = learner_.task().goal();
  if (!is_validated || p.report.best_epoch == 0 ||
      goal.better(value_of(current.metrics, goal.metric), value_of(p.report.best, goal.metric))) {
    p.report.best_epoch = current.epoch;
    p.report.best = current.metrics;
    p.best = learner_.state();
    if (!options_.best.empty()) BITLAB_RETURN_IF_ERROR(train::save_checkpoint(p.best, options_.best));
  }
  p.report.epochs.push_back(std::move(current));
  p.loss_sum = p.seconds = 0;
  p.items = 0;
  return {};
}

Status BitTrainer::save_checkpoint(const data::Loader& loader) {
  if (options_.checkpoint.empty()) return {};
  State state = progress_->state();
  add_part(state, "model.", learner_.state());
  add_part(state, "optimizer.", optimizer_state(*optimizer_, parameters_));
  for (size_t i = 0; i < hooks_.size(); ++i) add_part(state, fmt::format("hook{}.", i), hooks_[i]->state());
  state["random.cpu"] = random_numbers().get_state();
  const auto [epoch, position] = loader.state();
  state["data.epoch"] = at::scalar_tensor(epoch, at::kLong);
  state["data.position"] = at::scalar_tensor(position, at::kLong);
  return train::save_checkpoint(state, options_.checkpoint);
}

Status BitTrainer::load_checkpoint(data::Loader& loader) {
  BITLAB_TRY(const State state, train::load_checkpoint(options_.checkpoint));
  BITLAB_RETURN_IF_ERROR(progress_->load(state));
  BITLAB_RETURN_IF_ERROR(learner_.load(part_of(state, "model.")));
  BITLAB_RETURN_IF_ERROR(load_optimizer_state(*optimizer_, parameters_, part_of(state, "optimizer.")));
  for (size_t i = 0; i < hooks_.size(); ++i)
    BITLAB_RETURN_IF_ERROR(hooks_[i]->load(part_of(state, fmt::format("hook{}.", i))));
  for (const char* name : {"random.cpu", "data.epoch", "data.position"})
    if (!state.contains(name))
      return make_error(ErrorCode::kCorrupt, "[train] a checkpoint of a training run, got none of '{}'", name);
  random_numbers().set_state(state.at("random.cpu"));
  return loader.seek({state.at("data.epoch").item<int64_t>(), state.at("data.position").item<int64_t>()});
}

Result<TrainingReport> BitTrainer::run(const data::DatasetPtr& training, const data::DatasetPtr& validation) {
  BITLAB_TRY(const auto loader, data::Loader::create(training, {.batch_size = config_.batch_size,
                                                                .shuffle = true,
                                                                .seed = static_cast<uint64_t>(config_.seed),
                                                                .workers = config_.workers,
                                                                .transforms = options_.transforms}));
  begin();
  if (options_.resume) {
    if (Status status = load_checkpoint(*loader); !status.ok())
      return make_error(status.error().code, "{} (checkpoint={})", status.error().message, options_.checkpoint.string());
  }
  Progress& p = *progress_;
  const auto [epoch, position] = loader->state();
  const auto finished = static_cast<int64_t>(p.report.epochs.size());
  const int64_t step = (epoch - 1) * loader->batches() + position;
  BITLAB_RETURN_IF_ERROR(events_->begin({.step = step,
                                         .epochs = finished,
                                         .seconds = seconds_so_far(),
                                         .is_evaluated = step == finished * loader->batches()}));
  while (static_cast<int64_t>(p.report.epochs.size()) < config_.epochs) {
    BITLAB_RETURN_IF_ERROR(run_epoch(*loader));
    BITLAB_RETURN_IF_ERROR(end_epoch(validation));
    BITLAB_RETURN_IF_ERROR(events_->epoch(p.report.epochs.back()));
    BITLAB_RETURN_IF_ERROR(save_checkpoint(*loader));
    if (options_.on_epoch) options_.on_epoch(p.report.epochs.back());
  }
  BITLAB_RETURN_IF_ERROR(learner_.load(p.best));
  if (config_.ternary_warmup > 0) learner_.set_blend(1);
  p.report.best_by = learner_.task().goal().metric;
  p.report.seconds = seconds_so_far();
  BITLAB_RETURN_IF_ERROR(events_->end(p.report));
  return p.report;
}

Result<TrainingReport> BitTrainer::fit(const data::DatasetPtr& training, const data::DatasetPtr& validation) try {
  BITLAB_RETURN_IF_ERROR(check());
  const Threads threads(config_.threads);
  return run(training, validation);
} catch (const Exception& error) {
  return error.error();
} catch (const c10::Error& error) {
  return make_error(ErrorCode::kInvalidArgument, "[train] a model that takes the data, got '{}'",
                    error.what_without_backtrace());
}

}  // namespace bitlab::train
