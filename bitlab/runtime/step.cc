#include "bitlab/runtime/step.h"

#include <algorithm>
#include <array>

#include "bitlab/runtime/internal/device_step.h"

namespace bitlab::runtime {
namespace {

// Out of line, so that each case is a jump.
__attribute__((noinline)) Result<Step> make_own_step(const StepContext& context) {
  switch (context.node.op) {
#define BITLAB_OP(name, exactness, layout, inputs, attributes)                      \
  case program::Op::name:                                                           \
    if constexpr (is_listed(BITLAB_OPS, #name)) return make_##name##_step(context); \
    break;
#include "bitlab/program/ops.def"
#undef BITLAB_OP
  }
  return make_error(ErrorCode::kInternal, "[runtime] an operation of this build, got '{}'",
                    name(context.node.op));  // verify() refuses it
}

// An input that is copied to scratch in the order that the node's kernel reads.
struct Reordering {
  size_t input;
  StridedCopy copy;
  int64_t begin, end;  // bytes of scratch
};

constexpr size_t kMostInputs = 8 + Chain::kMost;  // of an operation that wants a layout, and of its chain

// `scratch`: bytes of it that the kernel itself uses.
std::vector<Reordering> reorderings_of(const StepContext& context, int64_t scratch) {
  const auto wanted = wanted_layout(context.node);
  if (!wanted) return {};
  std::vector<Reordering> list;
  int64_t begin = round_up(scratch, kAlignment);
  for (size_t i = 0; i < context.node.inputs.size(); ++i) {
    if (!context.has_input(i)) continue;
    const program::Value& value = context.input(i);
    const bool moves = value.kind == program::ValueKind::kInput || value.kind == program::ValueKind::kResult;
    if (!moves || context.layouts.of(context.node.inputs[i]) == *wanted || value.shape.size() < 3) continue;
    const int64_t element = size_of(value.dtype), bytes = elements(value.shape, context.sizes) * element;
    StridedView from = context.input_view(i).permuted(memory_order(value.shape.size(), *wanted));
    list.push_back({i, StridedCopy::in_rows(std::move(from), element), begin, begin + bytes});
    begin = round_up(begin + bytes, kAlignment);
  }
  return list;
}

// The same in front of a device's step.
void reorder_on_device(const StepContext& context, DeviceStep& step) {
  const std::vector<Reordering> reorderings = reorderings_of(context, round_up(step.scratch_bytes, kDeviceAlignment));
  step.scratch_bytes = reorderings.back().end;
  step.run = [inner = std::move(step.run), reorderings](const DeviceBuffers& buffers) {
    std::array<const void*, kMostInputs> inputs;
    std::copy(buffers.inputs.begin(), buffers.inputs.end(), inputs.begin());
    const char* wrong = nullptr;
    for (const Reordering& r : reorderings) {
      uint8_t* to = buffers.scratch + r.begin;
      if (wrong == nullptr) wrong = run_copy(buffers, r.copy.on_device(), buffers.inputs[r.input], to);
      inputs[r.input] = to;
    }
    DeviceBuffers reordered = buffers;
    reordered.inputs = {inputs.data(), buffers.inputs.size()};
    return wrong != nullptr ? wrong : inner(reordered);
  };
}

}  // namespace

Result<Step> make_step(const StepContext& context) {
  if (context.output_elements() == 0) {
    return with_device(context, Step{nothing_to_do, 0, ""}, [](DeviceWeights&) -> Result<DeviceStep> {
      return DeviceStep{[](const DeviceBuffers&) -> const char* { return nullptr; }, 0, ""};
    });
  }
  BITLAB_TRY(Step step, make_own_step(context));
  const std::vector<Reordering> reorderings = reorderings_of(context, step.scratch_bytes);
  if (reorderings.empty()) return step;
  step.scratch_bytes = reorderings.back().end;
  step.reordered_inputs = static_cast<int>(reorderings.size());
  step.run = [inner = std::move(step.run), reorderings](const StepBuffers& buffers) {
    std::array<const void*, kMostInputs> inputs;
    std::copy(buffers.inputs.begin(), buffers.inputs.end(), inputs.begin());
    for (const Reordering& r : reorderings) {
      uint8_t* to = buffers.scratch + r.begin;
      r.copy.run(buffers.inputs[r.input], to, *buffers.pool);
      inputs[r.input] = to;
    }
    StepBuffers reordered = buffers;
    reordered.inputs = {inputs.data(), buffers.inputs.size()};
    return inner(reordered);
  };
  if constexpr (kHasDevices)
    if (step.device.run != nullptr) reorder_on_device(context, step.device);
  return step;
}

}  // namespace bitlab::runtime
