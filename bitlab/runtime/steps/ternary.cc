// Steps of ternary layers.
#include "bitlab/kernels/recurrent/recurrent.h"
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

// The functions in front of a convolution's chain that its kernels compute on a sum in registers: an affine by channel, a residual, ReLU or a
// clamp. The formulas are those of the functions, so the bits are.
struct Epilogue {
  size_t residual = 0;  // the place among the step's inputs; 0: none
  size_t taken = 0;     // functions

  // Puts what it takes into the weight. `count` results in channels-last order.
  static Epilogue of(const Chain& chain, int64_t count, kernels::TernaryWeight& weight) {
    using kernels::Elementwise;
    const std::vector<ChainFunction>& list = chain.functions();
    const int64_t rows = weight.packed->rows;
    Epilogue e;
    const auto is = [&](size_t i, Elementwise op, int64_t size) {
      return i < list.size() && list[i].op == op && list[i].count == size;
    };
    const auto is_constant = [&](size_t i, Elementwise op, int64_t size) {
      return is(i, op, size) && list[i].constant != nullptr;
    };
    if (is_constant(0, Elementwise::mul, rows) && is_constant(1, Elementwise::add, rows)) {
      weight.alpha = list[0].constant, weight.beta = list[1].constant;
      e.taken = 2;
    }
    if (is(e.taken, Elementwise::add, count) && list[e.taken].constant == nullptr) e.residual = list[e.taken++].input;
    if (is(e.taken, Elementwise::relu, 0)) {
      weight.relu = true;
      ++e.taken;
    }
    if (is_constant(e.taken, Elementwise::maximum, 1)) weight.low = *list[e.taken++].constant;
    if (is_constant(e.taken, Elementwise::minimum, 1)) weight.high = *list[e.taken++].constant;
    weight.clamps = weight.low != -__builtin_inff() || weight.high != __builtin_inff();
    return e;
  }
};

}  // namespace

Result<Step> make_ternary_linear_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_linear, "bias"));
  const LoadOptions& options = context.model.options();
  const int64_t tokens = context.output_elements() / weight.packed->rows;
  BITLAB_TRY(const kernels::LayerActivation activation, activation_of(context, input_of(Op::ternary_linear, "act_scale")));
  BITLAB_TRY(const kernels::TernaryKernels chosen, select_ternary(activation.kind, weight.problem(tokens),
                                                                  weight.packed->layout, options.machine, options.policy));
  return Step{[=](const StepBuffers& b) {
                return ternary_linear(chosen, weight, {.op = "ternary_linear", .x = b.input(0), .activation = activation},
                                      tokens, b.output(), b.scratch, *b.pool);
              },
              ternary_linear_scratch_bytes(chosen, weight, tokens, context.threads), chosen.names()};
}

Result<Step> make_ternary_conv_step(const StepContext& context) {
  kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_conv, "bias"));
  const LoadOptions& options = context.model.options();
  const kernels::ConvGeometry geometry = conv_geometry(context.model.program(), context.node, context.sizes);
  BITLAB_TRY(const kernels::LayerActivation activation, activation_of(context, input_of(Op::ternary_conv, "act_scale")));
  BITLAB_TRY(const kernels::TernaryKernels chosen,
             select_ternary_conv(geometry, {weight.packed->rows, weight.group, weight.scale_neg != nullptr, activation.kind},
                                 weight.packed->layout, options.machine, options.policy));
  const Chain chain = chain_of(context);
  const Epilogue epilogue = Epilogue::of(chain, context.output_elements(), weight);
  return Step{[=, rest = chain.without(epilogue.taken)](const StepBuffers& b) {
                kernels::TernaryGemmArgs results;
                results.y = b.output();
                if (epilogue.residual != 0) results.residual = b.input(epilogue.residual);
                const auto run = [&](const RangeTask* after) {
                  return ternary_conv(chosen, weight, geometry,
                                      {.op = "ternary_conv", .x = b.input(0), .activation = activation}, results, b.scratch,
                                      *b.pool, after);
                };
                return rest.behind(b, run);
              },
              ternary_conv_scratch_bytes(chosen, weight, geometry, context.threads), chosen.names()};
}

Result<Step> make_ternary_recurrent_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_recurrent, "bias"));
  const LoadOptions& options = context.model.options();
  const std::vector<int64_t> x = context.input_shape(0);
  kernels::RecurrentArgs layer{.batch = x[0],
                               .tokens = x[1],
                               .hidden = weight.packed->depth,
                               .reverse = context.node.attribute<int64_t>("reverse") == 1};
  BITLAB_TRY(layer.cell, kernels::parse_recurrent_cell(context.node.attribute<std::string>("cell")));
  BITLAB_TRY(const kernels::LayerActivation activation,
             activation_of(context, input_of(Op::ternary_recurrent, "act_scale")));
  kernels::RecurrentKernels chosen;
  BITLAB_TRY(chosen.product, select_ternary(activation.kind, weight.problem(layer.batch), weight.packed->layout,
                                            options.machine, options.policy));
  BITLAB_TRY(chosen.elementwise, elementwise_row(context));
  constexpr size_t kH0 = input_of(Op::ternary_recurrent, "h0"), kC0 = input_of(Op::ternary_recurrent, "c0");
  return Step{[=](const StepBuffers& b) {
                kernels::RecurrentArgs args = layer;
                args.x = b.input(0), args.h0 = b.input(kH0), args.c0 = b.input(kC0);
                args.y = b.output(0), args.h_n = b.output(1);
                if (args.cell == kernels::RecurrentCell::kLstm) args.c_n = b.output(2);
                return recurrent(chosen, weight, activation, args, b.scratch, *b.pool);
              },
              recurrent_scratch_bytes(chosen, weight, layer, context.threads),
              fmt::format("{} {}", chosen.product.names(), label(*chosen.elementwise))};
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
