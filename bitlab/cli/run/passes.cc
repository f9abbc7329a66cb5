#include "bitlab/cli/run/passes.h"

#include <algorithm>
#include <map>

#include "bitlab/base/internal/json.h"
#include "bitlab/base/text.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/profile/memory.h"

namespace bitlab::cli {
namespace {

using program::Program;

int64_t count_of(size_t size) { return static_cast<int64_t>(size); }

// "3 x a, 1 x b", in the order of their names.
std::string listed(const std::map<std::string, int64_t>& counts) {
  std::string text;
  for (const auto& [name, count] : counts) text += fmt::format("{}{} x {}", text.empty() ? "" : ", ", count, name);
  return text;
}

// What deploy::save() wrote into the file.
void add_deployment(const Program& p, std::vector<PassFacts>& passes) {
  const auto text = p.metadata.find("capture");
  if (text == p.metadata.end()) return;
  const Result<Json> json = parse_json(text->second, "capture");
  if (!json.ok() || !json->is_object()) return;
  const auto number = [&](const char* key) {
    return json->contains(key) && is_int64((*json)[key]) ? (*json)[key].get<int64_t>() : 0;
  };
  const int64_t recorded = number("recorded"), live = number("live"), constant = number("constant");
  passes.push_back(
      {"deployment", "dead code", "calls", recorded, live, "operator calls that no output depends on are left out"});
  passes.push_back({"deployment", "constants", "calls", live, live - constant, "those that read no input became constants"});
  passes.push_back({"deployment", "lowering", "nodes", live - constant, count_of(p.nodes.size()),
                    "calls became nodes, one or more each"});
}

PassFacts verification(const Program& p) {
  const int64_t nodes = count_of(p.nodes.size());
  return {"load",
          "verify",
          "nodes",
          nodes,
          nodes,
          fmt::format("names, shapes and types of {} values checked, codes and numbers of {} constants", p.values.size(),
                      p.constants.size())};
}

PassFacts constants(const Program& p, const runtime::Model& model) {
  PassFacts pass{"load", "constants", "bytes", 0, model.weight_bytes(), ""};
  std::map<std::string, int64_t> forms;
  for (const program::Constant& constant : p.constants) {
    pass.before += format::bit::stored_bytes(p, constant);
    for (const runtime::ResidentConstant& copy : model.constant(constant.value)) {
      if (copy.packed.data.size() != 0) ++forms[fmt::format("packed as {}", kernels::name(copy.packed.layout))];
      if (copy.panels.size() != 0) ++forms["in panels"];
      if (copy.plain.size() != 0) ++forms["as they are"];
    }
  }
  pass.what = fmt::format("laid out for this machine's kernels: {}", listed(forms));
  return pass;
}

PassFacts layout(const Program& p, const runtime::Plan& plan) {
  PassFacts pass{"plan", "layout", "values", 0, 0, ""};
  int64_t channels_last = 0, reordered = 0;
  for (size_t i = 0; i < p.values.size(); ++i) {
    if (p.values[i].kind != program::ValueKind::kInput && p.values[i].kind != program::ValueKind::kResult) continue;
    ++pass.before;
    if (plan.layouts.of(static_cast<program::ValueId>(i)) == runtime::Layout::kChannelsLast) ++channels_last;
  }
  for (const runtime::PlannedStep& step : plan.steps) reordered += step.step.reordered_inputs;
  pass.after = pass.before;
  pass.what = fmt::format("{} lie channels last, as convolutions and pools read them; {} are reordered within steps",
                          channels_last, reordered);
  return pass;
}

PassFacts fusion(const Program& p, const runtime::Plan& plan) {
  std::map<std::string, int64_t> fused;
  for (const runtime::PlannedStep& step : plan.steps)
    if (step.nodes.size() > 1) ++fused[step.ops()];
  return {"plan",
          "fusion",
          "steps",
          count_of(p.nodes.size()),
          count_of(plan.steps.size()),
          fused.empty() ? "each node is a step" : "in one walk: " + listed(fused)};
}

PassFacts views(const runtime::Plan& plan) {
  PassFacts pass{"plan",  "views",
                 "steps", count_of(plan.steps.size()),
                 0,       "what reshapes, splits and slices find in their inputs as it is stays there"};
  pass.after = pass.before - std::ranges::count_if(plan.steps, &runtime::PlannedStep::is_view);
  return pass;
}

PassFacts requantization(const Program& p, const runtime::Plan& plan) {
  PassFacts pass{"plan", "requantization", "bytes", 0, 0, ""};
  int64_t narrow = 0;
  for (size_t i = 0; i < p.values.size(); ++i) {
    if (plan.offsets[i] < 0) continue;
    const int64_t bytes = plan.bytes_of(p, static_cast<program::ValueId>(i));
    pass.before += *runtime::value_bytes(p.values[i], plan.sizes);
    pass.after += bytes;
    if (plan.narrow[i]) ++narrow;
  }
  pass.what = fmt::format("{} values stay int8 between convolutions with static activations", narrow);
  return pass;
}

PassFacts kernel_choice(const runtime::Plan& plan) {
  std::map<std::string, int64_t> chosen;
  for (const runtime::PlannedStep& step : plan.steps)
    if (!step.step.kernels.empty()) ++chosen[step.step.kernels];
  const int64_t steps = count_of(plan.steps.size());
  return {"plan", "kernels", "steps",
          steps,  steps,     chosen.empty() ? "one implementation of each" : "chosen: " + listed(chosen)};
}

PassFacts memory(const runtime::Model& model, const runtime::Plan& plan) {
  const profile::MemoryTracker m(model, plan);
  return {"plan",
          "memory",
          "bytes",
          m.all_value_bytes,
          m.planned_bytes,
          fmt::format(
              "values share memory: {:.3f} of the lower bound of {}, the largest sum of values that live at once; and {} of "
              "scratch",
              m.planned_ratio(), format_bytes(m.lower_bound_bytes), format_bytes(m.scratch_bytes))};
}

}  // namespace

std::vector<PassFacts> passes_of(const Program& p, const runtime::Model& model, const runtime::Plan& plan) {
  std::vector<PassFacts> passes;
  add_deployment(p, passes);
  for (const PassFacts& pass : {verification(p), constants(p, model), layout(p, plan), fusion(p, plan), views(plan),
                                requantization(p, plan), kernel_choice(plan), memory(model, plan)})
    passes.push_back(pass);
  return passes;
}

}  // namespace bitlab::cli
