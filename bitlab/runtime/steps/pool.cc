// Steps of pooling.
#include "bitlab/kernels/pool/pool.h"

#include "bitlab/runtime/internal/window.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

using PoolKernel = void (*)(const kernels::ConvGeometry&, const float*, float*, ThreadPool&);

Step pool_step(const StepContext& context, PoolKernel kernel) {
  const kernels::ConvGeometry geometry = window_geometry(context.model.program(), context.node, context.sizes,
                                                         context.node.attribute<program::Sizes>("kernel_size"));
  return Step{[=](const StepBuffers& b) -> Status {
                kernel(geometry, b.input(0), b.output(), *b.pool);
                return {};
              },
              0, ""};
}

}  // namespace

Result<Step> make_max_pool_step(const StepContext& context) { return pool_step(context, kernels::max_pool); }
Result<Step> make_avg_pool_step(const StepContext& context) { return pool_step(context, kernels::avg_pool); }

}  // namespace bitlab::runtime
