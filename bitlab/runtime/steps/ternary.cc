// Steps of ternary layers.
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/runtime/steps/window.h"

namespace bitlab::runtime {
namespace {

kernels::TernaryWeight weight_of(const StepContext& context) {
  const ResidentConstant& weight = *context.constant(1);
  return {&weight.packed, reinterpret_cast<const float*>(weight.scale.data()), weight.scale_stride, context.bias(2)};
}

std::string names(const kernels::TernaryKernels& rows) {
  return fmt::format("activation_quant:{} {}", rows.quant->name,
                     rows.depthwise != nullptr ? fmt::format("ternary_depthwise:{}", rows.depthwise->name)
                                               : fmt::format("ternary_gemm:{}", rows.gemm->name));
}

}  // namespace

Result<Step> make_ternary_linear_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context);
  const LoadOptions& options = context.model.options();
  const int64_t rows = weight.packed->rows, depth = weight.packed->depth, tokens = context.output_elements() / rows;
  BITLAB_TRY(const kernels::TernaryKernels chosen,
             select_ternary({tokens, rows, depth}, weight.packed->layout, options.machine, options.policy));
  return Step{[=](const StepBuffers& b) {
                return ternary_linear(chosen, weight, b.inputs[0], tokens, b.output, b.scratch, *b.pool);
              },
              ternary_linear_scratch_bytes(chosen, weight, tokens, context.threads), names(chosen)};
}

Result<Step> make_ternary_conv2d_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context);
  const LoadOptions& options = context.model.options();
  const kernels::ConvGeometry geometry = conv_geometry(context);
  BITLAB_TRY(const kernels::TernaryKernels chosen,
             select_ternary_conv(geometry, weight.packed->rows, weight.packed->layout, options.machine, options.policy));
  return Step{[=](const StepBuffers& b) {
                kernels::TernaryGemmArgs results;
                results.y = b.output;
                return ternary_conv(chosen, weight, geometry, {.op = "ternary_conv2d", .x = b.inputs[0]}, results, b.scratch,
                                    *b.pool);
              },
              ternary_conv_scratch_bytes(chosen, weight, geometry, context.threads), names(chosen)};
}

}  // namespace bitlab::runtime
