// Steps of ternary layers.
#include "bitlab/kernels/ternary_conv2d/ternary_conv2d.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/runtime/steps/window.h"

namespace bitlab::runtime {
namespace {

kernels::TernaryWeight weight_of(const StepContext& context) {
  const ResidentConstant& weight = *context.constant(1);
  return {&weight.packed, reinterpret_cast<const float*>(weight.scale.data()), weight.scale_stride, context.bias(2)};
}

Result<kernels::TernaryKernels> kernels_for(const StepContext& context, const kernels::TernaryGemmProblem& problem) {
  const LoadOptions& options = context.model.options();
  return select_ternary(problem, context.constant(1)->packed.layout, options.machine, options.policy);
}

std::string names(const kernels::TernaryKernels& rows) {
  return fmt::format("activation_quant:{} ternary_gemm:{}", rows.quant->name, rows.gemm->name);
}

}  // namespace

Result<Step> make_ternary_linear_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context);
  const int64_t rows = weight.packed->rows, depth = weight.packed->depth, tokens = context.output_elements() / rows;
  BITLAB_TRY(const kernels::TernaryKernels chosen, kernels_for(context, {tokens, rows, depth}));
  return Step{[=](const StepBuffers& b) {
                return ternary_linear(chosen, weight, b.inputs[0], tokens, b.output, b.scratch, *b.pool);
              },
              ternary_linear_scratch_bytes(chosen, tokens, depth, context.threads), names(chosen)};
}

Result<Step> make_ternary_conv2d_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context);
  const kernels::Conv2dGeometry geometry = conv_geometry(context);
  BITLAB_TRY(const kernels::TernaryKernels chosen,
             kernels_for(context, ternary_conv2d_problem(geometry, weight.packed->rows)));
  return Step{[=](const StepBuffers& b) {
                return ternary_conv2d(chosen, weight, geometry, b.inputs[0], b.output, b.scratch, *b.pool);
              },
              ternary_conv2d_scratch_bytes(chosen, geometry, context.threads), names(chosen)};
}

}  // namespace bitlab::runtime
