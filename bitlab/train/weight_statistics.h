// What becomes of ternary weights while they are trained.
#pragma once

#include <vector>

#include "bitlab/train/learner.h"

namespace bitlab::train {

struct WeightStatistics {
  std::string name;  // of the parameter
  double flips = 0;  // share of the codes that are others than before; 0 where there is no before
  double zeros = 0;  // share of the codes that are 0
  double dead = 0;   // share of the outputs all of whose codes are 0

  // visit(name, share) for each.
  void each(const auto& visit) {
    visit("flips", flips);
    visit("zeros", zeros);
    visit("dead", dead);
  }
};

// `before`: the codes of the last call, by name; it becomes those of now.
std::vector<WeightStatistics> statistics_of(const std::vector<TernaryWeight>& weights, State& before);

}  // namespace bitlab::train
