// Steps that move values and compute nothing.
#include "bitlab/runtime/internal/cast.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

Step copy_step(const StepContext& context, StridedView view) {
  const int64_t bytes = size_of(context.input(0).dtype);
  StridedView rows = view.in_rows();
  return Step{[from = std::move(view), to = std::move(rows), bytes](const StepBuffers& b) -> Status {
                copy_strided(from, b.inputs[0], to, b.outputs[0], bytes, *b.pool);
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

// What one copy of several reads and writes.
struct Part {
  StridedView from, to;
};

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
  std::vector<Part> parts;
  int64_t start = 0;
  for (size_t i = 0; i < context.node.inputs.size(); ++i) {
    const StridedView from = context.input_view(i);
    const size_t dim = dim_of(context);
    parts.push_back({from, part_of(context.output_view(), dim, start, from.sizes[dim])});
    start += from.sizes[dim];
  }
  const int64_t bytes = size_of(context.input(0).dtype);
  return Step{[parts = std::move(parts), bytes](const StepBuffers& b) -> Status {
                for (size_t i = 0; i < parts.size(); ++i)
                  copy_strided(parts[i].from, b.inputs[i], parts[i].to, b.outputs[0], bytes, *b.pool);
                return {};
              },
              0, ""};
}

Result<Step> make_split_step(const StepContext& context) {
  std::vector<Part> parts;
  int64_t start = 0;
  for (size_t i = 0; i < context.node.outputs.size(); ++i) {
    const size_t dim = dim_of(context);
    const int64_t length = context.output_shape(i)[dim];
    StridedView from = part_of(context.input_view(0), dim, start, length), to = from.in_rows();
    parts.push_back({std::move(from), std::move(to)});
    start += length;
  }
  const int64_t bytes = size_of(context.input(0).dtype);
  return Step{[parts = std::move(parts), bytes](const StepBuffers& b) -> Status {
                for (size_t i = 0; i < parts.size(); ++i)
                  copy_strided(parts[i].from, b.inputs[0], parts[i].to, b.outputs[i], bytes, *b.pool);
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
