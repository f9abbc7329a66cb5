// The training loop: shuffled batches, an optimizer, a schedule, the best epoch kept, and checkpoints from which it goes on to the same bits.
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

namespace torch::optim {
class Optimizer;
}

namespace bitlab::train {

class EventStream;
struct ParameterGroup;

struct StepReport {
  int64_t epoch = 0, epochs = 0;  // from 1
  int64_t step = 0, steps = 0;    // batches of the epoch, from 1
  double loss = 0;                // mean of the epoch so far
  double learning_rate = 0;
  double batch_loss = 0;
  int64_t items = 0;  // of the batch
};

struct EpochReport {
  int64_t epoch = 0;            // from 1
  double loss = 0;              // mean over the training items
  std::vector<Metric> metrics;  // on the validation samples; none without
  double seconds = 0;
};

struct TrainingReport {
  std::vector<EpochReport> epochs;
  // Whose state the learner has at the end: the first of the best by the task's goal, the last without validation.
  int64_t best_epoch = 0;
  std::vector<Metric> best;  // its metrics
  std::string best_by;       // the metric that chose it
  double seconds = 0;
};

struct TrainerOptions {
  std::filesystem::path
      best{};  // the best epoch's model so far, written atomically after an epoch; empty: kept in memory alone
  // All that training needs to go on: model, optimizer, step, random numbers, place in the data, best epoch. Written atomically after each epoch,
  // and after every `checkpoint_steps` steps of the config; empty: nowhere.
  std::filesystem::path checkpoint{};
  bool resume = false;                             // go on from `checkpoint`
  std::vector<data::Transform> transforms{};       // of training samples
  std::vector<std::shared_ptr<StepHook>> hooks{};  // before those that the config asks for
  std::function<void(const StepReport&)> on_step{};
  std::function<void(const EpochReport&)> on_epoch{};
  std::vector<std::shared_ptr<Sink>>
      sinks{};        // get every step, epoch and the end as events; on_step and on_epoch come after them
  TraceSink trace{};  // gets events of category "train"
};

class BitTrainer {
 public:
  BitTrainer(Learner& learner, TrainingConfig config, TrainerOptions options = {});
  ~BitTrainer();

  // Trains on `training` and chooses the epoch by the task's goal on `validation`, which may be null or empty. Errors: InvalidArgument (the config,
  // no samples), NotFinite (a loss), IoError (a checkpoint), those of the sinks, the model, the data and resuming: NotFound, Corrupt, UnknownName,
  // ShapeMismatch (the checkpoint of another model).
  Result<TrainingReport> fit(const data::DatasetPtr& training, const data::DatasetPtr& validation = nullptr);

  struct StepResult {
    double loss = 0;
    int64_t items = 0;
    bool updated = false;  // the optimizer stepped
  };
  // One batch, with the learning rate that the optimizer has: what fit() calls again and again, for loops of one's own. `ends_epoch`: gradients
  // that were to wait for more batches are applied. Error: NotFinite; throws what the model throws.
  Result<StepResult> step(nn::NamedTensors batch, bool ends_epoch = false);

 private:
  struct Progress;
  Status check() const;
  void begin();
  Result<TrainingReport> run(const data::DatasetPtr& training, const data::DatasetPtr& validation);
  Status run_epoch(data::Loader& loader);
  Status end_epoch(const data::DatasetPtr& validation);
  Result<StepResult> take_step(data::Loader& loader, nn::NamedTensors batch);
  Status report_step(const data::Loader& loader, const StepResult& result, double rate) const;
  double seconds_so_far() const;
  Status save_checkpoint(const data::Loader& loader);
  Status load_checkpoint(data::Loader& loader);

  Learner& learner_;
  TrainingConfig config_;
  TrainerOptions options_;
  std::vector<std::shared_ptr<StepHook>> hooks_;
  std::vector<NamedParameter> parameters_;
  std::vector<ParameterGroup> groups_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
  std::unique_ptr<Progress> progress_;
  std::unique_ptr<EventStream> events_;
};

}  // namespace bitlab::train
