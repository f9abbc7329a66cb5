// The training loop: shuffled batches, an optimizer, a schedule, the best epoch kept.
//
//   train::Classifier learner(*model);
//   train::BitTrainer trainer(learner, {.epochs = 5});
//   auto report = trainer.fit(training, validation);
//
// Deterministic for a seed, a number of threads and a machine.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "bitlab/base/trace.h"
#include "bitlab/config/config.h"
#include "bitlab/data/dataset.h"
#include "bitlab/train/learner.h"

namespace torch::optim {
class Optimizer;
}

namespace bitlab::train {

// How ternary layers are at a step in [0, steps): from 0, float, to 1 linearly over the first `ternary_warmup` of all steps.
double ternary_share(const TrainingConfig& config, int64_t step, int64_t steps);

// The learning rate of a step in [0, steps): rises linearly over the first `warmup` of all steps, then follows the schedule.
double learning_rate(const TrainingConfig& config, int64_t step, int64_t steps);

struct StepReport {
  int64_t epoch = 0, epochs = 0;  // from 1
  int64_t step = 0, steps = 0;    // of the epoch, from 1
  double loss = 0;                // mean of the epoch so far
  double learning_rate = 0;
};

struct EpochReport {
  int64_t epoch = 0;    // from 1
  double loss = 0;      // mean over the training samples
  double accuracy = 0;  // on the validation samples; 0 without
  double seconds = 0;
};

struct TrainingReport {
  std::vector<EpochReport> epochs;
  int64_t best_epoch =
      0;  // whose state the learner has at the end: the first of the highest accuracy, the last without validation
  double best_accuracy = 0;
  double seconds = 0;
};

struct TrainerOptions {
  std::filesystem::path checkpoint;  // the best state so far, written atomically after an epoch; empty: kept in memory only
  std::function<void(const StepReport&)> on_step;
  std::function<void(const EpochReport&)> on_epoch;
  TraceSink trace;  // gets events of category "train"
};

class BitTrainer {
 public:
  BitTrainer(Learner& learner, TrainingConfig config, TrainerOptions options = {});
  ~BitTrainer();

  // Trains on `training` and chooses the epoch by the accuracy on `validation`, which may be empty.
  // Errors: InvalidArgument (the config, no samples), NotFinite (a loss), IoError (the checkpoint), those of the model.
  Result<TrainingReport> fit(const data::ImageDataset& training, const data::ImageDataset& validation);

 private:
  Status check(const data::ImageDataset& training) const;
  Result<double> run_epoch(const data::ImageDataset& training, int64_t epoch);

  Learner& learner_;
  TrainingConfig config_;
  TrainerOptions options_;
  std::unique_ptr<torch::optim::Optimizer> optimizer_;
};

}  // namespace bitlab::train
