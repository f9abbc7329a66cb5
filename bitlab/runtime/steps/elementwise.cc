// Steps without weights: pooling, element by element, moving data.
#include "bitlab/kernels/elementwise/elementwise.h"

#include <algorithm>

#include "bitlab/kernels/pool/pool.h"
#include "bitlab/runtime/steps/permute.h"
#include "bitlab/runtime/steps/window.h"

namespace bitlab::runtime {
namespace {

using PoolKernel = void (*)(const kernels::ConvGeometry&, const float*, float*, ThreadPool&);

Step pool_step(const StepContext& context, program::Pair dilation, PoolKernel kernel) {
  const kernels::ConvGeometry geometry =
      window_geometry(context, context.node.attribute<program::Pair>("kernel_size"), dilation);
  return Step{[=](const StepBuffers& b) -> Status {
                kernel(geometry, b.inputs[0], b.output, *b.pool);
                return {};
              },
              0, ""};
}

// The second operand has the shape of the first.
Result<Step> elementwise_step(const StepContext& context, kernels::Elementwise op) {
  const LoadOptions& options = context.model.options();
  BITLAB_TRY(const kernels::ElementwiseRow* row, select(kernels::elementwise_kernels(), options.machine, options.policy));
  const int64_t count = context.output_elements();
  return Step{[=](const StepBuffers& b) -> Status {
                elementwise(*row, {op, b.inputs[0], b.inputs[1], count, b.output}, count, *b.pool);
                return {};
              },
              0, fmt::format("elementwise:{}", row->name)};
}

}  // namespace

Result<Step> make_max_pool2d_step(const StepContext& context) {
  return pool_step(context, context.node.attribute<program::Pair>("dilation"), kernels::max_pool);
}

Result<Step> make_avg_pool2d_step(const StepContext& context) { return pool_step(context, {1, 1}, kernels::avg_pool); }

Result<Step> make_relu_step(const StepContext& context) { return elementwise_step(context, kernels::Elementwise::kRelu); }

Result<Step> make_add_step(const StepContext& context) { return elementwise_step(context, kernels::Elementwise::kAdd); }

Result<Step> make_flatten_step(const StepContext& context) {
  // The result has a rank below 4 and is row-major, so only a rank-4 input has to move.
  const std::vector<int64_t> x = context.input_shape(0);
  const int64_t count = context.output_elements();
  return Step{[=](const StepBuffers& b) -> Status {
                if (x.size() == 4) {
                  channels_last_to_rows(x, b.inputs[0], b.output);
                } else {
                  std::copy_n(b.inputs[0], count, b.output);
                }
                return {};
              },
              0, ""};
}

}  // namespace bitlab::runtime
