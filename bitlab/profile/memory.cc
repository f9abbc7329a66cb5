#include "bitlab/profile/memory.h"

#include <algorithm>
#include <sys/resource.h>

#include "bitlab/base/text.h"

namespace bitlab::profile {
namespace {

int64_t process_peak() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace

MemoryTracker::MemoryTracker() : process_peak_bytes(process_peak()) {}

MemoryTracker::MemoryTracker(const runtime::Model& model, const runtime::Plan& plan, int64_t states)
    : weight_bytes(model.weight_bytes()),
      state_bytes(states),
      planned_bytes(plan.scratch_offset),
      scratch_bytes(plan.arena_bytes - plan.scratch_offset),
      arena_bytes(plan.arena_bytes),
      process_peak_bytes(process_peak()) {
  const program::Program& p = model.program();
  for (size_t i = 0; i < p.values.size(); ++i) {
    if (plan.offsets[i] < 0 || plan.is_part(static_cast<program::ValueId>(i))) continue;
    const int64_t bytes = plan.bytes_of(p, static_cast<program::ValueId>(i));
    values.push_back({p.values[i].name, bytes, plan.offsets[i], plan.lives[i].first, plan.lives[i].last});
    all_value_bytes += bytes;
  }
  const std::vector<int64_t> live = runtime::live_bytes(p, plan);
  lower_bound_bytes = *std::max_element(live.begin(), live.end());
  for (size_t i = 0; i < plan.steps.size(); ++i)
    steps.push_back({plan.steps[i].name(), live[i + 1], plan.steps[i].step.scratch_bytes});
}

double MemoryTracker::planned_ratio() const {
  return lower_bound_bytes == 0 ? 1 : static_cast<double>(planned_bytes) / static_cast<double>(lower_bound_bytes);
}

std::string MemoryTracker::table() const {
  std::vector<std::vector<std::string>> rows{{"step", "values alive", "scratch"}};
  for (const StepMemory& step : steps)
    rows.push_back({step.step, format_bytes(step.live_bytes), format_bytes(step.scratch_bytes)});
  return format_table(rows);
}

}  // namespace bitlab::profile
