#include "bitlab/profile/profiler.h"

#include <algorithm>
#include <unordered_map>

namespace bitlab::profile {

Times times_of(std::vector<double> seconds) {
  if (seconds.empty()) return {};
  std::sort(seconds.begin(), seconds.end());
  Times times{.calls = static_cast<int64_t>(seconds.size()),
              .median_seconds = seconds[seconds.size() / 2],
              .least_seconds = seconds.front()};
  for (const double s : seconds) times.seconds += s;
  return times;
}

namespace {

// The sizes of the last run: a plan says of the context what the states have room for.
program::SymbolSizes sizes_of(const runtime::Session& session) {
  program::SymbolSizes sizes = session.plan()->sizes;
  if (const auto context = program::context_symbol(session.model().program())) sizes[*context] = session.position();
  return sizes;
}

StepProfile profile_step(const runtime::Model& model, const runtime::Plan& plan, const runtime::PlannedStep& step,
                         const program::SymbolSizes& sizes) {
  StepProfile result{.name = step.name(), .ops = step.ops(), .kernels = step.step.kernels};
  for (const program::Node* node : step.nodes) result.nodes.push_back(node->name);
  for (const program::ValueId id : step.outputs)
    result.output +=
        (result.output.empty() ? "" : " ") + program::to_string(shape_at(model.program().value(id).shape, sizes));
  result.cost = cost(model, plan, step, sizes);
  return result;
}

using Durations = std::unordered_map<std::string_view, std::vector<double>>;  // by name, in seconds

Durations durations_of(const std::vector<Event>& events, std::string_view category) {
  Durations durations;
  for (const Event& event : events)
    if (event.category == category) durations[event.name].push_back(event.seconds());
  return durations;
}

}  // namespace

TraceSink BitProfiler::sink() {
  return [this](const TraceEvent& event) {
    events_.push_back({std::string(event.category), std::string(event.name), event.begin_ns, event.end_ns});
  };
}

Times BitProfiler::times(std::string_view category, std::string_view name) const {
  std::vector<double> seconds;
  for (const Event& event : events_)
    if (event.name == name && event.category == category) seconds.push_back(event.seconds());
  return times_of(std::move(seconds));
}

StepCost Profile::total() const {
  StepCost total;
  for (const StepProfile& step : steps) {
    total.macs += step.cost.macs;
    total.bytes += step.cost.bytes;
  }
  return total;
}

void Profile::set_roofs(const Roofs& measured) {
  for (StepProfile& step : steps)
    step.roof_share = step.times.median_seconds > 0 ? measured.seconds(step.cost) / step.times.median_seconds : 0;
  roofs = measured;
}

Result<Profile> profile(const BitProfiler& profiler, const runtime::Session& session) {
  if (session.plan() == nullptr)
    return make_error(ErrorCode::kInvalidArgument, "[profile] a session that has run, got one that has not");
  const runtime::Model& model = session.model();
  const program::SymbolSizes sizes = sizes_of(session);
  Profile result{.model = "",
                 .cpu = this_machine().cpu,
                 .device = session.device(),
                 .threads = session.threads(),
                 .memory = MemoryTracker(session)};
  const program::Symbols& symbols = model.program().symbols;
  for (size_t i = 0; i < symbols.size(); ++i) result.sizes.emplace_back(symbols[i].name, sizes[i]);
  result.runs = profiler.times("run", "run");
  result.events = profiler.events();
  Durations durations = durations_of(result.events, "step");
  double total = 0;
  for (const runtime::PlannedStep& step : session.plan()->steps) {
    StepProfile& added = result.steps.emplace_back(profile_step(model, *session.plan(), step, sizes));
    added.times = times_of(std::move(durations[added.name]));
    total += added.times.seconds;
  }
  for (StepProfile& step : result.steps) step.share = total > 0 ? step.times.seconds / total : 0;
  return result;
}

namespace {

template <class View>
Result<Profile> profile_runs(const std::shared_ptr<const runtime::Model>& model, std::span<const View> inputs,
                             const ProfileOptions& options) {
  if (options.runs < 1 || options.warmup < 0)
    return make_error(ErrorCode::kInvalidArgument, "[profile] one run and more after none and more, got {} after {}",
                      options.runs, options.warmup);
  BitProfiler profiler;
  BITLAB_TRY(
      const auto session,
      runtime::Session::create(model, {.threads = options.threads, .trace = profiler.sink(), .device = options.device}));
  for (int64_t i = 0; i < options.warmup + options.runs; ++i) {
    if (i == options.warmup) profiler.clear();
    session->reset();
    BITLAB_RETURN_IF_ERROR(session->run(inputs));
  }
  BITLAB_TRY(Profile result, profile(profiler, *session));
  if (options.roofs && session->device() == "cpu") {
    BITLAB_TRY(const Roofs roofs, measure_roofs(session->threads()));
    result.set_roofs(roofs);
  }
  return result;
}

}  // namespace

Result<Profile> profile(const std::shared_ptr<const runtime::Model>& model, std::span<const runtime::TensorView> inputs,
                        const ProfileOptions& options) {
  return profile_runs(model, inputs, options);
}

Result<Profile> profile(const std::shared_ptr<const runtime::Model>& model, std::span<const runtime::NamedView> inputs,
                        const ProfileOptions& options) {
  return profile_runs(model, inputs, options);
}

}  // namespace bitlab::profile
