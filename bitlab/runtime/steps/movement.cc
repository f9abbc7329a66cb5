// Steps that move values and compute nothing.
#include <algorithm>

#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

Step copy_step(StridedView view) {
  return Step{[view = std::move(view)](const StepBuffers& b) -> Status {
                copy_strided(view, b.inputs[0], b.output, *b.pool);
                return {};
              },
              0, ""};
}

}  // namespace

Result<Step> make_reshape_step(const StepContext& context) { return copy_step(context.input_view(0)); }

Result<Step> make_permute_step(const StepContext& context) {
  return copy_step(context.input_view(0).permuted(context.node.attribute<program::Sizes>("dims")));
}

Result<Step> make_slice_step(const StepContext& context) {
  StridedView view = context.input_view(0);
  view.offset =
      context.node.attribute<int64_t>("start") * view.strides[static_cast<size_t>(context.node.attribute<int64_t>("dim"))];
  view.sizes = context.output_shape();
  return copy_step(std::move(view));
}

Result<Step> make_expand_step(const StepContext& context) {
  const StridedView view = context.input_view(0).broadcast(context.output_shape());
  const float* constant = context.floats(0);
  return Step{[=](const StepBuffers& b) -> Status {
                copy_strided(view, constant, b.output, *b.pool);
                return {};
              },
              0, ""};
}

// Both parts are brought to row-major scratch, then interleaved in runs.
Result<Step> make_cat_step(const StepContext& context) {
  const auto dim = static_cast<size_t>(context.node.attribute<int64_t>("dim"));
  const std::vector<int64_t> y = context.output_shape();
  int64_t outer = 1;
  for (size_t i = 0; i < dim; ++i) outer *= y[i];
  struct Part {
    StridedView view;
    const float* constant;
    size_t activation;
    int64_t run, begin;  // values of it in a run; where its scratch begins, in values
  };
  std::vector<Part> parts;
  size_t activation = 0;
  int64_t scratch = 0;
  for (size_t i = 0; i < 2; ++i) {
    const bool constant = context.model.program().value(context.node.inputs[i]).kind == program::ValueKind::kConstant;
    const StridedView view = context.input_view(i);
    int64_t count = 1;
    for (int64_t size : view.sizes) count *= size;
    parts.push_back({view, constant ? context.floats(i) : nullptr, constant ? 0 : activation++, count / outer, scratch});
    scratch += count;
  }
  return Step{[=](const StepBuffers& b) -> Status {
                auto* memory = reinterpret_cast<float*>(b.scratch);
                for (const Part& part : parts)
                  copy_strided(part.view, part.constant != nullptr ? part.constant : b.inputs[part.activation],
                               memory + part.begin, *b.pool);
                b.pool->run(outer, [&](int64_t i, int) {
                  float* out = b.output + i * (parts[0].run + parts[1].run);
                  for (const Part& part : parts) out = std::copy_n(memory + part.begin + i * part.run, part.run, out);
                });
                return {};
              },
              scratch* static_cast<int64_t>(sizeof(float)), ""};
}

}  // namespace bitlab::runtime
