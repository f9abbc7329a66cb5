// The training loop: shuffled batches, an optimizer, a schedule, the best model kept, and checkpoints from which it goes on to the same bits.
//
//   train::Classifier learner(*model);
//   train::BitTrainer trainer(learner, {.epochs = 5});
//   auto report = trainer.fit(training, validation);
//
// Deterministic for a seed, a number of threads and a machine. The parts of a step are open to hooks (hooks.h).
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "bitlab/base/trace.h"
#include "bitlab/config/config.h"
#include "bitlab/data/loader.h"
#include "bitlab/train/evaluate.h"
#include "bitlab/train/hooks.h"
#include "bitlab/train/sink.h"
#include "bitlab/train/weight_statistics.h"

namespace torch::optim {
class Optimizer;
}

namespace bitlab::train {

class EventStream;
class PhaseClock;
struct ParameterGroup;

struct StepReport {
  int64_t epoch = 0, epochs = 0;  // from 1
  int64_t step = 0, steps = 0;    // batches of the epoch, from 1
  double loss = 0;                // mean of the epoch so far
  double learning_rate = 0;
  double batch_loss = 0;
  int64_t items = 0;      // of the batch
  bool skipped = false;   // gradients were not finite at the scale of the loss
  double loss_scale = 0;  // of the next step, where the loss is scaled (precision: float16); else 0
};

// On the validation samples.
struct EvaluationReport {
  int64_t epoch = 0;  // in which it was, from 1
  int64_t step = 0;   // steps of the optimizer before it
  std::vector<Metric> metrics{};
  std::vector<WeightStatistics> weights{};  // of linear layers and convolutions; before: at the last evaluation
};

// Where the seconds of an epoch went; checkpoints and callbacks have the rest. On a GPU they are the device's, which works while the host goes on: `data` is
// what it waited.
struct PhaseSeconds {
  double data = 0;     // waiting for batches
  double forward = 0;  // with the loss
  double backward = 0;
  double update = 0;  // the optimizer's steps
  double evaluation = 0;

  // visit(name, seconds) for each.
  void each(const auto& visit) {
    visit("data", data);
    visit("forward", forward);
    visit("backward", backward);
    visit("update", update);
    visit("evaluation", evaluation);
  }
};

struct EpochReport {
  int64_t epoch = 0;              // from 1
  double loss = 0;                // mean over the training items
  std::vector<Metric> metrics{};  // of its last evaluation; none without
  double seconds = 0;
  PhaseSeconds phases{};
};

struct TrainingReport {
  std::vector<EpochReport> epochs;
  std::vector<EvaluationReport> evaluations;
  // Whose state the learner has at the end: that of the first of the best evaluations by the task's goal, the last without validation.
  int64_t best_epoch = 0;
  int64_t best_step = 0;       // steps of the optimizer before it
  std::vector<Metric> best;    // its metrics
  std::string best_by;         // the metric that chose it
  bool stopped_early = false;  // by `patience`
  double seconds = 0;
};

struct TrainerOptions {
  // The best model so far, written atomically after an evaluation; empty: kept in memory alone. With `keep_best` of the config above 1 it is the
  // newest name of one of several, as "best-000120.ckpt" of step 120 beside "best.ckpt".
  std::filesystem::path best{};
  // All that training needs to go on: model, optimizer, step, random numbers, place in the data, best model. Written atomically after each epoch,
  // and after every `checkpoint_steps` steps of the config; empty: nowhere. `keep_last`: as `keep_best`.
  std::filesystem::path checkpoint{};
  bool resume = false;                               // go on from `checkpoint`
  std::vector<data::Transform> transforms{};         // of training samples
  std::vector<std::shared_ptr<StepHook>> hooks{};    // before those that the config asks for
  nn::Forward teacher{};                             // in eval, for `distillation` of the config
  std::vector<NamedParameter> teacher_parameters{};  // for `feature_distillation` and `relation_distillation`, too
  // The processes that train together; null: this one alone. Files are written, and sinks told, by process 0; the callbacks are called in each.
  std::shared_ptr<Peers> peers{};
  // Asked after each step of the optimizer, on the thread that trains; true: a checkpoint is written, and training ends with the error Cancelled.
  std::function<bool()> stop{};
  // In this order: after each batch; after an evaluation, before the checkpoint; after an epoch and its checkpoint.
  std::function<void(const StepReport&)> on_step{};
  std::function<void(const EvaluationReport&)> on_evaluation{};
  std::function<void(const EpochReport&)> on_epoch{};
  std::vector<std::shared_ptr<Sink>>
      sinks{};        // get every step, evaluation, epoch and the end as events, before the callbacks
  TraceSink trace{};  // gets events of category "train"
};

// Whether a config can be trained with. Error: InvalidArgument.
Status check(TrainingConfig config);

class BitTrainer {
 public:
  BitTrainer(Learner& learner, TrainingConfig config, TrainerOptions options = {});
  ~BitTrainer();

  // Trains on `training` and chooses the model by the task's goal on `validation`, which may be null or empty. Errors: InvalidArgument (the config,
  // no samples, no validation where the config needs it), NotFinite (a loss: where it begins, and the indices of the batch), NotFound and IoError (a
  // folder, a checkpoint: the last one that was whole stays; another process that is gone), Cancelled, those of the sinks, the model, the data and resuming: Corrupt, UnknownName, ShapeMismatch
  // (the checkpoint of another model).
  Result<TrainingReport> fit(const data::DatasetPtr& training, const data::DatasetPtr& validation = nullptr);

  struct StepResult {
    double loss = 0;
    int64_t items = 0;
    bool updated = false;   // the optimizer stepped, or skipped its step
    bool skipped = false;   // as StepReport::skipped
    double loss_scale = 0;  // as StepReport::loss_scale
  };
  // One batch, with the learning rate that the optimizer has: what fit() calls again and again, for loops of one's own. `ends_epoch`: gradients
  // that were to wait for more batches are applied. Error: NotFinite; throws what the model throws.
  Result<StepResult> step(nn::NamedTensors batch, bool ends_epoch = false);

 private:
  struct Progress;
  Status check_run(const data::DatasetPtr& validation) const;
  void add_hooks();
  Status begin();
  void begin_together();
  void take_from_first(bool parameters);
  void count_together(double& loss, StepContext& step) const;
  bool is_stopped() const;
  bool is_writer() const { return rank_of(options_.peers) == 0; }
  Result<double> forward(StepContext& step);
  nn::NamedTensors watched_forward(const nn::NamedTensors& batch);
  Result<TrainingReport> run(const data::DatasetPtr& training, const data::DatasetPtr& validation);
  void finish();
  Status begin_events(const data::Loader& loader);
  Status run_epoch(data::Loader& loader, const data::DatasetPtr& validation);
  Status end_epoch(const data::DatasetPtr& validation);
  Status end_update(const data::Loader& loader, const data::DatasetPtr& validation);
  Status judge(const data::DatasetPtr& validation);
  Status renew_statistics();
  Status keep_if_best(bool is_evaluated);
  bool is_stalled() const;
  Result<StepResult> take_step(data::Loader& loader, nn::NamedTensors batch);
  data::LoaderOptions loader_options() const;
  bool learns_from_teacher() const {
    return config_.distillation > 0 || config_.feature_distillation > 0 || config_.relation_distillation > 0;
  }
  bool turns_ternary() const { return config_.ternary_delay > 0 || config_.ternary_warmup > 0; }
  std::vector<int64_t> batch_of(const data::Loader& loader) const;
  Status report_step(const data::Loader& loader, const StepResult& result, double rate) const;
  double seconds_so_far() const;
  Status save_checkpoint(const data::Loader& loader);
  void remove_old_checkpoints();
  Status load_checkpoint(data::Loader& loader);

  Learner& learner_;
  Criterion criterion_;
  TrainingConfig config_;
  TrainerOptions options_;
  std::vector<std::shared_ptr<StepHook>> hooks_;
  std::vector<NamedParameter> parameters_;
  std::vector<ParameterGroup> groups_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  std::unique_ptr<Progress> progress_;
  std::unique_ptr<PhaseClock> clock_;
  std::unique_ptr<EventStream> events_;
  data::DatasetPtr training_;  // in fit()
};

}  // namespace bitlab::train
