// Steps that reduce rows: softmax, norms, means.
#include "bitlab/kernels/reduction/reduction.h"

#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

// `layer` says what, of rows of `columns` values.
Result<Step> reduction_step(const StepContext& context, kernels::ReductionArgs layer, int64_t columns) {
  const LoadOptions& options = context.model.options();
  BITLAB_TRY(const kernels::ReductionRow* row, select(kernels::reduction_kernels(), options.machine, options.policy));
  layer.columns = columns;
  const int64_t rows = elements(context.input(0).shape, context.sizes) / columns;
  return Step{[=](const StepBuffers& b) -> Status {
                kernels::ReductionArgs args = layer;
                args.x = b.input(0);
                args.y = b.output();
                reduction(*row, args, rows, *b.pool);
                return {};
              },
              0, fmt::format("reduction:{}", row->name)};
}

Result<Step> norm_step(const StepContext& context, kernels::Reduction op, const float* bias) {
  const std::vector<int64_t> x = context.input_shape(0);
  int64_t columns = 1;
  for (int64_t i = 0; i < context.node.attribute<int64_t>("dims"); ++i) columns *= x[x.size() - 1 - static_cast<size_t>(i)];
  return reduction_step(context,
                        {.op = op,
                         .weight = context.floats(1),
                         .bias = bias,
                         .eps = static_cast<float>(context.node.attribute<double>("eps"))},
                        columns);
}

}  // namespace

Result<Step> make_softmax_step(const StepContext& context) {
  return reduction_step(context, {.op = kernels::Reduction::kSoftmax}, context.input_shape(0).back());
}

Result<Step> make_mean_step(const StepContext& context) {
  return reduction_step(context, {.op = kernels::Reduction::kMean}, context.input_shape(0).back());
}

Result<Step> make_layer_norm_step(const StepContext& context) {
  return norm_step(context, kernels::Reduction::kLayerNorm, context.floats(2));
}

Result<Step> make_rms_norm_step(const StepContext& context) {
  return norm_step(context, kernels::Reduction::kRmsNorm, nullptr);
}

}  // namespace bitlab::runtime
