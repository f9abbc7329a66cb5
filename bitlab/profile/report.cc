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
  std::string text = fmt::format("{}\n{}, {} threads, {}, {} runs\n\n", model, cpu, threads, sizes_text(*this), runs.calls);
  text += fmt::format("run     {} ms median, {} ms least; {} MACs, {} moved\n", format_ms(runs.median_seconds),
                      format_ms(runs.least_seconds), format_count(static_cast<double>(total().macs)),
                      format_bytes(total().bytes));
  text += fmt::format("memory  {} weights, {} values ({:.2f} of the least that any plan takes), {} scratch, {} states\n",
                      format_bytes(memory.weight_bytes), format_bytes(memory.planned_bytes), memory.planned_ratio(),
                      format_bytes(memory.scratch_bytes), format_bytes(memory.state_bytes));
  if (roofs) text += fmt::format("roofs   {}\n", roof_line(*roofs));
  std::vector<std::vector<std::string>> rows{
      {"node", "op", "output", "time", "ms", "calls", "MACs", "bytes", "ops/byte", "Gops/s", "of the roof", "kernels"}};
  for (const StepProfile* step : by_time(*this))
    rows.push_back({step->name, step->ops, step->output, format_share(step->share), format_ms(step->times.median_seconds),
                    std::to_string(step->times.calls), format_count(static_cast<double>(step->cost.macs)),
                    format_bytes(step->cost.bytes), fmt::format("{:.1f}", step->cost.intensity()),
                    fmt::format("{:.1f}", operations_per_s(*step) * 1e-9), roofs ? format_share(step->roof_share) : "",
                    step->kernels});
  return text + "\n" + format_table(rows);
}

std::string Profile::json() const {
  Json named_sizes = Json::object(), list = Json::array();
  for (const auto& [symbol, size] : sizes) named_sizes[symbol] = size;
  for (const StepProfile& step : steps) list.push_back(to_json(step, roofs.has_value()));
  Json json{{"model", model},         {"cpu", cpu},           {"threads", threads},
            {"sizes", named_sizes},   {"run", to_json(runs)}, {"macs", total().macs},
            {"bytes", total().bytes}, {"nodes", list},        {"memory", to_json(memory)}};
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
