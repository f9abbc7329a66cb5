// Steps that work element by element.
#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "bitlab/runtime/internal/device_step.h"

namespace bitlab::runtime {
namespace {

using kernels::CudaBinary;
using kernels::Elementwise;
using kernels::ElementwiseRow;

constexpr int64_t kTask = 1 << 14;  // elements

// An operand of a node, and how it meets the result's elements in memory.
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
  return {input, StridedCopy::in_rows(std::move(view), size_of(context.input(input).dtype)), period};
}

// What a step whose node is such a function computes: the node's functions, and those of nodes behind it.
Result<Step> chain_step(const StepContext& context, const ElementwiseRow& row) {
  const int64_t count = context.output_elements();
  Step step{[chain = *context.chain, count](const StepBuffers& b) -> Status {
              chain.with(b, b.input(0), b.output(), [&](const auto& range) {
                b.pool->run(ceil_div(count, kTask),
                            [&](int64_t i, int) { range(i * kTask, std::min(count, (i + 1) * kTask)); });
              });
              return {};
            },
            0, label(row)};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    BITLAB_TRY(const DeviceChain chain, DeviceChain::of(*context.chain, count, device));
    return DeviceStep{[chain](const DeviceBuffers& b) { return chain.run(b, b.input(0), b.output()); }, 0,
                      "elementwise:cuda"};
  });
}

Result<Step> unary_step(const StepContext& context) {
  BITLAB_TRY(const ElementwiseRow* row, elementwise_row(context));
  return chain_step(context, *row);
}

// The operands of a run, element by element: the first ones as many as the result has, the last one repeated where `repeats`.
class Operands {
 public:
  Operands(const StepContext& context, std::vector<Operand> list, bool repeats)
      : list_(std::move(list)), count_(context.output_elements()) {
    for (const Operand& operand : list_) {
      const bool is_last = &operand == &list_.back();
      const bool fits = operand.period == count_ || (is_last && repeats && operand.period != 0);
      offsets_.push_back(fits ? -1 : scratch_bytes_);
      if (!fits) scratch_bytes_ += round_up(count_ * operand.copy.element_bytes, kAlignment);
    }
    period_ = offsets_.back() < 0 ? list_.back().period : count_;
  }
  int64_t scratch_bytes() const { return scratch_bytes_; }
  int64_t count() const { return count_; }
  int64_t last_period() const { return period_; }
  // Operand i, copied out where it has to be.
  const void* get(size_t i, const StepBuffers& b) const {
    const void* data = b.inputs[list_[i].input];
    if (offsets_[i] < 0) return data;
    list_[i].copy.run(data, b.scratch + offsets_[i], *b.pool);
    return b.scratch + offsets_[i];
  }
  // The same on a device; what is wrong into `wrong`, if nothing was before.
  const void* get(size_t i, const DeviceBuffers& b, const char*& wrong) const {
    const void* data = b.inputs[list_[i].input];
    if (offsets_[i] < 0 || wrong != nullptr) return data;
    wrong = run_copy(b, list_[i].copy.on_device(), data, b.scratch + offsets_[i]);
    return b.scratch + offsets_[i];
  }

 private:
  std::vector<Operand> list_;
  std::vector<int64_t> offsets_;  // in the scratch; -1: read in place
  int64_t count_, period_ = 0, scratch_bytes_ = 0;
};

// y[i] = f(a[i], b[i * step]) of n elements; step: 0 or 1.
using Zip = void (*)(const void* a, const void* b, int64_t step, void* y, int64_t n);

template <class T, class Y, class Function>
void zip(const void* a, const void* b, int64_t step, void* y, int64_t n) {
  const auto *x = static_cast<const T*>(a), *other = static_cast<const T*>(b);
  auto* out = static_cast<Y*>(y);
  if (step == 0) {
    const T same = *other;
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<Y>(Function{}(x[i], same));
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = static_cast<Y>(Function{}(x[i], other[i]));
  }
}

// Y: of the result; void: that of the operands.
template <class Y, class Function>
Zip zip_of(program::DType dtype) {
  const auto of = [](auto zero) -> Zip {
    using T = decltype(zero);
    return zip<T, std::conditional_t<std::is_void_v<Y>, T, Y>, Function>;
  };
  switch (dtype) {
    case program::DType::kFloat32:
      return of(0.0F);
    case program::DType::kInt64:
      return of(int64_t{0});
    case program::DType::kInt32:
      return of(int32_t{0});
    default:
      return of(uint8_t{0});
  }
}

// y[i] = f(a[i], b[i % period]) on the pool's threads.
Result<Step> zip_step(const StepContext& context, Zip f, CudaBinary binary) {
  const Operands operands(context, {operand_of(context, 0), operand_of(context, 1)}, true);
  const program::DType dtype = context.input(0).dtype;
  const int64_t size = size_of(dtype), y_size = size_of(context.model.program().value(context.node.output()).dtype);
  Step step{[=](const StepBuffers& buffers) -> Status {
              const auto *a = static_cast<const std::byte*>(operands.get(0, buffers)),
                         *b = static_cast<const std::byte*>(operands.get(1, buffers));
              auto* y = static_cast<std::byte*>(buffers.outputs[0]);
              const int64_t count = operands.count(), period = operands.last_period();
              buffers.pool->run(ceil_div(count, kTask), [&](int64_t task, int) {
                const int64_t end = std::min(count, (task + 1) * kTask);
                for (int64_t i = task * kTask, run; i < end; i += run) {  // in runs that meet b side by side
                  const int64_t first = i % period;
                  run = period == 1 ? end - i : std::min(period - first, end - i);
                  f(a + i * size, b + first * size, period == 1 ? 0 : 1, y + i * y_size, run);
                }
              });
              return {};
            },
            operands.scratch_bytes(), ""};
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    return DeviceStep{[=, op = binary, type = device_type(dtype)](const DeviceBuffers& b) {
                        const char* wrong = nullptr;
                        const void *x = operands.get(0, b, wrong), *y = operands.get(1, b, wrong);
                        const kernels::CudaZip args{
                            op, type, x, y, operands.last_period(), b.outputs[0], operands.count(), b.failed};
                        return wrong != nullptr ? wrong : b.plugin->zip(&args, b.stream);
                      },
                      operands.scratch_bytes(), "elementwise:cuda"};
  });
}

// A step of a function of no state, for each dtype; `binary` is what it does.
template <class Y, class Function>
Result<Step> typed_step(const StepContext& context, Function, CudaBinary binary) {
  return zip_step(context, zip_of<Y, Function>(context.input(0).dtype), binary);
}

// Of integers, as unsigned ones, which wrap.
template <class Function>
auto wrapping(Function) {
  return [](auto a, auto b) {
    using T = decltype(a);
    if constexpr (std::is_integral_v<T>) {
      return Function{}(static_cast<std::make_unsigned_t<T>>(a), static_cast<std::make_unsigned_t<T>>(b));
    } else {
      return Function{}(a, b);
    }
  };
}

Result<Step> integer_step(const StepContext& context, Elementwise op) {
  switch (op) {
    case Elementwise::add:
      return typed_step<void>(context, wrapping(std::plus<>()), CudaBinary::kAdd);
    case Elementwise::sub:
      return typed_step<void>(context, wrapping(std::minus<>()), CudaBinary::kSub);
    case Elementwise::mul:
      return typed_step<void>(context, wrapping(std::multiplies<>()), CudaBinary::kMul);
    case Elementwise::minimum:
      return typed_step<void>(
          context, [](auto a, auto b) { return std::min(a, b); }, CudaBinary::kMinimum);
    default:
      return typed_step<void>(
          context, [](auto a, auto b) { return std::max(a, b); }, CudaBinary::kMaximum);
  }
}

Result<Step> binary_step(const StepContext& context, Elementwise op) {
  if (context.input(0).dtype != program::DType::kFloat32) return integer_step(context, op);
  BITLAB_TRY(const ElementwiseRow* row, elementwise_row(context));
  if (context.chain != nullptr) return chain_step(context, *row);
  std::vector<Operand> list{operand_of(context, 0), operand_of(context, 1)};
  const int64_t count = context.output_elements();
  const bool commutes = op == Elementwise::add || op == Elementwise::mul;
  if (commutes && list[0].period != count && list[1].period == count) std::swap(list[0], list[1]);
  const Operands operands(context, std::move(list), true);
  Step step{[=](const StepBuffers& b) -> Status {
              const auto *x = static_cast<const float*>(operands.get(0, b)),
                         *other = static_cast<const float*>(operands.get(1, b));
              elementwise(*row, {.op = op, .a = x, .b = other, .b_count = operands.last_period(), .y = b.output()}, count,
                          *b.pool);
              return {};
            },
            operands.scratch_bytes(), label(*row)};
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    return DeviceStep{
        [=](const DeviceBuffers& b) {
          kernels::CudaChain args{};
          const char* wrong = nullptr;
          args.x = static_cast<const float*>(operands.get(0, b, wrong)), args.y = b.output(), args.count = count;
          args.functions[args.length++] = {op, static_cast<const float*>(operands.get(1, b, wrong)), operands.last_period()};
          return wrong != nullptr ? wrong : b.plugin->elementwise(&args, b.stream);
        },
        operands.scratch_bytes(), "elementwise:cuda"};
  });
}

std::vector<ChainFunction> norm_functions(const StepContext& context) {
  const int64_t channels = context.input_shape(1)[0];
  return {{Elementwise::mul, context.floats(1), 0, channels}, {Elementwise::add, context.floats(2), 0, channels}};
}

std::optional<Elementwise> function_of(program::Op op) {
  switch (op) {
#define BITLAB_UNARY(name, exactness) \
  case program::Op::name:             \
    return Elementwise::name;
#define BITLAB_BINARY BITLAB_UNARY
#include "bitlab/program/elementwise.def"
    default:
      return std::nullopt;
  }
}

}  // namespace

Result<const ElementwiseRow*> elementwise_row(const StepContext& context) {
  const LoadOptions& options = context.model.options();
  return select(kernels::elementwise_kernels(), options.machine, options.policy);
}

std::string label(const ElementwiseRow& row) { return fmt::format("elementwise:{}", row.name); }

std::vector<ChainFunction> functions_of(const StepContext& node, size_t place, size_t next) {
  if (node.node.op == program::Op::batch_norm) {
    const std::vector<int64_t> x = node.input_shape(0);
    if (place != 0 || (x.size() > 2 && node.layouts.of(node.node.inputs[0]) != Layout::kChannelsLast)) return {};
    return norm_functions(node);
  }
  const std::optional<Elementwise> op = function_of(node.node.op);
  if (!op || node.input(0).dtype != program::DType::kFloat32) return {};
  if (node.node.inputs.size() == 1) return {{*op}};
  const bool commutes = op == Elementwise::add || op == Elementwise::mul;
  const int64_t count = operand_of(node, 1 - place).period;
  if ((place == 1 && !commutes) || operand_of(node, place).period != node.output_elements() || count == 0) return {};
  return {{*op, node.floats(1 - place), next, count}};
}

#define BITLAB_UNARY(name, exactness) \
  Result<Step> make_##name##_step(const StepContext& context) { return unary_step(context); }
#define BITLAB_BINARY(name, exactness) \
  Result<Step> make_##name##_step(const StepContext& context) { return binary_step(context, Elementwise::name); }
#include "bitlab/program/elementwise.def"

Result<Step> make_equal_step(const StepContext& context) {
  return typed_step<uint8_t>(context, std::equal_to<>(), CudaBinary::kEqual);
}
Result<Step> make_not_equal_step(const StepContext& context) {
  return typed_step<uint8_t>(context, std::not_equal_to<>(), CudaBinary::kNotEqual);
}
Result<Step> make_less_step(const StepContext& context) {
  return typed_step<uint8_t>(context, std::less<>(), CudaBinary::kLess);
}
Result<Step> make_less_equal_step(const StepContext& context) {
  return typed_step<uint8_t>(context, std::less_equal<>(), CudaBinary::kLessEqual);
}

namespace {

// Of int64 and int32, as the operation's rule has them.
template <class Function>
Result<Step> step_of_integers(const StepContext& context, Function, CudaBinary binary) {
  const auto of_type = [](auto a, auto b) {
    using T = decltype(a);
    if constexpr (std::is_same_v<T, int64_t> || std::is_same_v<T, int32_t>) {
      return static_cast<T>(Function{}(a, b));
    } else {
      return a;
    }
  };
  return typed_step<void>(context, of_type, binary);
}

// A shift by an amount within the bits, or else f of the value.
template <class Shift, class Otherwise>
Result<Step> shift_step(const StepContext& context, Shift, Otherwise, CudaBinary binary) {
  const auto shifted = [](auto a, auto b) {
    constexpr decltype(b) kBits = 8 * sizeof(a);
    return b >= 0 && b < kBits ? Shift{}(a, b) : Otherwise{}(a);
  };
  return step_of_integers(context, shifted, binary);
}

// The step, behind a look for a divisor of 0, which is an error of the run; on a device the kernel looks.
Result<Step> with_divisors_checked(const StepContext& context, Result<Step> made) {
  BITLAB_TRY(Step step, std::move(made));
  const int64_t count = elements(context.input(1).shape, context.sizes);
  const bool is_long = context.input(1).dtype == program::DType::kInt64;
  step.run = [=, run = std::move(step.run), &node = context.node](const StepBuffers& b) -> Status {
    const auto has_zero = [&](const auto* values) { return std::find(values, values + count, 0) != values + count; };
    if (is_long ? has_zero(b.input<int64_t>(1)) : has_zero(b.input<int32_t>(1)))
      return make_error(ErrorCode::kInvalidArgument, "[{}] divisors other than 0, got 0 (node={})", program::name(node.op),
                        node.name);
    return run(b);
  };
  return step;
}

}  // namespace

Result<Step> make_floor_divide_step(const StepContext& context) {
  const auto divided = [](auto a, auto b) {
    using T = decltype(a);
    if (b == -1) return static_cast<T>(-static_cast<std::make_unsigned_t<T>>(a));  // wraps
    return static_cast<T>(a / b - (a % b != 0 && (a < 0) != (b < 0) ? 1 : 0));
  };
  return with_divisors_checked(context, step_of_integers(context, divided, CudaBinary::kFloorDivide));
}
Result<Step> make_bitwise_and_step(const StepContext& context) {
  return step_of_integers(context, std::bit_and<>(), CudaBinary::kAnd);
}
Result<Step> make_bitwise_or_step(const StepContext& context) {
  return step_of_integers(context, std::bit_or<>(), CudaBinary::kOr);
}
Result<Step> make_bitwise_xor_step(const StepContext& context) {
  return step_of_integers(context, std::bit_xor<>(), CudaBinary::kXor);
}
Result<Step> make_shift_left_step(const StepContext& context) {
  const auto shift = [](auto a, auto b) {
    return static_cast<decltype(a)>(static_cast<std::make_unsigned_t<decltype(a)>>(a) << b);
  };
  return shift_step(
      context, shift, [](auto a) { return decltype(a){0}; }, CudaBinary::kShiftLeft);
}
Result<Step> make_shift_right_step(const StepContext& context) {
  const auto shift = [](auto a, auto b) { return static_cast<decltype(a)>(a >> b); };
  return shift_step(
      context, shift, [](auto a) { return static_cast<decltype(a)>(a < 0 ? -1 : 0); }, CudaBinary::kShiftRight);
}

Result<Step> make_where_step(const StepContext& context) {
  const Operands operands(context, {operand_of(context, 0), operand_of(context, 1), operand_of(context, 2)}, false);
  const int64_t bytes = size_of(context.input(1).dtype);
  Step step{[=](const StepBuffers& b) -> Status {
              const auto *condition = static_cast<const uint8_t*>(operands.get(0, b)),
                         *x = static_cast<const uint8_t*>(operands.get(1, b)),
                         *y = static_cast<const uint8_t*>(operands.get(2, b));
              const int64_t count = operands.count();
              const auto run = [&](auto zero) {
                using T = decltype(zero);
                b.pool->run(ceil_div(count, kTask), [&](int64_t task, int) {
                  for (int64_t i = task * kTask; i < std::min(count, (task + 1) * kTask); ++i)
                    std::memcpy(b.output<T>() + i, (condition[i] != 0 ? x : y) + i * bytes, sizeof(T));
                });
              };
              if (bytes == 8) run(uint64_t{0});
              if (bytes == 4) run(uint32_t{0});
              if (bytes == 2) run(uint16_t{0});
              if (bytes == 1) run(uint8_t{0});
              return {};
            },
            operands.scratch_bytes(), ""};
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    return DeviceStep{[=](const DeviceBuffers& b) {
                        const char* wrong = nullptr;
                        kernels::CudaWhere args{};
                        args.condition = static_cast<const uint8_t*>(operands.get(0, b, wrong));
                        args.a = operands.get(1, b, wrong), args.b = operands.get(2, b, wrong), args.y = b.outputs[0];
                        args.element_bytes = bytes, args.count = operands.count();
                        return wrong != nullptr ? wrong : b.plugin->where(&args, b.stream);
                      },
                      operands.scratch_bytes(), "elementwise:cuda"};
  });
}

Result<Step> make_batch_norm_step(const StepContext& context) {
  BITLAB_TRY(const ElementwiseRow* row, elementwise_row(context));
  if (context.chain != nullptr) return chain_step(context, *row);
  const Chain chain(row, norm_functions(context));  // of pictures that were put in another order first
  StepContext own = context;
  own.chain = &chain;
  return chain_step(own, *row);
}

}  // namespace bitlab::runtime
