// What changes from one step of the optimizer to the next.
#pragma once

#include "bitlab/config/config.h"

namespace bitlab::train {

// How ternary layers are at a step in [0, steps): 0, float, over the first `ternary_delay` of all steps, then linearly to 1 over the next
// `ternary_warmup` of them.
double ternary_share(const TrainingConfig& config, int64_t step, int64_t steps);

// The part of that which the i-th of n layers has. One after another, each layer turns in the n-th part of the warm-up that is its own: with p its place in the
// order, from 0
//
//   clamp(n share - p, 0, 1)
double share_of_layer(config::TernaryOrder order, double share, int64_t layer, int64_t layers);

// The learning rate of a step in [0, steps): rises linearly over the first `warmup` of all steps, then follows the schedule. With t the part of the
// steps after the warm-up that is over, f = final_rate, the learning rate is multiplied by
//
//   cosine      f + (1 - f) (1 + cos(pi t)) / 2
//   linear      f + (1 - f) (1 - t)
//   polynomial  f + (1 - f) (1 - t)^power
//   step        step_factor^n after n times step_epochs epochs
//   two_phase   1 - t, and step_factor of that in the second half of all steps: the drop of BitNet's training notes
//   one_cycle   with the warm-up a cosine from 1/25 to 1, then one down to 1/250,000: PyTorch's OneCycleLR with its defaults, pct_start = warmup
double learning_rate(const TrainingConfig& config, int64_t step, int64_t steps);

// What is left of the weight decay: none in the second half of two_phase, else all.
double decay_share(const TrainingConfig& config, int64_t step, int64_t steps);

}  // namespace bitlab::train
