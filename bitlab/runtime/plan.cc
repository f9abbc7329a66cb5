#include "bitlab/runtime/plan.h"

#include <algorithm>

#include "bitlab/runtime/internal/chain.h"

namespace bitlab::runtime {
namespace {

using program::Program;
using program::ValueId;

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

constexpr int64_t kMostBytes = int64_t{1} << 46;  // of values: keeps sums and products inside int64

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

Result<Plan> make_plan(const Model& model, const program::SymbolSizes& sizes, int threads) {
  const Program& p = model.program();
  Plan plan{sizes, Layouts(p), {}, std::vector<int64_t>(p.values.size(), -1), {}, 0, 0};
  for (const program::Value& value : p.values)  // before anything multiplies their sizes; states are a session's memory
    if (value.kind != program::ValueKind::kConstant) BITLAB_RETURN_IF_ERROR(value_bytes(value, sizes));
  std::vector<Fusion> fusions = fuse(model, plan.layouts, plan.sizes);
  plan.lives = lifetimes(p, fusions);
  program::Placement placement;
  std::vector<ValueId> written = p.inputs;
  for (const Fusion& step : fusions) written.insert(written.end(), step.outputs().begin(), step.outputs().end());
  for (const ValueId id : written) {
    const auto i = static_cast<size_t>(id);
    BITLAB_TRY(const int64_t bytes, value_bytes(p.values[i], sizes));
    plan.offsets[i] = placement.place(bytes, plan.lives[i]);
    plan.scratch_offset = placement.bytes();
    if (plan.scratch_offset > kMostBytes)
      return make_error(ErrorCode::kUnsupported, "[plan] at most 2^46 bytes of values at a time, got {} (value={})",
                        plan.scratch_offset, p.values[i].name);
  }
  int64_t scratch = 0;
  for (Fusion& fusion : fusions) {
    StepContext context{model, plan.layouts, fusion.head(), plan.sizes, threads};
    Chain chain;
    if (!fusion.functions.empty()) {
      BITLAB_TRY(const kernels::ElementwiseRow* row, elementwise_row(context));
      chain = Chain(row, std::move(fusion.functions));
      context.chain = &chain;
    }
    BITLAB_TRY(Step step, make_step(context));
    scratch = std::max(scratch, step.scratch_bytes);
    const auto outputs = fusion.outputs();
    plan.steps.push_back(
        {std::move(step), std::move(fusion.nodes), std::move(fusion.inputs), {outputs.begin(), outputs.end()}});
  }
  plan.arena_bytes = plan.scratch_offset + scratch;
  return plan;
}

std::vector<int64_t> live_bytes(const Program& p, const Plan& plan) {
  std::vector<int64_t> live(plan.steps.size() + 2);  // of the time t at t + 1
  for (size_t i = 0; i < p.values.size(); ++i) {
    if (plan.offsets[i] < 0) continue;
    const auto bytes = *value_bytes(p.values[i], plan.sizes);  // make_plan() has counted them
    for (int64_t t = plan.lives[i].first; t <= plan.lives[i].last; ++t) live[static_cast<size_t>(t + 1)] += bytes;
  }
  return live;
}

}  // namespace bitlab::runtime
