// What a session's memory holds, step by step.
#pragma once

#include <string>
#include <vector>

#include "bitlab/runtime/session.h"

namespace bitlab::profile {

// A value in the block of memory that a plan shares among all that do not live at the same time.
struct PlacedValue {
  std::string name;
  int64_t bytes = 0, offset = 0;
  int64_t first = 0, last = 0;  // steps, as in runtime::Lifetime
};

struct StepMemory {
  std::string step;
  int64_t live_bytes = 0;     // of values
  int64_t scratch_bytes = 0;  // of the step's kernel
};

// Of a training step: weight_bytes, arena_bytes (the most that lived at once), steps (by layer, forward and back) and the process alone.
struct MemoryTracker {
  MemoryTracker();
  MemoryTracker(const runtime::Model& model, const runtime::Plan& plan, int64_t state_bytes = 0);
  // Of its last run, which there must have been.
  explicit MemoryTracker(const runtime::Session& session)
      : MemoryTracker(session.model(), *session.plan(), session.state_bytes()) {}

  int64_t weight_bytes = 0, state_bytes = 0;
  int64_t all_value_bytes = 0;     // as if no two shared memory
  int64_t planned_bytes = 0;       // of values as they are placed
  int64_t lower_bound_bytes = 0;   // the largest sum of values that live at the same time: no placement takes less
  int64_t scratch_bytes = 0;       // of the step that needs most
  int64_t arena_bytes = 0;         // planned_bytes + scratch_bytes
  int64_t process_peak_bytes = 0;  // the most that the process has had in memory so far
  std::vector<StepMemory> steps;
  std::vector<PlacedValue> values;  // in the order of the program

  double planned_ratio() const;  // planned_bytes / lower_bound_bytes; 1 where nothing is placed

  std::string table() const;
};

}  // namespace bitlab::profile
