#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

using StepMaker = Result<Step> (*)(const StepContext&);

constexpr std::array kMakers{
#define BITLAB_OP(name, exactness, layout, inputs, attributes) StepMaker{make_##name##_step},
#include "bitlab/program/ops.def"
#undef BITLAB_OP
};

// An activation that is copied to scratch in the order that the node's kernel reads.
struct Reordering {
  size_t input;  // among the activations
  StridedView view;
  int64_t begin, end;  // bytes of scratch
};

// `scratch`: bytes of it that the kernel itself uses.
std::vector<Reordering> reorderings_of(const StepContext& context, int64_t scratch) {
  const auto wanted = wanted_layout(context.node);
  if (!wanted) return {};
  std::vector<Reordering> list;
  size_t activation = 0;
  int64_t begin = round_up(scratch, kAlignment);
  for (size_t i = 0; i < context.node.inputs.size(); ++i) {
    const program::ValueId id = context.node.inputs[i];
    if (id == program::kNone) continue;
    const program::Value& value = context.model.program().value(id);
    if (value.kind == program::ValueKind::kConstant) continue;
    const size_t input = activation++;
    if (context.layouts.of(id) == *wanted || value.shape.size() < 3) continue;
    const int64_t bytes = elements(value.shape, context.batch) * static_cast<int64_t>(sizeof(float));
    list.push_back({input, context.input_view(i).permuted(memory_order(value.shape.size(), *wanted)), begin, begin + bytes});
    begin = round_up(begin + bytes, kAlignment);
  }
  return list;
}

}  // namespace

std::vector<int64_t> StepContext::input_shape(size_t input) const {
  return at_batch(model.program().value(node.inputs[input]).shape, batch);
}

std::vector<int64_t> StepContext::output_shape() const { return at_batch(model.program().value(node.output).shape, batch); }

int64_t StepContext::output_elements() const { return elements(model.program().value(node.output).shape, batch); }

const float* StepContext::floats(size_t input) const {
  const program::ValueId id = node.inputs[input];
  if (id == program::kNone || model.constant(id).empty()) return nullptr;
  return reinterpret_cast<const float*>(model.constant(id)[0].floats.data());
}

StridedView StepContext::input_view(size_t input) const { return {input_shape(input), layouts.of(node.inputs[input])}; }

Result<Step> make_step(const StepContext& context) {
  if (context.output_elements() == 0) return Step{[](const StepBuffers&) -> Status { return {}; }, 0, ""};
  BITLAB_TRY(Step step, kMakers.at(static_cast<size_t>(context.node.op))(context));
  const std::vector<Reordering> reorderings = reorderings_of(context, step.scratch_bytes);
  if (reorderings.empty()) return step;
  step.scratch_bytes = reorderings.back().end;
  step.run = [inner = std::move(step.run), reorderings](const StepBuffers& buffers) {
    StepBuffers reordered = buffers;
    for (const Reordering& r : reorderings) {
      auto* to = reinterpret_cast<float*>(buffers.scratch + r.begin);
      copy_strided(r.view, buffers.inputs[r.input], to, *buffers.pool);
      reordered.inputs[r.input] = to;
    }
    return inner(reordered);
  };
  return step;
}

}  // namespace bitlab::runtime
