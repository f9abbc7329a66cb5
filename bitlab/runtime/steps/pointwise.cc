// Steps that work element by element.
#include <array>
#include <utility>

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
                elementwise(*row, {.op = op, .a = b.input(0), .y = b.output()}, count, *b.pool);
                return {};
              },
              0, label(*row)};
}

// One operand of a binary node: which input it is, and how it meets the result's elements in memory.
struct Operand {
  size_t input = 0;
  StridedCopy copy;    // where it has to be copied out first
  int64_t period = 0;  // element i of the result meets i % period of it; 0: none
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

Operand operand_of(const StepContext& context, size_t input) {
  const std::vector<int64_t> y = context.output_shape();
  StridedView view = context.input_view(input).broadcast(y).permuted(memory_order(y.size(), context.output_layout()));
  const int64_t period = period_of(view);
  return {input, StridedCopy::in_rows(std::move(view), sizeof(float)), period};
}

Result<Step> binary_step(const StepContext& context, Elementwise op) {
  BITLAB_TRY(const ElementwiseRow* row, row_for(context));
  std::array<Operand, 2> operands{operand_of(context, 0), operand_of(context, 1)};
  const int64_t count = context.output_elements(), bytes = round_up(count * static_cast<int64_t>(sizeof(float)), kAlignment);
  const bool commutes = op == Elementwise::kAdd || op == Elementwise::kMul;
  if (commutes && operands[0].period != count && operands[1].period == count) std::swap(operands[0], operands[1]);
  const bool copies[2] = {operands[0].period != count, operands[1].period == 0};
  const int64_t scratch = copies[1] ? 2 * bytes : copies[0] ? bytes : 0;
  return Step{[=](const StepBuffers& b) -> Status {
                const float* data[2];
                for (size_t i = 0; i < 2; ++i) {
                  data[i] = b.input(operands[i].input);
                  if (!copies[i]) continue;
                  auto* full = reinterpret_cast<float*>(b.scratch + static_cast<int64_t>(i) * bytes);
                  operands[i].copy.run(data[i], full, *b.pool);
                  data[i] = full;
                }
                const int64_t period = copies[1] ? count : operands[1].period;
                elementwise(*row, {.op = op, .a = data[0], .b = data[1], .b_count = period, .y = b.output()}, count,
                            *b.pool);
                return {};
              },
              scratch, label(*row)};
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
  return Step{
      [=](const StepBuffers& b) -> Status {
        elementwise(*row, {.op = Elementwise::kMul, .a = b.input(0), .b = scale, .b_count = channels, .y = b.output()},
                    count, *b.pool);
        elementwise(*row, {.op = Elementwise::kAdd, .a = b.output(), .b = shift, .b_count = channels, .y = b.output()},
                    count, *b.pool);
        return {};
      },
      0, label(*row)};
}

}  // namespace bitlab::runtime
