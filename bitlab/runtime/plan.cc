#include "bitlab/runtime/plan.h"

#include <algorithm>
#include <cstdlib>

#include "bitlab/runtime/internal/chain.h"
#include "bitlab/runtime/internal/device.h"
#include "bitlab/runtime/internal/narrow.h"

namespace bitlab::runtime {
namespace {

using program::Program;
using program::ValueId;
using program::ValueKind;

std::vector<Lifetime> lifetimes(const Program& p, const std::vector<Fusion>& fusions) {
  std::vector<Lifetime> lives(p.values.size());
  const auto steps = static_cast<int64_t>(fusions.size());
  for (int64_t i = 0; i < steps; ++i) {
    const Fusion& step = fusions[static_cast<size_t>(i)];
    for (const ValueId id : step.outputs()) lives[static_cast<size_t>(id)] = {i, i};
    for (const ValueId id : step.inputs)
      if (id != program::kNone) lives[static_cast<size_t>(id)].last = i;
  }
  for (const program::Output& output : p.outputs) lives[static_cast<size_t>(output.value)].last = steps;
  return lives;
}

// A step that finds its outputs in its inputs leaves them there, where these are in the arena. Offsets of parts count from their owners' beginnings until place().
void leave_parts(const Program& p, PlannedStep& planned, Plan& plan) {
  for (const Place& place : planned.step.found) {
    const ValueKind kind = p.value(planned.inputs[place.input]).kind;
    if (kind != ValueKind::kInput && kind != ValueKind::kResult) return;
  }
  for (size_t i = 0; i < planned.step.found.size(); ++i) {
    const Place& place = planned.step.found[i];
    const ValueId input = planned.inputs[place.input];
    const auto output = static_cast<size_t>(planned.outputs[i]);
    plan.offsets[output] = place.offset + (plan.is_part(input) ? plan.offsets[static_cast<size_t>(input)] : 0);
    plan.owners[output] = plan.owners[static_cast<size_t>(input)];
    planned.is_view = true;
  }
  if (planned.is_view) planned.step.run = nothing_to_do;
}

// The chain that each step computes on its output.
Result<std::vector<Chain>> chains_of(const Model& model, const Plan& plan, std::vector<Fusion>& fusions) {
  std::vector<Chain> chains;
  for (Fusion& fusion : fusions) {
    Chain& chain = chains.emplace_back();
    if (fusion.functions.empty()) continue;
    BITLAB_TRY(const kernels::ElementwiseRow* row, elementwise_row({model, plan.layouts, fusion.head(), plan.sizes, 1}));
    chain = Chain(row, std::move(fusion.functions));
  }
  return chains;
}

// Whether the environment variable BITLAB_HOST_OPS, "sort,softmax", names one of the step's operations: of those the host's kernels run.
bool is_left_to_host(const PlannedStep& step) {
  const char* text = std::getenv("BITLAB_HOST_OPS");
  if (text == nullptr) return false;
  const std::string names = fmt::format(",{},", text);
  return std::ranges::any_of(step.nodes, [&](const program::Node* node) {
    return names.find(fmt::format(",{},", program::name(node->op))) != std::string::npos;
  });
}

// Says of the steps which are a device's, and has their constants there.
Status put_on_device(const Model& model, DeviceWeights& device, Plan& plan) {
  int64_t scratch = 0;
  for (PlannedStep& planned : plan.steps) {
    Step& step = planned.step;
    if (planned.is_view) continue;
    if (is_left_to_host(planned)) step.device = {};
    if (!planned.is_on_device()) {
      step.kernels.insert(0, step.kernels.empty() ? "host" : "host ");
      continue;
    }
    step.kernels = step.device.kernels;
    scratch = std::max(scratch, step.device.scratch_bytes);
    for (const ValueId id : planned.inputs) {
      planned.device_constants.push_back(nullptr);
      if (id == program::kNone || model.plain(id) == nullptr) continue;
      BITLAB_TRY(planned.device_constants.back(), device.copy_of(model.constant(id)[0].plain));
    }
  }
  constexpr int64_t kSlack = kDeviceAlignment;  // Kernels of patches read a bit beyond a value, whatever stands there.
  plan.device_bytes = round_up(plan.scratch_offset, kDeviceAlignment) + scratch + kSlack;
  return {};
}

constexpr int64_t kMostBytes = int64_t{1} << 46;  // of values: keeps sums and products inside int64

// Gives each value that is written its place, in the order in which they are.
Status place(const Program& p, const std::vector<ValueId>& written, Plan& plan) {
  for (const ValueId id : written) {
    int64_t& last = plan.lives[static_cast<size_t>(plan.owners[static_cast<size_t>(id)])].last;
    last = std::max(last, plan.lives[static_cast<size_t>(id)].last);
  }
  program::Placement placement;
  for (const ValueId id : written) {
    const auto i = static_cast<size_t>(id);
    if (plan.is_part(id)) {
      plan.offsets[i] += plan.offsets[static_cast<size_t>(plan.owners[i])];
      continue;
    }
    plan.offsets[i] = placement.place(plan.bytes_of(p, id), plan.lives[i]);
    plan.scratch_offset = placement.bytes();
    if (plan.scratch_offset > kMostBytes)
      return make_error(ErrorCode::kUnsupported, "[plan] at most 2^46 bytes of values at a time, got {} (value={})",
                        plan.scratch_offset, p.values[i].name);
  }
  return {};
}

}  // namespace

std::string PlannedStep::ops() const {
  std::string text;
  for (const program::Node* node : nodes) text.append(text.empty() ? "" : " + ").append(program::name(node->op));
  return text;
}

Result<int64_t> value_bytes(const program::Value& v, const program::SymbolSizes& sizes) {
  const int64_t count = elements(v.shape, sizes);
  if (count > kMostBytes / size_of(v.dtype))
    return make_error(ErrorCode::kUnsupported, "[plan] at most 2^46 bytes a value, got {} of {} (value={})",
                      program::to_string(shape_at(v.shape, sizes)), name(v.dtype), v.name);
  return round_up(count * size_of(v.dtype), kAlignment);
}

int64_t Plan::bytes_of(const Program& p, ValueId id) const {
  const program::Value& value = p.value(id);
  const int64_t element = narrow[static_cast<size_t>(id)] ? 1 : size_of(value.dtype);
  return round_up(elements(value.shape, sizes) * element, kAlignment);  // make_plan() has seen that it can be counted
}

Result<Plan> make_plan(const Model& model, const program::SymbolSizes& sizes, int threads, DeviceWeights* device) {
  const Program& p = model.program();
  Plan plan{sizes, Layouts(p), {}, std::vector<int64_t>(p.values.size(), -1), {}, {}, {}};
  for (const program::Value& value : p.values)  // before anything multiplies their sizes; states are a session's memory
    if (value.kind != program::ValueKind::kConstant) BITLAB_RETURN_IF_ERROR(value_bytes(value, sizes));
  std::vector<Fusion> fusions = fuse(model, plan.layouts, plan.sizes);
  BITLAB_TRY(const std::vector<Chain> chains, chains_of(model, plan, fusions));
  plan.narrow = narrow_values(model, plan.layouts, plan.sizes, fusions, chains);
  plan.lives = lifetimes(p, fusions);
  std::vector<ValueId> written = p.inputs;
  for (const Fusion& step : fusions) written.insert(written.end(), step.outputs().begin(), step.outputs().end());
  for (size_t i = 0; i < p.values.size(); ++i) plan.owners.push_back(static_cast<ValueId>(i));
  int64_t scratch = 0;
  for (size_t i = 0; i < fusions.size(); ++i) {
    Fusion& fusion = fusions[i];
    StepContext context{model, plan.layouts, fusion.head(), plan.sizes, threads};
    if (!chains[i].empty()) context.chain = &chains[i];
    const auto outputs = fusion.outputs();
    if (!fusion.inputs.empty() && fusion.inputs[0] != program::kNone)
      context.from = plan.narrow[static_cast<size_t>(fusion.inputs[0])];
    context.to = plan.narrow[static_cast<size_t>(outputs[0])];
    context.device = device;
    BITLAB_TRY(Step step, make_step(context));
    scratch = std::max(scratch, step.scratch_bytes);
    plan.steps.push_back(
        {std::move(step), std::move(fusion.nodes), std::move(fusion.inputs), {outputs.begin(), outputs.end()}});
    if (context.chain == nullptr) leave_parts(p, plan.steps.back(), plan);
  }
  BITLAB_RETURN_IF_ERROR(place(p, written, plan));
  plan.arena_bytes = plan.scratch_offset + scratch;
  if constexpr (kHasDevices)
    if (device != nullptr) BITLAB_RETURN_IF_ERROR(put_on_device(model, *device, plan));
  return plan;
}

std::vector<int64_t> live_bytes(const Program& p, const Plan& plan) {
  std::vector<int64_t> live(plan.steps.size() + 2);  // of the time t at t + 1
  for (size_t i = 0; i < p.values.size(); ++i) {
    if (plan.offsets[i] < 0 || plan.is_part(static_cast<ValueId>(i))) continue;
    const int64_t bytes = plan.bytes_of(p, static_cast<ValueId>(i));
    for (int64_t t = plan.lives[i].first; t <= plan.lives[i].last; ++t) live[static_cast<size_t>(t + 1)] += bytes;
  }
  return live;
}

}  // namespace bitlab::runtime
