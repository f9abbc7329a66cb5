// Steps of layers and products that are kept in float32.
#include "bitlab/kernels/attention/attention.h"
#include "bitlab/kernels/float_conv/float_conv.h"
#include "bitlab/kernels/matmul/matmul.h"
#include "bitlab/runtime/step.h"
#include "bitlab/runtime/window.h"

namespace bitlab::runtime {
namespace {

Result<const kernels::FloatGemmRow*> gemm_for(const StepContext& context) {
  return select(kernels::float_gemm_kernels(), context.model.options().machine, context.model.options().policy);
}

}  // namespace

Result<Step> make_linear_step(const StepContext& context) {
  BITLAB_TRY(const kernels::FloatGemmRow* row, gemm_for(context));
  const std::vector<int64_t> weight = context.input_shape(1);
  const int64_t rows = weight[0], depth = weight[1], tokens = context.output_elements() / rows;
  const kernels::FloatGemmArgs layer{context.floats(1), rows, depth, nullptr, depth, context.floats(2), nullptr, rows};
  return Step{[=](const StepBuffers& b) -> Status {
                kernels::FloatGemmArgs args = layer;
                args.x = b.inputs[0];
                args.y = b.output;
                float_gemm(*row, args, tokens, *b.pool);
                return {};
              },
              0, fmt::format("float_gemm:{}", row->name)};
}

Result<Step> make_conv_step(const StepContext& context) {
  BITLAB_TRY(const kernels::FloatGemmRow* row, gemm_for(context));
  const kernels::ConvGeometry geometry = conv_geometry(context.model.program(), context.node, context.batch);
  const float *weight = context.floats(1), *bias = context.floats(2);
  const int64_t rows = context.input_shape(1)[0];
  return Step{[=](const StepBuffers& b) -> Status {
                float_conv(*row, weight, bias, rows, geometry, b.inputs[0], b.output, b.scratch, *b.pool);
                return {};
              },
              float_conv_scratch_bytes(geometry, context.threads), fmt::format("float_gemm:{}", row->name)};
}

Result<Step> make_matmul_step(const StepContext& context) {
  BITLAB_TRY(const kernels::FloatGemmRow* row, gemm_for(context));
  const std::vector<int64_t> a = context.input_shape(0), b_shape = context.input_shape(1);
  kernels::MatmulShape shape{.m = a[a.size() - 2], .k = a.back(), .n = b_shape.back()};
  const int64_t products = context.output_elements() / (shape.m * shape.n);
  if (b_shape.size() == 2) {
    shape.m *= products;  // the rows of all meet one matrix
  } else {
    shape.batch = products;
  }
  const bool constant = context.model.program().value(context.node.inputs[1]).kind == program::ValueKind::kConstant;
  const float* weight = constant ? context.floats(1) : nullptr;
  return Step{[=](const StepBuffers& b) -> Status {
                matmul(*row, shape, b.inputs[0], constant ? weight : b.inputs[1], b.output, b.scratch, *b.pool);
                return {};
              },
              matmul_scratch_bytes(shape, context.threads), fmt::format("float_gemm:{}", row->name)};
}

Result<Step> make_attention_step(const StepContext& context) {
  const LoadOptions& options = context.model.options();
  kernels::AttentionKernels rows;
  BITLAB_TRY(rows.gemm, gemm_for(context));
  BITLAB_TRY(rows.reduction, select(kernels::reduction_kernels(), options.machine, options.policy));
  BITLAB_TRY(rows.elementwise, select(kernels::elementwise_kernels(), options.machine, options.policy));
  const std::vector<int64_t> q = context.input_shape(0), k = context.input_shape(1), v = context.input_shape(2);
  kernels::AttentionArgs layer{.batch = q[0],
                               .heads = q[1],
                               .groups = k[1],
                               .queries = q[2],
                               .keys = k[2],
                               .depth = q[3],
                               .value_depth = v[3],
                               .scale = static_cast<float>(context.node.attribute<double>("scale")),
                               .causal = context.node.attribute<int64_t>("causal") == 1};
  const bool masked = context.node.inputs[3] != program::kNone;
  const bool constant = masked && context.floats(3) != nullptr;
  if (masked) {
    const StridedView mask = context.input_view(3).broadcast({layer.batch, layer.heads, layer.queries, layer.keys});
    std::copy(mask.strides.begin(), mask.strides.end(), layer.mask_strides.begin());
    if (constant) layer.mask = context.floats(3);
  }
  return Step{[=](const StepBuffers& b) -> Status {
                kernels::AttentionArgs args = layer;
                args.q = b.inputs[0], args.k = b.inputs[1], args.v = b.inputs[2], args.y = b.output;
                if (masked && !constant) args.mask = b.inputs[3];
                attention(rows, args, b.scratch, *b.pool);
                return {};
              },
              attention_scratch_bytes(layer, context.threads),
              fmt::format("float_gemm:{} reduction:{}", rows.gemm->name, rows.reduction->name)};
}

Result<Step> make_embedding_step(const StepContext& context) {
  const std::vector<int64_t> table = context.input_shape(1);
  const float* weight = context.floats(1);
  const int64_t depth = table[1], tokens = context.output_elements() / depth;
  return Step{[=](const StepBuffers& b) -> Status {
                const auto* indices = reinterpret_cast<const int64_t*>(b.inputs[0]);
                for (int64_t i = 0; i < tokens; ++i) {
                  if (indices[i] < 0 || indices[i] >= table[0])
                    return make_error(ErrorCode::kInvalidArgument, "[embedding] indices from 0 to {}, got {}", table[0] - 1,
                                      indices[i]);
                  std::copy_n(weight + indices[i] * depth, depth, b.output + i * depth);
                }
                return {};
              },
              0, ""};
}

}  // namespace bitlab::runtime
