#include "bitlab/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <set>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <fmt/ranges.h>
#include <torch/optim/optimizer.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/ops/internal/call_observer.h"
#include "bitlab/train/checkpoint.h"
#include "bitlab/train/device.h"
#include "bitlab/train/internal/autocast.h"
#include "bitlab/train/internal/event_stream.h"
#include "bitlab/train/internal/kept_files.h"
#include "bitlab/train/internal/not_finite.h"
#include "bitlab/train/internal/optimizer.h"
#include "bitlab/train/internal/phase_clock.h"
#include "bitlab/train/internal/random_numbers.h"
#include "bitlab/train/internal/ranking.h"
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

nn::NamedTensors in_float32(const nn::NamedTensors& tensors) {
  nn::NamedTensors wide;
  for (const auto& [name, tensor] : tensors) {
    const bool is_narrow = tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
    wide.set(name, is_narrow ? tensor.to(at::kFloat) : tensor);
  }
  return wide;
}

// Steps of the optimizer in an epoch.
int64_t updates_of(const TrainingConfig& config, const data::Loader& loader) {
  return ceil_div(loader.batches(), config.accumulate);
}

// Whether something is to be done after so many updates, every `steps` of them; 0: never.
bool is_due(int64_t steps, int64_t updates) { return steps > 0 && updates % steps == 0; }

// So that a long epoch is not lost to a folder that is none.
Status check_folder_of(const std::filesystem::path& file) {
  const std::filesystem::path folder = file.parent_path();
  std::error_code ignored;
  if (file.empty() || folder.empty() || std::filesystem::is_directory(folder, ignored)) return {};
  return make_error(ErrorCode::kNotFound, "[train] a folder for checkpoints, got none (path={})", folder.string());
}

}  // namespace

BitTrainer::BitTrainer(Learner& learner, TrainingConfig config, TrainerOptions options)
    : learner_(learner),
      config_(config),
      options_(std::move(options)),
      hooks_(options_.hooks),
      progress_(std::make_unique<Progress>()),
      clock_(std::make_unique<PhaseClock>()),
      events_(std::make_unique<EventStream>(is_writer() ? options_.sinks : decltype(options_.sinks)())) {
  criterion_ = [&task = learner_.task(), smoothing = config_.label_smoothing](const auto& outputs, const auto& batch) {
    return smoothing > 0 ? task.smoothed_loss(outputs, batch, smoothing) : task.loss(outputs, batch);
  };
  add_hooks();
}

void BitTrainer::add_hooks() {
  const auto& c = config_;
  const int64_t rank = rank_of(options_.peers);
  if (c.mixup > 0) hooks_.push_back(std::make_shared<Mixup>(c.mixup, static_cast<uint64_t>(c.seed + rank)));
  if (learns_from_teacher() && options_.teacher)
    hooks_.push_back(std::make_shared<Distillation>(options_.teacher, options_.teacher_parameters, c));
  if (c.accumulate > 1 || options_.peers != nullptr) {
    std::set<std::string> narrow;
    if (options_.peers != nullptr && c.ternary_gradients == config::Precision::kBFloat16)
      for (const TernaryWeight& weight : learner_.ternary_weights()) narrow.insert(weight.name);
    hooks_.push_back(std::make_shared<AccumulateGradients>(c.accumulate, options_.peers, std::move(narrow)));
  }
  if (c.precision == config::Precision::kFloat16) hooks_.push_back(std::make_shared<LossScaling>());
  if (c.clip_norm > 0) hooks_.push_back(std::make_shared<ClipGradients>(c.clip_norm));
  if (c.freeze_oscillation > 0)
    hooks_.push_back(std::make_shared<FreezeOscillation>(c.freeze_oscillation, c.oscillation_momentum));
  if (c.ema > 0) hooks_.push_back(std::make_shared<MovingAverage>(c.ema));
}

BitTrainer::~BitTrainer() = default;

double BitTrainer::seconds_so_far() const {
  double seconds = progress_->seconds;
  for (const EpochReport& epoch : progress_->report.epochs) seconds += epoch.seconds;
  return seconds;
}

Status BitTrainer::begin() {
  BITLAB_TRY(const auto device, find_device(config_.device));
  if (device) learner_.to(*device);
  parameters_ = learner_.parameters();
  groups_ = groups_of(parameters_, config_);
  optimizer_ = make_optimizer(groups_, config_);
  *progress_ = {};
  *clock_ = PhaseClock(device_of(parameters_));
  return {};
}

// The network's outputs, with its operators shown to the hooks that look at them.
nn::NamedTensors BitTrainer::watched_forward(const nn::NamedTensors& batch) {
  std::vector<std::unique_ptr<ops::CallObserver>> observers;
  for (const auto& hook : hooks_)
    if (ops::CallListener* listener = hook->forward_listener(); listener != nullptr)
      observers.push_back(std::make_unique<ops::CallObserver>(*listener));
  return learner_.forward(batch);
}

// The batch through the network and the loss, with an error that says where the first number that is none comes from.
Result<double> BitTrainer::forward(StepContext& step) {
  const at::Device device = device_of(parameters_);
  const Autocast autocast(config_.precision, device.type());
  const RandomState random = random_state(device);
  std::string problem;
  try {
    for (const auto& hook : hooks_) hook->before_forward(step);
    step.outputs = in_float32(watched_forward(step.batch));
    step.loss = step.criterion(step.outputs, step.batch);
    for (const auto& hook : hooks_) hook->after_forward(step);
    const auto value = step.loss.item<double>();
    if (std::isfinite(value)) return value;
    problem =
        fmt::format("[train] a finite loss, got {}", std::isnan(value) ? std::numeric_limits<double>::quiet_NaN() : value);
  } catch (const Exception& error) {
    if (error.error().code != ErrorCode::kNotFinite) throw;
    problem = error.error().message;
  }
  set_random_state(device, random);
  return make_error(ErrorCode::kNotFinite, "{}: {}; a lower learning_rate may help", problem, origin_of_not_finite(step));
}

Result<BitTrainer::StepResult> BitTrainer::step(nn::NamedTensors batch, bool ends_epoch) {
  if (optimizer_ == nullptr) BITLAB_RETURN_IF_ERROR(begin());
  PhaseClock& clock = *clock_;
  clock.start();
  PhaseSeconds& phases = progress_->phases;
  const int64_t items = learner_.task().items(batch);  // of the host's batch, so that it waits for no device
  StepContext context{.learner = learner_,
                      .parameters = parameters_,
                      .optimizer = *optimizer_,
                      .batch = moved_to(device_of(parameters_), batch),
                      .criterion = criterion_,
                      .step = progress_->steps,
                      .items = items,
                      .ends_epoch = ends_epoch};
  const auto call = [&](void (StepHook::*seam)(StepContext&)) {
    for (const auto& hook : hooks_) (hook.get()->*seam)(context);
  };
  BITLAB_TRY(double value, forward(context));
  count_together(value, context);
  context.objective = context.loss;
  call(&StepHook::before_backward);
  clock.charge(phases.forward);
  context.objective.backward();
  call(&StepHook::after_backward);
  clock.charge(phases.backward);
  ++progress_->steps;
  const StepResult result{value, context.all_items, context.updates, context.skips, context.loss_scale};
  if (!context.updates) return result;
  if (!context.skips) {
    call(&StepHook::before_update);
    optimizer_->step();
  }
  optimizer_->zero_grad();
  if (!context.skips) call(&StepHook::after_update);
  clock.charge(phases.update);
  return result;
}

// The step that the schedules know: `learning_rate` and the layers' blend are those of the optimizer's next step.
Result<BitTrainer::StepResult> BitTrainer::take_step(data::Loader& loader, nn::NamedTensors batch) {
  const int64_t all = config_.epochs * updates_of(config_, loader);
  const double rate = learning_rate(config_, progress_->updates, all);
  if (turns_ternary()) {
    const double share = ternary_share(config_, progress_->updates, all);
    learner_.set_blend(
        [&](int64_t layer, int64_t layers) { return share_of_layer(config_.ternary_order, share, layer, layers); });
  }
  set_rates(*optimizer_, groups_, rate, config_.weight_decay * decay_share(config_, progress_->updates, all));
  const auto [epoch, position] = loader.state();
  auto result = step(std::move(batch), position == loader.batches());
  if (!result.ok())
    return make_error(result.error().code, "{} (epoch={}, step={}, samples=[{}])", result.error().message, epoch, position,
                      fmt::join(batch_of(loader), ", "));
  progress_->loss_sum += result->loss * static_cast<double>(result->items);
  progress_->items += result->items;
  progress_->updates += result->updated ? 1 : 0;
  BITLAB_RETURN_IF_ERROR(report_step(loader, *result, rate));
  return result;
}

Status BitTrainer::report_step(const data::Loader& loader, const StepResult& result, double rate) const {
  const auto [epoch, position] = loader.state();
  const double mean = progress_->loss_sum / static_cast<double>(std::max<int64_t>(progress_->items, 1));
  const StepReport report{epoch, config_.epochs, position,     loader.batches(), mean,
                          rate,  result.loss,    result.items, result.skipped,   result.loss_scale};
  BITLAB_RETURN_IF_ERROR(events_->step(report));
  if (options_.on_step) options_.on_step(report);
  return {};
}

data::LoaderOptions BitTrainer::loader_options() const {
  return {.batch_size = config_.batch_size,
          .shuffle = true,
          .seed = static_cast<uint64_t>(config_.seed),
          .workers = config_.workers,
          .rank = rank_of(options_.peers),
          .world = size_of(options_.peers),
          .transforms = options_.transforms};
}

// The indices of the samples of the batch that the loader gave last.
std::vector<int64_t> BitTrainer::batch_of(const data::Loader& loader) const {
  const auto [epoch, position] = loader.state();
  const auto order = data::order_of_epoch(training_->size(), epoch, loader_options());
  const int64_t begin = (position - 1) * config_.batch_size;
  const int64_t end = std::min(static_cast<int64_t>(order.size()), begin + config_.batch_size);
  return {order.begin() + begin, order.begin() + end};
}

bool BitTrainer::is_stalled() const {
  if (config_.patience == 0) return false;
  return train::is_stalled(progress_->report.evaluations, learner_.task().goal(), config_.patience, config_.min_delta);
}

Status BitTrainer::run_epoch(data::Loader& loader, const data::DatasetPtr& validation) {
  const TraceScope scope(options_.trace, "train", "epoch");
  const auto start = Clock::now();
  Progress& p = *progress_;
  const double before = p.seconds;
  learner_.train(true);
  while (!is_stalled()) {
    for (const auto& hook : hooks_) hook->before_batch();
    clock_->start();
    BITLAB_TRY(auto batch, loader.next());
    if (!batch) break;
    nn::NamedTensors tensors = tensors_of(*batch, config_.channels_last, device_of(parameters_));
    clock_->charge(p.phases.data);
    BITLAB_TRY(const StepResult result, take_step(loader, std::move(tensors)));
    p.seconds = before + seconds_since(start);
    if (result.updated) BITLAB_RETURN_IF_ERROR(end_update(loader, validation));
    p.seconds = before + seconds_since(start);
  }
  return {};
}

// What comes between two steps of the optimizer, where an interrupted run can go on.
Status BitTrainer::end_update(const data::Loader& loader, const data::DatasetPtr& validation) {
  Progress& p = *progress_;
  if (is_due(config_.evaluate_steps, p.updates)) {
    BITLAB_RETURN_IF_ERROR(judge(validation));
    learner_.train(true);
  }
  const bool stops = is_stopped();
  if (stops || is_due(config_.checkpoint_steps, p.updates)) BITLAB_RETURN_IF_ERROR(save_checkpoint(loader));
  if (!stops) return {};
  const auto [epoch, position] = loader.state();
  return make_error(ErrorCode::kCancelled, "[train] a run to its end, got a request to stop (epoch={}, step={})", epoch,
                    position);
}

// Evaluates, where there is something to evaluate on, and keeps the model where it is among the best.
Status BitTrainer::judge(const data::DatasetPtr& validation) {
  Progress& p = *progress_;
  clock_->start();
  for (const auto& hook : hooks_) hook->before_evaluation(learner_);
  const bool is_renewed = config_.statistics_batches > 0;
  const State own = is_renewed ? learner_.state() : State();
  if (is_renewed) BITLAB_RETURN_IF_ERROR(renew_statistics());
  if (options_.peers != nullptr) take_from_first(/*parameters=*/false);
  const bool is_evaluated = validation != nullptr && validation->size() > 0;
  const auto epoch = static_cast<int64_t>(p.report.epochs.size()) + 1;
  if (is_evaluated) {
    BITLAB_TRY(Evaluation evaluation,
               evaluate(learner_, validation,
                        {.workers = config_.workers, .channels_last = config_.channels_last, .peers = options_.peers}));
    const auto weights = learner_.ternary_weights();
    p.report.evaluations.push_back({epoch, p.updates, std::move(evaluation.metrics), statistics_of(weights, p.codes)});
  }
  BITLAB_RETURN_IF_ERROR(keep_if_best(is_evaluated));
  if (is_renewed) BITLAB_RETURN_IF_ERROR(learner_.load(own));
  for (auto hook = hooks_.rbegin(); hook != hooks_.rend(); ++hook) (*hook)->after_evaluation(learner_);
  clock_->charge(p.phases.evaluation);
  if (!is_evaluated) return {};
  BITLAB_RETURN_IF_ERROR(events_->evaluation(p.report.evaluations.back()));
  if (options_.on_evaluation) options_.on_evaluation(p.report.evaluations.back());
  return {};
}

// Passes the first batches of the first epoch through the network in training, without gradients: running statistics become those of the present
// parameters, as they are evaluated. The random numbers of training stay.
Status BitTrainer::renew_statistics() {
  const at::NoGradGuard no_grad;
  const at::Device device = device_of(parameters_);
  const RandomState random = random_state(device);
  BITLAB_TRY(const auto loader, data::Loader::create(training_, loader_options()));
  learner_.train(true);
  if (turns_ternary()) learner_.set_blend(1);
  for (int64_t passed = 0; passed < config_.statistics_batches;) {
    BITLAB_TRY(const auto batch, loader->next());
    if (!batch) continue;  // the next epoch begins
    learner_.forward(moved_to(device, tensors_of(*batch, config_.channels_last, device)));
    ++passed;
  }
  set_random_state(device, random);
  return {};
}

Status BitTrainer::keep_if_best(bool is_evaluated) {
  TrainingReport& report = progress_->report;
  size_t rank = 0;
  std::vector<size_t> order;
  if (is_evaluated) {
    order = ranking(report.evaluations, learner_.task().goal());
    rank = static_cast<size_t>(std::find(order.begin(), order.end(), order.size() - 1) - order.begin());
  }
  const auto kept = static_cast<size_t>(config_.keep_best);
  if (rank >= kept) return {};
  State state = learner_.state();
  for (auto& [name, tensor] : state) tensor = tensor.cpu();  // the memory of a device is for training
  if (rank == 0) {
    report.best_epoch = static_cast<int64_t>(report.epochs.size()) + 1;
    report.best_step = progress_->updates;
    if (is_evaluated) report.best = report.evaluations.back().metrics;
    progress_->best = state;
  }
  if (options_.best.empty() || !is_writer()) return {};
  if (kept == 1) return train::save_checkpoint(state, options_.best);
  BITLAB_RETURN_IF_ERROR(train::save_checkpoint(state, path_of_step(options_.best, progress_->updates)));
  if (rank == 0) BITLAB_RETURN_IF_ERROR(point_to_step(options_.best, progress_->updates));
  if (order.size() > kept) remove_step(options_.best, report.evaluations[order[kept]].step);
  return {};
}

Status BitTrainer::end_epoch(const data::DatasetPtr& validation) {
  Progress& p = *progress_;
  const auto start = Clock::now();
  const auto epoch = static_cast<int64_t>(p.report.epochs.size()) + 1;
  const auto& evaluations = p.report.evaluations;
  const bool is_last = epoch == config_.epochs || is_stalled();
  const bool is_judged = !evaluations.empty() && evaluations.back().step == p.updates;
  if (config_.evaluate_steps == 0 || (is_last && !is_judged)) BITLAB_RETURN_IF_ERROR(judge(validation));
  clock_->settle();
  EpochReport current{.epoch = epoch,
                      .loss = p.loss_sum / static_cast<double>(std::max<int64_t>(p.items, 1)),
                      .seconds = p.seconds + seconds_since(start),
                      .phases = p.phases};
  if (!evaluations.empty() && evaluations.back().epoch == epoch) current.metrics = evaluations.back().metrics;
  p.report.epochs.push_back(std::move(current));
  p.loss_sum = p.seconds = 0;
  p.items = 0;
  p.phases = {};
  return {};
}

Status BitTrainer::save_checkpoint(const data::Loader& loader) {
  if (options_.checkpoint.empty()) return {};
  Progress& p = *progress_;
  const bool is_one_of_several = config_.keep_last > 1;
  if (is_one_of_several && (p.saved.empty() || p.saved.back() != p.updates)) p.saved.push_back(p.updates);
  clock_->settle();
  State state = p.state();
  add_part(state, "model.", learner_.state());
  add_part(state, "optimizer.", optimizer_state(*optimizer_, parameters_));
  for (size_t i = 0; i < hooks_.size(); ++i) add_part(state, fmt::format("hook{}.", i), hooks_[i]->state());
  const RandomState random = random_state(device_of(parameters_));
  const auto of_all = [&](const at::Tensor& own) {
    return options_.peers == nullptr ? own.unsqueeze(0) : options_.peers->gather(own);
  };
  state["random.cpu"] = of_all(random.cpu);
  if (random.device.defined()) state["random.device"] = of_all(random.device);
  if (!is_writer()) return {};
  const auto [epoch, position] = loader.state();
  state["data.epoch"] = at::scalar_tensor(epoch, at::kLong);
  state["data.position"] = at::scalar_tensor(position, at::kLong);
  if (!is_one_of_several) return train::save_checkpoint(state, options_.checkpoint);
  BITLAB_RETURN_IF_ERROR(train::save_checkpoint(state, path_of_step(options_.checkpoint, p.updates)));
  BITLAB_RETURN_IF_ERROR(point_to_step(options_.checkpoint, p.updates));
  remove_old_checkpoints();
  return {};
}

void BitTrainer::remove_old_checkpoints() {
  auto& saved = progress_->saved;
  for (; static_cast<int64_t>(saved.size()) > config_.keep_last; saved.erase(saved.begin()))
    remove_step(options_.checkpoint, saved.front());
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
  const at::Tensor& random = state.at("random.cpu");
  const int64_t processes = size_of(options_.peers);
  if (random.dim() != 2 || random.size(0) != processes)
    return make_error(ErrorCode::kInvalidArgument, "[train] as many processes as the checkpoint is of, {}, got {}",
                      random.dim() == 2 ? random.size(0) : 1, processes);
  RandomState own{random[rank_of(options_.peers)].clone()};
  const at::Device device = device_of(parameters_);
  // A run may go on on another device, with other random numbers there.
  if (const auto found = state.find("random.device"); found != state.end() && !device.is_cpu())
    own.device = found->second[rank_of(options_.peers)].clone();
  set_random_state(device, own);
  if (is_writer()) remove_old_checkpoints();  // the run may have been killed before it could
  return loader.seek({state.at("data.epoch").item<int64_t>(), state.at("data.position").item<int64_t>()});
}

Status BitTrainer::check_run(const data::DatasetPtr& validation) const {
  BITLAB_RETURN_IF_ERROR(check(config_));
  if (is_writer()) {
    BITLAB_RETURN_IF_ERROR(check_folder_of(options_.best));
    BITLAB_RETURN_IF_ERROR(check_folder_of(options_.checkpoint));
  }
  const auto& c = config_;
  if (learns_from_teacher() && !options_.teacher)
    return make_error(ErrorCode::kInvalidArgument, "[train] a teacher for distillation, got none");
  const bool is_validated = validation != nullptr && validation->size() > 0;
  if (!is_validated && (c.patience > 0 || c.evaluate_steps > 0 || c.keep_best > 1))
    return make_error(ErrorCode::kInvalidArgument,
                      "[train] validation samples for patience, evaluate_steps and keep_best, got none");
  return {};
}

Result<TrainingReport> BitTrainer::run(const data::DatasetPtr& training, const data::DatasetPtr& validation) {
  training_ = training;
  BITLAB_TRY(const auto loader, data::Loader::create(training, loader_options()));
  BITLAB_RETURN_IF_ERROR(begin());
  if (options_.resume) {
    if (Status status = load_checkpoint(*loader); !status.ok())
      return make_error(status.error().code, "{} (checkpoint={})", status.error().message, options_.checkpoint.string());
  } else if (options_.peers != nullptr) {
    begin_together();
  }
  BITLAB_RETURN_IF_ERROR(begin_events(*loader));
  const auto& epochs = progress_->report.epochs;
  while (static_cast<int64_t>(epochs.size()) < config_.epochs && !is_stalled()) {
    BITLAB_RETURN_IF_ERROR(run_epoch(*loader, validation));
    BITLAB_RETURN_IF_ERROR(end_epoch(validation));
    BITLAB_RETURN_IF_ERROR(events_->epoch(epochs.back()));
    BITLAB_RETURN_IF_ERROR(save_checkpoint(*loader));
    if (options_.on_epoch) options_.on_epoch(epochs.back());
  }
  BITLAB_RETURN_IF_ERROR(learner_.load(progress_->best));
  if (turns_ternary()) learner_.set_blend(1);
  finish();
  BITLAB_RETURN_IF_ERROR(events_->end(progress_->report));
  return progress_->report;
}

// Sinks learn where training stands.
Status BitTrainer::begin_events(const data::Loader& loader) {
  const auto& report = progress_->report;
  const auto [epoch, position] = loader.state();
  return events_->begin(
      {.step = (epoch - 1) * loader.batches() + position,
       .epochs = static_cast<int64_t>(report.epochs.size()),
       .seconds = seconds_so_far(),
       .is_evaluated = !report.evaluations.empty() && report.evaluations.back().step == progress_->updates});
}

void BitTrainer::finish() {
  TrainingReport& report = progress_->report;
  report.best_by = learner_.task().goal().metric;
  report.stopped_early = static_cast<int64_t>(report.epochs.size()) < config_.epochs;
  report.seconds = seconds_so_far();
}

Result<TrainingReport> BitTrainer::fit(const data::DatasetPtr& training, const data::DatasetPtr& validation) try {
  BITLAB_RETURN_IF_ERROR(check_run(validation));
  const Threads threads(config_.threads);
  return run(training, validation);
} catch (const Exception& error) {
  return error.error();
} catch (const c10::Error& error) {
  return make_error(ErrorCode::kInvalidArgument, "[train] a model that takes the data, got '{}'",
                    error.what_without_backtrace());
}

}  // namespace bitlab::train
