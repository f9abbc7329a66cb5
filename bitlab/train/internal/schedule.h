// What changes from one step of the optimizer to the next.
#pragma once

#include "bitlab/config/config.h"

namespace bitlab::train {

// How ternary layers are at a step in [0, steps): from 0, float, to 1 linearly over the first `ternary_warmup` of all steps.
double ternary_share(const TrainingConfig& config, int64_t step, int64_t steps);

// The learning rate of a step in [0, steps): rises linearly over the first `warmup` of all steps, then follows the schedule.
double learning_rate(const TrainingConfig& config, int64_t step, int64_t steps);

}  // namespace bitlab::train
