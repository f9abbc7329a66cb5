// Steps of ternary layers.
#include <cmath>
#include <limits>

#include "bitlab/kernels/ternary_conv/ternary_conv.h"
#include "bitlab/kernels/ternary_embedding/ternary_embedding.h"
#include "bitlab/kernels/ternary_linear/ternary_linear.h"
#include "bitlab/runtime/internal/chain.h"
#include "bitlab/runtime/internal/conv_geometry.h"
#include "bitlab/runtime/internal/narrow.h"
#include "bitlab/runtime/internal/recurrent.h"
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
    const auto is_bound = [&](Elementwise op) {
      return is_constant(e.taken, op, 1) && !std::isnan(*list[e.taken].constant);
    };
    if (is_bound(Elementwise::maximum)) weight.low = *list[e.taken++].constant;
    if (is_bound(Elementwise::minimum)) weight.high = *list[e.taken++].constant;
    weight.clamps = weight.low != -__builtin_inff() || weight.high != __builtin_inff();
    return e;
  }
};

// Whether every float between the exact sum and the result is finite for the largest sum that there is, each at most half the largest float.
bool stays_finite(const kernels::TernaryWeight& w, float step) {
  constexpr double kMost = std::numeric_limits<float>::max() / 2, kLargest = 127 * 127;  // of q, and of weights kept in int8
  const double sum = kLargest * static_cast<double>(w.packed->depth) * step;
  double most = sum;
  for (int64_t n = 0; n < w.packed->rows; ++n) {
    const auto at = [n](const float* values, double other) {
      return values == nullptr ? other : std::abs(double{values[n]});
    };
    const auto scale = [&](const float* values) {
      return values == nullptr ? 0.0 : std::abs(double{values[n * w.scale_stride]});
    };
    const double product = sum * (scale(w.scale) + scale(w.scale_neg)), biased = product + at(w.bias, 0),
                 scaled = biased * at(w.alpha, 1);
    for (const double value : {product, biased, scaled, scaled + at(w.beta, 0)})
      if (!(value <= most)) most = value;  // NaN, too
  }
  return most <= kMost;
}

}  // namespace

Narrow narrow_input(const StepContext& context) {
  if (context.node.op != Op::ternary_conv || context.output_elements() == 0) return {};
  const auto activation = activation_of(context, input_of(Op::ternary_conv, "act_scale"));
  if (!activation.ok() || !is_static(activation->kind)) return {};
  return {activation->step, static_cast<float>(act_limit(activation->kind))};
}

bool can_narrow(const StepContext& context) {
  const Narrow input = narrow_input(context);
  if (!input) return false;
  kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_conv, "bias"));
  if (weight.group != 0) return false;
  const Chain chain = chain_of(context);
  const Epilogue epilogue = Epilogue::of(chain, context.output_elements(), weight);
  return epilogue.residual == 0 && epilogue.taken == chain.functions().size() && stays_finite(weight, input.step);
}

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
  const Narrow from = context.from, to = context.to;
  return Step{[=, rest = chain.without(epilogue.taken)](const StepBuffers& b) {
                kernels::TernaryGemmArgs results;
                if (to) {
                  results.y_q = b.output<int8_t>(), results.y_inv = 1.0F / to.step, results.y_limit = to.limit;
                } else {
                  results.y = b.output();
                }
                kernels::LayerInput input{.op = "ternary_conv", .activation = activation};
                if (from) {
                  input.q = b.input<int8_t>(0), input.a = &from.step;
                } else {
                  input.x = b.input(0);
                }
                if (epilogue.residual != 0) results.residual = b.input(epilogue.residual);
                const auto run = [&](const RangeTask* after) {
                  return ternary_conv(chosen, weight, geometry, input, results, b.scratch, *b.pool, after);
                };
                return rest.behind(b, run);
              },
              ternary_conv_scratch_bytes(chosen, weight, geometry, context.threads), chosen.names()};
}

Result<Step> make_ternary_recurrent_step(const StepContext& context) {
  const kernels::TernaryWeight weight = weight_of(context, input_of(Op::ternary_recurrent, "bias"));
  const LoadOptions& options = context.model.options();
  BITLAB_TRY(const kernels::RecurrentArgs layer, recurrent_layer(context));
  BITLAB_TRY(const kernels::LayerActivation activation,
             activation_of(context, input_of(Op::ternary_recurrent, "act_scale")));
  kernels::RecurrentKernels chosen;
  BITLAB_TRY(chosen.product, select_ternary(activation.kind, weight.problem(layer.batch), weight.packed->layout,
                                            options.machine, options.policy));
  BITLAB_TRY(chosen.elementwise, elementwise_row(context));
  constexpr size_t kH0 = input_of(Op::ternary_recurrent, "h0");
  return Step{
      [=](const StepBuffers& b) { return recurrent(chosen, weight, activation, bound(layer, b, kH0), b.scratch, *b.pool); },
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
