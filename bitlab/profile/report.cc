// A profile as a table, as JSON and as a Chrome trace.
#include "bitlab/profile/internal/report.h"

#include <algorithm>
#include <array>
#include <unordered_map>

#include "bitlab/base/internal/json.h"
#include "bitlab/base/text.h"

namespace bitlab::profile {

std::string sizes_text(const Profile& profile) {
  std::string text;
  for (const auto& [name, size] : profile.sizes) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, size);
  return text;
}

std::string format_count(double count) {
  constexpr std::array<const char*, 6> kUnits{"", " k", " M", " G", " T", " P"};
  size_t unit = 0;
  for (; count >= 1000 && unit + 1 < kUnits.size(); ++unit) count /= 1000;
  return fmt::format("{:.{}f}{}", count, unit == 0 ? 0 : 1, kUnits[unit]);
}

std::string format_ms(double seconds) { return fmt::format("{:.4f}", 1e3 * seconds); }
std::string format_share(double share) { return fmt::format("{:.1f} %", 100 * share); }

double operations_per_s(const StepProfile& step) {
  return step.times.median_seconds > 0 ? 2 * static_cast<double>(step.cost.macs) / step.times.median_seconds : 0;
}

double bytes_per_s(const StepProfile& step) {
  return step.times.median_seconds > 0 ? static_cast<double>(step.cost.bytes) / step.times.median_seconds : 0;
}

namespace {

Cell milliseconds(std::string_view heading, double seconds) { return {heading, format_ms(seconds), seconds}; }
Cell count(std::string_view heading, int64_t number) {
  return {heading, format_count(static_cast<double>(number)), static_cast<double>(number)};
}
Cell bytes(std::string_view heading, int64_t number) { return {heading, format_bytes(number), static_cast<double>(number)}; }
Cell rate(std::string_view heading, double number, double unit = 1) {
  return {heading, fmt::format("{:.1f}", number * unit), number};
}

}  // namespace

std::vector<Cell> cells_of(const Profile& profile, const StepProfile& step) {
  std::vector<Cell> cells{{profile.is_training() ? "layer" : "node", step.name},
                          {"op", step.ops},
                          {"output", step.output},
                          {kShareHeading, format_share(step.share), step.share},
                          milliseconds("ms", step.times.median_seconds)};
  const auto add = [&](std::vector<Cell> more) {
    for (Cell& cell : more) cells.push_back(std::move(cell));
  };
  if (step.training) {
    const TrainingCost& t = *step.training;
    add({milliseconds("forward", t.forward.median_seconds), milliseconds("backward", t.backward.median_seconds),
         count("calls", t.calls), count("MACs", step.cost.macs), bytes("parameters", t.parameter_bytes),
         bytes("gradients", t.gradient_bytes), bytes("optimizer", t.optimizer_bytes),
         bytes("activations", t.activation_bytes)});
    return cells;
  }
  add({count("calls", step.times.calls), count("MACs", step.cost.macs), bytes("bytes", step.cost.bytes),
       rate("ops/byte", step.cost.intensity()), rate("Gops/s", operations_per_s(step), 1e-9),
       rate("GB/s", bytes_per_s(step), 1e-9)});
  if (profile.roofs) add({{"of the roof", format_share(step.roof_share), step.roof_share}});
  add({{"kernels", step.kernels}});
  return cells;
}

namespace {

int64_t sum(const Profile& profile, int64_t TrainingCost::*bytes) {
  int64_t total = 0;
  for (const StepProfile& step : profile.steps) total += step.training ? (*step.training).*bytes : 0;
  return total;
}

std::vector<Fact> training_facts(const Profile& p) {
  std::vector<Fact> facts{{fmt::format("a step, median of {}", p.runs.calls), format_ms(p.runs.median_seconds) + " ms"}};
  for (const PhaseProfile& phase : p.phases)
    facts.push_back(
        {phase.name, fmt::format("{} ms, {}", format_ms(phase.times.median_seconds), format_share(phase.share))});
  facts.push_back({"multiply-accumulates forward", format_count(static_cast<double>(p.total().macs))});
  for (const auto& [name, bytes] :
       {std::pair("parameters", &TrainingCost::parameter_bytes), std::pair("gradients", &TrainingCost::gradient_bytes),
        std::pair("optimizer's state", &TrainingCost::optimizer_bytes),
        std::pair("activations", &TrainingCost::activation_bytes)})
    facts.push_back({name, format_bytes(sum(p, bytes))});
  facts.push_back({"peak of a step", format_bytes(p.memory.arena_bytes)});
  return facts;
}

std::vector<Fact> run_facts(const Profile& p) {
  const MemoryTracker& m = p.memory;
  std::vector<Fact> facts{
      {fmt::format("a run, median of {}", p.runs.calls),
       fmt::format("{} ms, {} ms least", format_ms(p.runs.median_seconds), format_ms(p.runs.least_seconds))},
      {"multiply-accumulates", format_count(static_cast<double>(p.total().macs))},
      {"moved", format_bytes(p.total().bytes)},
      {"weights", format_bytes(m.weight_bytes)},
      {"values",
       fmt::format("{}, {:.2f} of the least that any plan takes", format_bytes(m.planned_bytes), m.planned_ratio())},
      {"scratch", format_bytes(m.scratch_bytes)}};
  if (m.state_bytes != 0) facts.push_back({"states", format_bytes(m.state_bytes)});
  return facts;
}

}  // namespace

std::vector<Fact> facts_of(const Profile& p) {
  std::vector<Fact> facts = p.is_training() ? training_facts(p) : run_facts(p);
  if (p.device != "cpu")
    facts.insert(facts.begin(),
                 {"device", fmt::format("{}, the host waits behind each {}", p.device, p.is_training() ? "layer" : "step")});
  return facts;
}

std::vector<const StepProfile*> by_time(const Profile& profile) {
  std::vector<const StepProfile*> steps;
  for (const StepProfile& step : profile.steps) steps.push_back(&step);
  std::stable_sort(steps.begin(), steps.end(), [](const auto* a, const auto* b) { return a->share > b->share; });
  return steps;
}

namespace {

Json to_json(const Times& times) {
  const double mean = times.calls == 0 ? 0 : times.seconds / static_cast<double>(times.calls);
  return {{"calls", times.calls},
          {"mean_ms", 1e3 * mean},
          {"median_ms", 1e3 * times.median_seconds},
          {"least_ms", 1e3 * times.least_seconds}};
}

Json to_json(const StepProfile& step, bool has_roofs) {
  Json json{{"node", step.name},       {"nodes", step.nodes},   {"op", step.ops},
            {"kernels", step.kernels}, {"output", step.output}, {"share", step.share}};
  json.update(to_json(step.times));
  json.update({{"macs", step.cost.macs},
               {"arithmetic", name(step.cost.arithmetic)},
               {"bytes", step.cost.bytes},
               {"operations_a_byte", step.cost.intensity()},
               {"giga_operations_per_s", operations_per_s(step) * 1e-9},
               {"gigabytes_per_s", bytes_per_s(step) * 1e-9}});
  if (has_roofs) json["roof_share"] = step.roof_share;
  return json;
}

Json training_json(const StepProfile& step) {
  const TrainingCost& t = *step.training;
  return {{"layer", step.name},
          {"op", step.ops},
          {"output", step.output},
          {"share", step.share},
          {"calls", t.calls},
          {"forward", to_json(t.forward)},
          {"backward", to_json(t.backward)},
          {"macs", step.cost.macs},
          {"parameter_bytes", t.parameter_bytes},
          {"gradient_bytes", t.gradient_bytes},
          {"optimizer_bytes", t.optimizer_bytes},
          {"activation_bytes", t.activation_bytes}};
}

// What lives behind each layer, forward and back.
Json training_json(const MemoryTracker& memory) {
  Json steps = Json::array();
  for (const StepMemory& step : memory.steps) steps.push_back({{"layer", step.step}, {"live_bytes", step.live_bytes}});
  return {{"parameter_bytes", memory.weight_bytes},
          {"peak_bytes", memory.arena_bytes},
          {"process_peak_bytes", memory.process_peak_bytes},
          {"steps", steps}};
}

// Rates in multiply-accumulates and bytes a second, in 10^9.
Json to_json(const Roofs& roofs) {
  Json memory = Json::array();
  for (const MemoryRoof& level : roofs.memory)
    memory.push_back({{"level", level.level}, {"gigabytes_per_s", level.bytes_per_s * 1e-9}});
  return {{"threads", roofs.threads},
          {"int8_giga_macs_per_s", roofs.int8_macs_per_s * 1e-9},
          {"float32_giga_macs_per_s", roofs.float32_macs_per_s * 1e-9},
          {"memory", memory}};
}

Json to_json(const MemoryTracker& memory) {
  Json steps = Json::array(), values = Json::array();
  for (const StepMemory& step : memory.steps)
    steps.push_back({{"node", step.step}, {"live_bytes", step.live_bytes}, {"scratch_bytes", step.scratch_bytes}});
  for (const PlacedValue& value : memory.values)
    values.push_back({{"value", value.name},
                      {"bytes", value.bytes},
                      {"offset", value.offset},
                      {"first_step", value.first},
                      {"last_step", value.last}});
  return {{"weight_bytes", memory.weight_bytes},
          {"state_bytes", memory.state_bytes},
          {"arena_bytes", memory.arena_bytes},
          {"all_value_bytes", memory.all_value_bytes},
          {"planned_bytes", memory.planned_bytes},
          {"lower_bound_bytes", memory.lower_bound_bytes},
          {"planned_ratio", memory.planned_ratio()},
          {"scratch_bytes", memory.scratch_bytes},
          {"process_peak_bytes", memory.process_peak_bytes},
          {"steps", steps},
          {"values", values}};
}

// Times are in microseconds from the first event on.
Json trace_event(const Event& event, int64_t origin_ns) {
  const auto us = [](int64_t ns) { return static_cast<double>(ns) * 1e-3; };
  return {{"name", event.name},
          {"cat", event.category},
          {"ph", "X"},
          {"ts", us(event.begin_ns - origin_ns)},
          {"pid", 1},
          {"tid", 1},
          {"dur", us(event.end_ns - event.begin_ns)}};
}

int64_t origin_of(const std::vector<Event>& events) {
  int64_t origin = events.empty() ? 0 : events.front().begin_ns;
  for (const Event& event : events) origin = std::min(origin, event.begin_ns);
  return origin;
}

std::string trace_text(Json events) {
  return json_text({{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}, 1) + "\n";
}

std::string roof_line(const Roofs& roofs) {
  std::string text = fmt::format("int8 {} MAC/s, float32 {} MAC/s", format_count(roofs.int8_macs_per_s),
                                 format_count(roofs.float32_macs_per_s));
  for (const MemoryRoof& level : roofs.memory)
    text += fmt::format(", {} {}B/s", level.level, format_count(level.bytes_per_s));
  return text;
}

}  // namespace

std::string Profile::table() const {
  std::string text = fmt::format("{}\n{}, {} threads, {}\n\n", model, cpu, threads, sizes_text(*this));
  std::vector<std::vector<std::string>> rows(1);
  for (const Fact& fact : facts_of(*this)) text += fmt::format("{:<30} {}\n", fact.name, fact.text);
  if (roofs) text += fmt::format("{:<30} {}\n", "roofs", roof_line(*roofs));
  for (const Cell& cell : cells_of(*this, steps.empty() ? StepProfile{} : steps[0])) rows[0].emplace_back(cell.heading);
  for (const StepProfile* step : by_time(*this)) {
    rows.emplace_back();
    for (Cell& cell : cells_of(*this, *step)) rows.back().push_back(std::move(cell.text));
  }
  return text + "\n" + format_table(rows);
}

std::string Profile::json() const {
  Json named_sizes = Json::object(), list = Json::array();
  for (const auto& [symbol, size] : sizes) named_sizes[symbol] = size;
  Json json{{"model", model},     {"cpu", cpu},           {"device", device},
            {"threads", threads}, {"sizes", named_sizes}, {"macs", total().macs}};
  if (is_training()) {
    for (const StepProfile& step : steps) list.push_back(training_json(step));
    Json parts = Json::object();
    for (const PhaseProfile& phase : phases) {
      parts[phase.name] = to_json(phase.times);
      parts[phase.name]["share"] = phase.share;
    }
    json.update({{"step", to_json(runs)}, {"phases", parts}, {"layers", list}, {"memory", training_json(memory)}});
    return json_text(json, 2);
  }
  for (const StepProfile& step : steps) list.push_back(to_json(step, roofs.has_value()));
  json.update({{"run", to_json(runs)}, {"bytes", total().bytes}, {"nodes", list}, {"memory", to_json(memory)}});
  if (roofs) json["roofs"] = to_json(*roofs);
  return json_text(json, 2);
}

std::string chrome_trace(const std::vector<Event>& events) {
  Json list = Json::array();
  const int64_t origin = origin_of(events);
  for (const Event& event : events) list.push_back(trace_event(event, origin));
  return trace_text(std::move(list));
}

std::string Profile::chrome_trace() const {
  std::unordered_map<std::string_view, size_t> step_of;
  for (size_t i = 0; i < steps.size(); ++i) step_of[steps[i].name] = i;
  Json list = Json::array();
  list.push_back({{"name", "process_name"}, {"ph", "M"}, {"pid", 1}, {"tid", 1}, {"args", {{"name", model}}}});
  const int64_t origin = origin_of(events);
  for (const Event& event : events) {
    Json entry = trace_event(event, origin);
    if (const auto step = step_of.find(event.name); event.category == "step" && step != step_of.end()) {
      const StepProfile& facts = steps[step->second];
      const StepMemory& moment = memory.steps[step->second];
      entry["args"] = {
          {"op", facts.ops}, {"kernels", facts.kernels}, {"macs", facts.cost.macs}, {"bytes", facts.cost.bytes}};
      list.push_back({{"name", "memory"},
                      {"ph", "C"},
                      {"ts", entry["ts"]},
                      {"pid", 1},
                      {"args", {{"values", moment.live_bytes}, {"scratch", moment.scratch_bytes}}}});
    }
    list.push_back(std::move(entry));
  }
  return trace_text(std::move(list));
}

}  // namespace bitlab::profile
