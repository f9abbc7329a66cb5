#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

using StepMaker = Result<Step> (*)(const StepContext&);

constexpr std::array kMakers{
#define BITLAB_OP(name, exactness, inputs, attributes) StepMaker{make_##name##_step},
#include "bitlab/program/ops.def"
#undef BITLAB_OP
};

}  // namespace

std::vector<int64_t> StepContext::input_shape(size_t input) const {
  return at_batch(model.program().value(node.inputs[input]).shape, batch);
}

std::vector<int64_t> StepContext::output_shape() const { return at_batch(model.program().value(node.output).shape, batch); }

int64_t StepContext::output_elements() const { return elements(model.program().value(node.output).shape, batch); }

const ResidentConstant* StepContext::constant(size_t input) const {
  return node.inputs[input] == program::kNone ? nullptr : &model.constant(node.inputs[input]);
}

const float* StepContext::bias(size_t input) const {
  const ResidentConstant* bias = constant(input);
  return bias == nullptr ? nullptr : reinterpret_cast<const float*>(bias->floats.data());
}

Result<Step> make_step(const StepContext& context) { return kMakers.at(static_cast<size_t>(context.node.op))(context); }

}  // namespace bitlab::runtime
