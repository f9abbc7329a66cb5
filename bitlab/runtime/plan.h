// What a session does for one batch size: steps in order, and where each value lies in one block of memory. Values whose lifetimes
// do not meet share bytes.
#pragma once

#include <vector>

#include "bitlab/runtime/step.h"

namespace bitlab::runtime {

struct PlannedStep {
  Step step;
  const program::Node* node;
};

struct Plan {
  int64_t batch = -1;  // -1: there is no plan
  Layouts layouts;
  std::vector<PlannedStep> steps;
  std::vector<int64_t> offsets;  // by value, in bytes; -1 for constants
  int64_t arena_bytes = 0;       // values, then the scratch of the largest step
  int64_t scratch_offset = 0;
};

// Errors: NoKernel, Unsupported (more memory than can be addressed).
Result<Plan> make_plan(const Model& model, int64_t batch, int threads);

}  // namespace bitlab::runtime
