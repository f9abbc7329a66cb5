// Steps of ternary layers.
#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/ternary_embedding/ternary_embedding.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/runtime/internal/chain.h"
#include "bitlab/runtime/internal/conv_geometry.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

using program::input_of;
using program::Op;

kernels::TernaryWeight weight_of(const StepContext& context, size_t bias) {
  const ResidentConstant& weight = context.weight();
  kernels::TernaryWeight view{&weight.packed, reinterpret_cast<const float*>(weight.scale.data()), weight.scale_stride,
                              context.floats(bias)};
  if (weight.scale_neg.size() != 0) view.scale_neg = reinterpret_cast<const float*>(weight.scale_neg.data());
  view.group = weight.group;
  if (weight.group != 0) view.group_scale = reinterpret_cast<const uint16_t*>(weight.group_scale.data());
  return view;
}

Result<kernels::LayerActivation> activation_of(const StepContext& context, size_t act_scale) {
  kernels::LayerActivation activation;
  BITLAB_TRY(activation.kind, ternary::parse_act_kind(context.node.attribute<std::string>("activation")));
  if (const float* step = context.floats(act_scale)) activation.step = *step;
  return activation;
}

}  // namespace

Result<Step> make_ternary_linear_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_linear, "bias"));
  const LoadOptions& options = context.model.options();
  const int64_t tokens = context.output_elements() / weight.packed->rows;
  BITLAB_TRY(const kernels::LayerActivation activation, activation_of(context, input_of(Op::ternary_linear, "act_scale")));
  BITLAB_TRY(const kernels::TernaryKernels chosen, select_ternary(activation.kind, weight.problem(tokens),
                                                                  weight.packed->layout, options.machine, options.policy));
  return Step{[=](const StepBuffers& b) {
                return ternary_linear(chosen, weight, activation, b.input(0), tokens, b.output(), b.scratch, *b.pool);
              },
              ternary_linear_scratch_bytes(chosen, weight, tokens, context.threads), chosen.names()};
}

Result<Step> make_ternary_conv_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_conv, "bias"));
  const LoadOptions& options = context.model.options();
  const kernels::ConvGeometry geometry = conv_geometry(context.model.program(), context.node, context.sizes);
  BITLAB_TRY(const kernels::LayerActivation activation, activation_of(context, input_of(Op::ternary_conv, "act_scale")));
  BITLAB_TRY(const kernels::TernaryKernels chosen,
             select_ternary_conv(geometry, {weight.packed->rows, weight.group, weight.scale_neg != nullptr, activation.kind},
                                 weight.packed->layout, options.machine, options.policy));
  return Step{[=, chain = chain_of(context)](const StepBuffers& b) {
                kernels::TernaryGemmArgs results;
                results.y = b.output();
                const auto run = [&](const RangeTask* after) {
                  return ternary_conv(chosen, weight, geometry,
                                      {.op = "ternary_conv", .x = b.input(0), .activation = activation}, results, b.scratch,
                                      *b.pool, after);
                };
                return chain.behind(b, run);
              },
              ternary_conv_scratch_bytes(chosen, weight, geometry, context.threads), chosen.names()};
}

Result<Step> make_ternary_embedding_step(const StepContext& context) {
  const ResidentConstant& weight = context.weight();
  const int64_t tokens = context.output_elements() / weight.packed.depth;
  kernels::TernaryTable table{.weights = &weight.packed,
                              .scale = reinterpret_cast<const float*>(weight.scale.data()),
                              .scale_stride = weight.scale_stride,
                              .group = weight.group};
  if (weight.scale_neg.size() != 0) table.scale_neg = reinterpret_cast<const float*>(weight.scale_neg.data());
  if (weight.group != 0) {
    table.group_scale = reinterpret_cast<const uint16_t*>(weight.group_scale.data());
    table.group_row_stride = 1, table.group_stride = weight.packed.rows;
  }
  return Step{[=](const StepBuffers& b) {
                return ternary_embedding("ternary_embedding", table, b.input<int64_t>(0), tokens, b.output(), *b.pool);
              },
              0, ""};
}

}  // namespace bitlab::runtime
