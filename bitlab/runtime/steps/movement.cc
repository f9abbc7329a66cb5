// Steps that move values and compute nothing.
#include "bitlab/runtime/internal/cast.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

Step copy_step(const StepContext& context, StridedView view) {
  return Step{
      [copy = StridedCopy::in_rows(std::move(view), size_of(context.input(0).dtype))](const StepBuffers& b) -> Status {
        copy.run(b.inputs[0], b.outputs[0], *b.pool);
        return {};
      },
      0, ""};
}

// A part of a view, from `start` on along a dimension.
StridedView part_of(StridedView view, size_t dim, int64_t start, int64_t length) {
  view.offset += start * view.strides[dim];
  view.sizes[dim] = length;
  return view;
}

size_t dim_of(const StepContext& context) { return static_cast<size_t>(context.node.attribute<int64_t>("dim")); }

}  // namespace

Result<Step> make_reshape_step(const StepContext& context) { return copy_step(context, context.input_view(0)); }

Result<Step> make_permute_step(const StepContext& context) {
  return copy_step(context, context.input_view(0).permuted(context.node.attribute<program::Sizes>("dims")));
}

Result<Step> make_slice_step(const StepContext& context) {
  const size_t dim = dim_of(context);
  const StridedView view = context.input_view(0);
  const int64_t start = context.node.attribute<int64_t>("start");
  return copy_step(context, part_of(view, dim, start < 0 ? view.sizes[dim] + start : start, context.output_shape()[dim]));
}

Result<Step> make_expand_step(const StepContext& context) {
  return copy_step(context, context.input_view(0).broadcast(context.output_shape()));
}

Result<Step> make_cat_step(const StepContext& context) {
  const size_t dim = dim_of(context);
  std::vector<StridedCopy> copies;
  int64_t start = 0;
  for (size_t i = 0; i < context.node.inputs.size(); ++i) {
    StridedView from = context.input_view(i);
    const int64_t length = from.sizes[dim];
    copies.push_back({std::move(from), part_of(context.output_view(), dim, start, length), size_of(context.input(i).dtype)});
    start += length;
  }
  return Step{[copies = std::move(copies)](const StepBuffers& b) -> Status {
                for (size_t i = 0; i < copies.size(); ++i) copies[i].run(b.inputs[i], b.outputs[0], *b.pool);
                return {};
              },
              0, ""};
}

Result<Step> make_split_step(const StepContext& context) {
  const size_t dim = dim_of(context);
  std::vector<StridedCopy> copies;
  int64_t start = 0;
  for (size_t i = 0; i < context.node.outputs.size(); ++i) {
    const int64_t length = context.output_shape(i)[dim];
    copies.push_back(
        StridedCopy::in_rows(part_of(context.input_view(0), dim, start, length), size_of(context.input(0).dtype)));
    start += length;
  }
  return Step{[copies = std::move(copies)](const StepBuffers& b) -> Status {
                for (size_t i = 0; i < copies.size(); ++i) copies[i].run(b.inputs[0], b.outputs[i], *b.pool);
                return {};
              },
              0, ""};
}

Result<Step> make_cast_step(const StepContext& context) {
  BITLAB_TRY(const program::DType to, program::parse_dtype(context.node.attribute<std::string>("dtype")));
  const program::DType from = context.input(0).dtype;
  const int64_t count = context.output_elements();
  return Step{[=](const StepBuffers& b) -> Status {
                cast(from, b.inputs[0], to, b.outputs[0], count);
                return {};
              },
              0, ""};
}

}  // namespace bitlab::runtime
