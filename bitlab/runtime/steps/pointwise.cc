// Steps that work element by element.
#include <algorithm>

#include "bitlab/kernels/elementwise/elementwise.h"
#include "bitlab/runtime/step.h"

namespace bitlab::runtime {
namespace {

using kernels::Elementwise;
using kernels::ElementwiseRow;

Result<const ElementwiseRow*> row_for(const StepContext& context) {
  const LoadOptions& options = context.model.options();
  return select(kernels::elementwise_kernels(), options.machine, options.policy);
}

std::string label(const ElementwiseRow& row) { return fmt::format("elementwise:{}", row.name); }

Result<Step> unary_step(const StepContext& context, Elementwise op) {
  BITLAB_TRY(const ElementwiseRow* row, row_for(context));
  const int64_t count = context.output_elements();
  return Step{[=](const StepBuffers& b) -> Status {
                elementwise(*row, {.op = op, .a = b.inputs[0], .y = b.output}, count, *b.pool);
                return {};
              },
              0, label(*row)};
}

// One operand of a binary node: where it is, and how it meets the result's elements in memory.
struct Operand {
  const float* constant = nullptr;
  size_t activation = 0;  // of those that are no constants
  int64_t period = 0;     // element i of the result meets i % period of it; 0: it has to be copied out first

  const float* data(const StepBuffers& b) const { return constant != nullptr ? constant : b.inputs[activation]; }
};

// The period of a view in memory order: sizes 1 or strides 0 in front, dense behind. 0 where it is no such view.
int64_t period_of(const StridedView& view) {
  int64_t count = 1;
  size_t i = view.sizes.size();
  for (; i > 0 && (view.strides[i - 1] == count || view.sizes[i - 1] == 1); --i) count *= view.sizes[i - 1];
  for (; i > 0; --i)
    if (view.strides[i - 1] != 0 && view.sizes[i - 1] != 1) return 0;
  return count;
}

struct Binary {
  Operand operands[2];
  StridedView views[2];
};

Binary binary_of(const StepContext& context) {
  const std::vector<int64_t> y = context.output_shape();
  const std::vector<int64_t> order = memory_order(y.size(), context.output_layout());
  const auto view = [&](size_t i) { return context.input_view(i).broadcast(y).permuted(order); };
  Binary binary{{}, {view(0), view(1)}};
  size_t activation = 0;
  for (size_t i = 0; i < 2; ++i) {
    Operand& operand = binary.operands[i];
    operand.constant = context.model.program().value(context.node.inputs[i]).kind == program::ValueKind::kConstant
                           ? context.floats(i)
                           : nullptr;
    if (operand.constant == nullptr) operand.activation = activation++;
    operand.period = period_of(binary.views[i]);
  }
  return binary;
}

Result<Step> binary_step(const StepContext& context, Elementwise op) {
  BITLAB_TRY(const ElementwiseRow* row, row_for(context));
  Binary binary = binary_of(context);
  const int64_t count = context.output_elements(), bytes = round_up(count * static_cast<int64_t>(sizeof(float)), kAlignment);
  const bool commutes = op == Elementwise::kAdd || op == Elementwise::kMul;
  if (commutes && binary.operands[0].period != count && binary.operands[1].period == count) {
    std::swap(binary.operands[0], binary.operands[1]);
    std::swap(binary.views[0], binary.views[1]);
  }
  const bool copies[2] = {binary.operands[0].period != count, binary.operands[1].period == 0};
  return Step{[=](const StepBuffers& b) -> Status {
                const float* data[2];
                for (size_t i = 0; i < 2; ++i) {
                  data[i] = binary.operands[i].data(b);
                  if (!copies[i]) continue;
                  auto* full = reinterpret_cast<float*>(b.scratch + static_cast<int64_t>(i) * bytes);
                  copy_strided(binary.views[i], data[i], full, *b.pool);
                  data[i] = full;
                }
                const int64_t period = copies[1] ? count : binary.operands[1].period;
                elementwise(*row, {.op = op, .a = data[0], .b = data[1], .b_count = period, .y = b.output}, count, *b.pool);
                return {};
              },
              copies[1]   ? 2 * bytes
              : copies[0] ? bytes
                          : 0,
              label(*row)};
}

}  // namespace

Result<Step> make_relu_step(const StepContext& context) { return unary_step(context, Elementwise::kRelu); }
Result<Step> make_gelu_step(const StepContext& context) { return unary_step(context, Elementwise::kGelu); }
Result<Step> make_gelu_tanh_step(const StepContext& context) { return unary_step(context, Elementwise::kGeluTanh); }
Result<Step> make_silu_step(const StepContext& context) { return unary_step(context, Elementwise::kSilu); }
Result<Step> make_sigmoid_step(const StepContext& context) { return unary_step(context, Elementwise::kSigmoid); }
Result<Step> make_tanh_step(const StepContext& context) { return unary_step(context, Elementwise::kTanh); }
Result<Step> make_add_step(const StepContext& context) { return binary_step(context, Elementwise::kAdd); }
Result<Step> make_sub_step(const StepContext& context) { return binary_step(context, Elementwise::kSub); }
Result<Step> make_mul_step(const StepContext& context) { return binary_step(context, Elementwise::kMul); }
Result<Step> make_div_step(const StepContext& context) { return binary_step(context, Elementwise::kDiv); }

Result<Step> make_batch_norm_step(const StepContext& context) {
  BITLAB_TRY(const ElementwiseRow* row, row_for(context));
  const float *scale = context.floats(1), *shift = context.floats(2);
  const int64_t count = context.output_elements(), channels = context.input_shape(1)[0];
  return Step{[=](const StepBuffers& b) -> Status {
                elementwise(*row,
                            {.op = Elementwise::kMul, .a = b.inputs[0], .b = scale, .b_count = channels, .y = b.output},
                            count, *b.pool);
                elementwise(*row, {.op = Elementwise::kAdd, .a = b.output, .b = shift, .b_count = channels, .y = b.output},
                            count, *b.pool);
                return {};
              },
              0, label(*row)};
}

}  // namespace bitlab::runtime
