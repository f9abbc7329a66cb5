// How far a training run is, as a state of tensors: what a checkpoint holds besides the model and the optimizer.
#pragma once

#include "bitlab/data/loader.h"
#include "bitlab/train/trainer.h"

namespace bitlab::train {

struct BitTrainer::Progress {
  int64_t updates = 0;  // steps of the optimizer
  int64_t steps = 0;    // batches
  double loss_sum = 0;  // over the items of the epoch so far
  int64_t items = 0;    // of the epoch so far
  double seconds = 0;   // of the epoch so far
  PhaseSeconds phases{};
  State best{};                  // the model of report.best_step
  State codes{};                 // of ternary weights at the last evaluation
  std::vector<int64_t> saved{};  // the steps of the checkpoints that are kept, where these are several
  TrainingReport report{};

  // Names begin with "progress.", "history.", "evaluations.", "weights.", "codes.", "best.". The metrics of epochs and of the best follow from the evaluations.
  State state() const;
  // Errors: Corrupt (a name is missing, a shape is another).
  Status load(const State& state);
};

// The entries whose names begin with `prefix`, without it; and the reverse.
State part_of(const State& state, std::string_view prefix);
void add_part(State& state, std::string_view prefix, const State& part);

}  // namespace bitlab::train
