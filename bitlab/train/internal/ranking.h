// What follows from the evaluations of a run so far.
#pragma once

#include <vector>

#include "bitlab/train/trainer.h"

namespace bitlab::train {

// The indices of evaluations, the best by the goal's metric first; of equals the earlier.
std::vector<size_t> ranking(const std::vector<EvaluationReport>& evaluations, const Goal& goal);

// Whether none of the last `patience` evaluations is better, by more than `min_delta`, than the best before it that was. As EarlyStopping of Keras and
// Lightning counts. patience 0: never.
bool is_stalled(const std::vector<EvaluationReport>& evaluations, const Goal& goal, int64_t patience, double min_delta);

}  // namespace bitlab::train
