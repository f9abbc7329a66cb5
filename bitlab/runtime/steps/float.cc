// Steps of layers that are kept in float32.
#include "bitlab/kernels/float_conv/float_conv.h"
#include "bitlab/kernels/reduction/reduction.h"
#include "bitlab/runtime/steps/window.h"

namespace bitlab::runtime {
namespace {

Result<const kernels::FloatGemmRow*> gemm_for(const StepContext& context) {
  return select(kernels::float_gemm_kernels(), context.model.options().machine, context.model.options().policy);
}

const float* weight_of(const StepContext& context) {
  return reinterpret_cast<const float*>(context.constant(1)->floats.data());
}

}  // namespace

Result<Step> make_linear_step(const StepContext& context) {
  BITLAB_TRY(const kernels::FloatGemmRow* row, gemm_for(context));
  const std::vector<int64_t> weight = context.input_shape(1);
  const int64_t rows = weight[0], depth = weight[1], tokens = context.output_elements() / rows;
  const kernels::FloatGemmArgs layer{weight_of(context), rows, depth, nullptr, depth, context.bias(2), nullptr, rows};
  return Step{[=](const StepBuffers& b) -> Status {
                kernels::FloatGemmArgs args = layer;
                args.x = b.inputs[0];
                args.y = b.output;
                float_gemm(*row, args, tokens, *b.pool);
                return {};
              },
              0, fmt::format("float_gemm:{}", row->name)};
}

Result<Step> make_conv2d_step(const StepContext& context) {
  BITLAB_TRY(const kernels::FloatGemmRow* row, gemm_for(context));
  const kernels::ConvGeometry geometry = conv_geometry(context);
  const float *weight = weight_of(context), *bias = context.bias(2);
  const int64_t rows = context.input_shape(1)[0];
  return Step{[=](const StepBuffers& b) -> Status {
                float_conv(*row, weight, bias, rows, geometry, b.inputs[0], b.output, b.scratch, *b.pool);
                return {};
              },
              float_conv_scratch_bytes(geometry, context.threads), fmt::format("float_gemm:{}", row->name)};
}

Result<Step> make_softmax_step(const StepContext& context) {
  const LoadOptions& options = context.model.options();
  BITLAB_TRY(const kernels::ReductionRow* row, select(kernels::reduction_kernels(), options.machine, options.policy));
  const int64_t columns = context.output_shape().back(), rows = context.output_elements() / columns;
  return Step{[=](const StepBuffers& b) -> Status {
                const kernels::ReductionArgs args{
                    .op = kernels::Reduction::kSoftmax, .x = b.inputs[0], .columns = columns, .y = b.output};
                reduction(*row, args, rows, *b.pool);
                return {};
              },
              0, fmt::format("reduction:{}", row->name)};
}

}  // namespace bitlab::runtime
