// Steps of attention and of what places tokens.
#include "bitlab/kernels/attention/attention.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "bitlab/kernels/attention/cuda/attention.h"
#include "bitlab/kernels/rotary/cuda/rotary.h"
#include "bitlab/kernels/rotary/rotary.h"
#include "bitlab/program/internal/attention_input.h"
#include "bitlab/runtime/internal/device_step.h"

namespace bitlab::runtime {
namespace {

namespace attention_input = program::attention_input;

// A bool mask as what is added to scores, in scratch: one float an element.
struct Mask {
  bool given = false, is_bool = false;
  int64_t count = 0;
  std::array<int64_t, 4> strides{};

  int64_t scratch_bytes() const { return is_bool ? round_up(count * static_cast<int64_t>(sizeof(float)), kAlignment) : 0; }
  const float* read(const StepBuffers& b, uint8_t* scratch) const {
    if (!given) return nullptr;
    if (!is_bool) return b.input(attention_input::kMask);
    auto* added = reinterpret_cast<float*>(scratch);
    const auto* allowed = b.input<uint8_t>(attention_input::kMask);
    std::transform(allowed, allowed + count, added,
                   [](uint8_t may) { return may != 0 ? 0.0F : -std::numeric_limits<float>::infinity(); });
    return added;
  }
};

Mask mask_of(const StepContext& context, const kernels::AttentionArgs& layer) {
  Mask mask;
  mask.given = context.has_input(attention_input::kMask);
  if (!mask.given) return mask;
  mask.is_bool = context.input(attention_input::kMask).dtype == program::DType::kBool;
  mask.count = elements(context.input(attention_input::kMask).shape, context.sizes);
  // make_step() has put the mask into rows, in whatever layout it came.
  const StridedView view = StridedView(context.input_shape(attention_input::kMask))
                               .broadcast({layer.batch, layer.heads, layer.queries, layer.keys});
  std::copy(view.strides.begin(), view.strides.end(), mask.strides.begin());
  return mask;
}

// Appends [outer, tokens, depth] to a state [outer, capacity, depth] behind its first `position` rows.
void append(const float* tokens, int64_t outer, int64_t count, int64_t depth, const StepBuffers& b, float* state) {
  for (int64_t i = 0; i < outer; ++i)
    std::copy_n(tokens + i * count * depth, count * depth, state + (i * b.capacity + b.position) * depth);
}

// The same on a device. A run with states reads its position there.
DeviceStep device_attention(const kernels::AttentionArgs& layer, const Mask& mask, bool has_state) {
  kernels::CudaAttention args{};
  args.batch = layer.batch, args.heads = layer.heads, args.groups = layer.groups;
  args.queries = layer.queries, args.keys = layer.keys, args.depth = layer.depth, args.value_depth = layer.value_depth;
  args.key_rows = layer.key_rows, args.score_keys = layer.keys, args.scale = layer.scale, args.causal = layer.causal;
  std::copy(layer.mask_strides.begin(), layer.mask_strides.end(), args.mask_strides);
  const int64_t outer = layer.batch * layer.groups, tasks = layer.batch * layer.heads * layer.queries;
  const auto append = [=](const DeviceBuffers& b, size_t tokens, size_t state, int64_t depth) {
    const kernels::CudaAppend rows{b.input(tokens), const_cast<float*>(b.input(state)), b.position, args.queries, depth,
                                   b.capacity,      outer * args.queries * depth};
    return b.plugin->append(&rows, b.stream);
  };
  return DeviceStep{[=](const DeviceBuffers& b) {
                      kernels::CudaAttention own = args;
                      own.q = b.input(0), own.k = b.input(1), own.v = b.input(2), own.y = b.output();
                      own.scores = reinterpret_cast<float*>(b.scratch);
                      if (mask.given && mask.is_bool) own.allowed = b.input<uint8_t>(attention_input::kMask);
                      if (mask.given && !mask.is_bool) own.mask = b.input(attention_input::kMask);
                      if (has_state) {
                        const char* wrong = append(b, 1, attention_input::kKeyState, own.depth);
                        if (wrong == nullptr) wrong = append(b, 2, attention_input::kValueState, own.value_depth);
                        if (wrong != nullptr) return wrong;
                        own.k = b.input(attention_input::kKeyState), own.v = b.input(attention_input::kValueState);
                        own.key_rows = b.capacity, own.position = b.position;
                      }
                      return b.plugin->attention(&own, b.stream);
                    },
                    kernels::cuda_attention_scratch_bytes(tasks, layer.keys), "attention:cuda"};
}

}  // namespace

Result<Step> make_attention_step(const StepContext& context) {
  const LoadOptions& options = context.model.options();
  kernels::AttentionKernels rows;
  BITLAB_TRY(rows.gemm, select(kernels::float_gemm_kernels(), options.machine, options.policy));
  BITLAB_TRY(rows.reduction, select(kernels::reduction_kernels(), options.machine, options.policy));
  BITLAB_TRY(rows.elementwise, select(kernels::elementwise_kernels(), options.machine, options.policy));
  const bool has_state = context.has_input(attention_input::kKeyState);
  const std::vector<int64_t> q = context.input_shape(0), k = context.input_shape(1), v = context.input_shape(2);
  kernels::AttentionArgs layer{.batch = q[0],
                               .heads = q[1],
                               .groups = k[1],
                               .queries = q[2],
                               .keys = has_state ? context.input_shape(attention_input::kKeyState)[2] : k[2],
                               .depth = q[3],
                               .value_depth = v[3],
                               .scale = static_cast<float>(context.node.attribute<double>("scale")),
                               .causal = context.node.attribute<int64_t>("causal") == 1};
  layer.key_rows = layer.keys;
  const Mask mask = mask_of(context, layer);
  layer.mask_strides = mask.strides;
  const int64_t outer = k[0] * k[1], kernel_bytes = round_up(attention_scratch_bytes(layer, context.threads), kAlignment);
  Step step{[=](const StepBuffers& b) -> Status {
              kernels::AttentionArgs args = layer;
              args.q = b.input(0), args.k = b.input(1), args.v = b.input(2), args.y = b.output();
              args.mask = mask.read(b, b.scratch + kernel_bytes);
              if (has_state) {  // a session's memory, which this step alone writes
                auto *keys = const_cast<float*>(b.input(attention_input::kKeyState)),
                     *values = const_cast<float*>(b.input(attention_input::kValueState));
                append(args.k, outer, args.queries, args.depth, b, keys);
                append(args.v, outer, args.queries, args.value_depth, b, values);
                args.k = keys, args.v = values;
                args.keys = b.position + args.queries, args.key_rows = b.capacity, args.first_query = b.position;
              }
              attention(rows, args, b.scratch, *b.pool);
              return {};
            },
            kernel_bytes + mask.scratch_bytes(),
            fmt::format("float_gemm:{} reduction:{}", rows.gemm->name, rows.reduction->name)};
  return with_device(context, std::move(step),
                     [&](DeviceWeights&) -> Result<DeviceStep> { return device_attention(layer, mask, has_state); });
}

Result<Step> make_positions_step(const StepContext& context) {
  const int64_t count = context.output_elements();
  const bool continues = context.node.attribute<int64_t>("continues") == 1;
  Step step{[=](const StepBuffers& b) -> Status {
              std::iota(b.output<int64_t>(), b.output<int64_t>() + count, continues ? b.position : 0);
              return {};
            },
            0, ""};
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    return DeviceStep{[=](const DeviceBuffers& b) {
                        const kernels::CudaCount args{continues ? b.position : nullptr, b.output<int64_t>(), count};
                        return b.plugin->count(&args, b.stream);
                      },
                      0, "positions:cuda"};
  });
}

Result<Step> make_rotary_step(const StepContext& context) {
  const std::vector<int64_t> x = context.input_shape(0);
  const kernels::RotaryShape shape{.outer = x[0] * x[1], .tokens = x[2], .depth = x[3]};
  const double theta = context.node.attribute<double>("theta");
  Step step{[=](const StepBuffers& b) -> Status {
              return rotary(shape, theta, b.input<int64_t>(1), b.input(0), b.output(), b.scratch, *b.pool);
            },
            rotary_scratch_bytes(shape), ""};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    const std::vector<double> frequencies = kernels::rotary_frequencies(theta, shape.depth);
    BITLAB_TRY(const auto kept, device.keep(bytes_of(frequencies)));
    return DeviceStep{[=](const DeviceBuffers& b) {
                        kernels::CudaRotary args{};
                        args.positions = b.input<int64_t>(1), args.x = b.input(0), args.y = b.output(),
                        args.failed = b.failed;
                        args.frequencies = reinterpret_cast<const double*>(kept->data());
                        args.outer = shape.outer, args.tokens = shape.tokens, args.depth = shape.depth;
                        args.most = kernels::kMaxPosition;
                        return b.plugin->rotary(&args, b.stream);
                      },
                      0, "rotary:cuda"};
  });
}

}  // namespace bitlab::runtime
