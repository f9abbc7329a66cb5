// Steps that move values and compute nothing.
#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <type_traits>

#include "bitlab/runtime/internal/cast.h"
#include "bitlab/runtime/internal/device_step.h"

namespace bitlab::runtime {
namespace {

// Copies from inputs to outputs, the places of which are what copies[i] goes between.
struct PlacedCopy {
  StridedCopy copy;
  size_t input = 0, output = 0;
};

// Where each output lies in an input as it is; empty where one does not.
std::vector<Place> found(const StepContext& context, const std::vector<PlacedCopy>& copies) {
  std::vector<Place> places;
  if (copies.size() != context.node.outputs.size()) return places;
  for (const PlacedCopy& c : copies) {
    const std::optional<int64_t> offset = c.copy.found_at();
    if (!offset || *offset % kAlignment != 0) {
      places.clear();
      break;
    }
    places.push_back({c.input, *offset});
  }
  return places;
}

Result<Step> copies_step(const StepContext& context, std::vector<PlacedCopy> copies) {
  Step step{[copies](const StepBuffers& b) -> Status {
              for (const PlacedCopy& c : copies) c.copy.run(b.inputs[c.input], b.outputs[c.output], *b.pool);
              return {};
            },
            0, ""};
  step.found = found(context, copies);
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    return DeviceStep{[copies](const DeviceBuffers& b) {
                        const char* wrong = nullptr;
                        for (size_t i = 0; i < copies.size() && wrong == nullptr; ++i)
                          wrong = run_copy(b, copies[i].copy.on_device(), b.inputs[copies[i].input],
                                           b.outputs[copies[i].output]);
                        return wrong;
                      },
                      0, "copy:cuda"};
  });
}

Result<Step> copy_step(const StepContext& context, StridedView view) {
  return copies_step(context, {{StridedCopy::in_rows(std::move(view), size_of(context.input(0).dtype))}});
}

size_t dim_of(const StepContext& context) { return static_cast<size_t>(context.node.attribute<int64_t>("dim")); }

}  // namespace

Result<Step> make_reshape_step(const StepContext& context) { return copy_step(context, context.input_view(0)); }

Result<Step> make_permute_step(const StepContext& context) {
  return copy_step(context, context.input_view(0).permuted(context.node.attribute<program::Sizes>("dims")));
}

Result<Step> make_slice_step(const StepContext& context) {
  const size_t dim = dim_of(context);
  return copy_step(context,
                   context.input_view(0).part(dim, context.node.attribute<int64_t>("start"), context.output_shape()[dim],
                                              context.node.attribute<int64_t>("step")));
}

Result<Step> make_flip_step(const StepContext& context) {
  StridedView view = context.input_view(0);
  for (const int64_t dim : context.node.attribute<program::Sizes>("dims")) {
    const auto at = static_cast<size_t>(dim);
    view = view.part(at, view.sizes[at] - 1, view.sizes[at], -1);
  }
  return copy_step(context, std::move(view));
}

namespace {

// x and indices as [outer, size, inner], where indices have `count` in place of the size.
struct Indexed {
  int64_t outer = 1, size = 1, inner = 1, count = 1;

  Status check(const program::Node& node, const int64_t* indices, int64_t total) const {
    const auto* bad = std::find_if(indices, indices + total, [&](int64_t i) { return i < -size || i >= size; });
    if (bad == indices + total) return {};
    return make_error(ErrorCode::kInvalidArgument, "[{}] indices from {} to {}, got {} (node={})", program::name(node.op),
                      -size, size - 1, *bad, node.name);
  }
  int64_t place(int64_t index) const { return index < 0 ? index + size : index; }
};

Indexed indexed(const StepContext& context) {
  const std::vector<int64_t> x = context.input_shape(0);
  const auto dim = static_cast<int64_t>(dim_of(context));
  const auto volume = [&](auto begin, auto end) { return std::accumulate(begin, end, int64_t{1}, std::multiplies<>()); };
  return {volume(x.begin(), x.begin() + dim), x[static_cast<size_t>(dim)], volume(x.begin() + dim + 1, x.end()),
          elements(context.input(1).shape, context.sizes)};
}

Result<DeviceStep> device_take(const StepContext& context, const Indexed& at, bool by_outer) {
  kernels::CudaTake args{};
  args.outer = at.outer, args.size = at.size, args.inner = at.inner;
  args.indexed = by_outer ? at.count / at.outer : at.count * at.inner;
  args.element_bytes = size_of(context.input(0).dtype), args.count = at.outer * args.indexed;
  args.by_outer = by_outer, args.from_end = true;
  return DeviceStep{[args](const DeviceBuffers& b) {
                      kernels::CudaTake own = args;
                      own.x = b.inputs[0], own.indices = b.input<int64_t>(1), own.y = b.outputs[0], own.failed = b.failed;
                      return b.plugin->take(&own, b.stream);
                    },
                    0, "take:cuda"};
}

}  // namespace

Result<Step> make_take_step(const StepContext& context) {
  const Indexed at = indexed(context);
  const int64_t run = at.inner * size_of(context.input(0).dtype);  // bytes that lie side by side
  Step step{[=, &node = context.node](const StepBuffers& b) -> Status {
              const auto* indices = b.input<int64_t>(1);
              BITLAB_RETURN_IF_ERROR(at.check(node, indices, at.count));
              b.pool->run(at.outer, [&](int64_t o, int) {
                const auto* in = b.input<uint8_t>(0) + o * at.size * run;
                auto* out = b.output<uint8_t>() + o * at.count * run;
                for (int64_t i = 0; i < at.count; ++i) std::copy_n(in + at.place(indices[i]) * run, run, out + i * run);
              });
              return {};
            },
            0, ""};
  return with_device(context, std::move(step), [&](DeviceWeights&) { return device_take(context, at, false); });
}

Result<Step> make_gather_step(const StepContext& context) {
  const Indexed at = indexed(context);
  const int64_t bytes = size_of(context.input(0).dtype), block = at.count / at.outer;  // indices of one of `outer`
  Step step{[=, &node = context.node](const StepBuffers& b) -> Status {
              const auto* indices = b.input<int64_t>(1);
              BITLAB_RETURN_IF_ERROR(at.check(node, indices, at.count));
              b.pool->run(at.outer, [&](int64_t o, int) {
                const auto* in = b.input<uint8_t>(0) + o * at.size * at.inner * bytes;
                for (int64_t i = 0; i < block; ++i) {
                  const int64_t from = at.place(indices[o * block + i]) * at.inner + i % at.inner;
                  std::copy_n(in + from * bytes, bytes, b.output<uint8_t>() + (o * block + i) * bytes);
                }
              });
              return {};
            },
            0, ""};
  return with_device(context, std::move(step), [&](DeviceWeights&) { return device_take(context, at, true); });
}

namespace {

// What becomes of a value that is there with one that is scattered to it. NaN stays NaN.
using Combine = void (*)(void* there, const void* source);

template <class T, class Function>
Combine combining(Function) {
  return [](void* there, const void* source) {
    T& value = *static_cast<T*>(there);
    value = Function()(value, *static_cast<const T*>(source));
  };
}

// None where it takes the place of what is there.
template <class T>
Combine combination(const std::string& mode) {
  using Wrapping = typename std::conditional_t<std::is_integral_v<T>, std::make_unsigned<T>, std::type_identity<T>>::type;
  if (mode == "add")
    return combining<T>([](T a, T b) { return static_cast<T>(static_cast<Wrapping>(a) + static_cast<Wrapping>(b)); });
  if (mode == "mul")
    return combining<T>([](T a, T b) { return static_cast<T>(static_cast<Wrapping>(a) * static_cast<Wrapping>(b)); });
  if (mode == "minimum") return combining<T>([](T a, T b) { return a < b || a != a ? a : b; });
  if (mode == "maximum") return combining<T>([](T a, T b) { return a > b || a != a ? a : b; });
  return nullptr;
}

Combine combination_of(const StepContext& context) {
  const auto& mode = context.node.attribute<std::string>("mode");
  const program::DType dtype = context.input(0).dtype;
  if (dtype == program::DType::kFloat32) return combination<float>(mode);
  return dtype == program::DType::kInt64 ? combination<int64_t>(mode) : combination<int32_t>(mode);
}

Step host_scatter(const StepContext& context) {
  const Indexed at = indexed(context);
  const Combine combine = combination_of(context);
  const int64_t bytes = size_of(context.input(0).dtype);
  const int64_t block = at.count / at.outer, values = at.size * at.inner;  // of one of `outer`
  return Step{[=, &node = context.node](const StepBuffers& b) -> Status {
                const auto* indices = b.input<int64_t>(1);
                BITLAB_RETURN_IF_ERROR(at.check(node, indices, at.count));
                b.pool->run(at.outer, [&](int64_t o, int) {
                  auto* y = b.output<uint8_t>() + o * values * bytes;
                  std::copy_n(b.input<uint8_t>(0) + o * values * bytes, values * bytes, y);
                  for (int64_t i = o * block; i < (o + 1) * block; ++i) {  // one by one: places may repeat
                    auto* there = y + (at.place(indices[i]) * at.inner + i % at.inner) * bytes;
                    const auto* source = b.input<uint8_t>(2) + i * bytes;
                    combine == nullptr ? void(std::copy_n(source, bytes, there)) : combine(there, source);
                  }
                });
                return {};
              },
              0, ""};
}

kernels::CudaScatterMode device_mode(const std::string& mode) {
  using Mode = kernels::CudaScatterMode;
  if (mode == "add") return Mode::kAdd;
  if (mode == "mul") return Mode::kMultiply;
  if (mode == "minimum") return Mode::kMinimum;
  return mode == "maximum" ? Mode::kMaximum : Mode::kReplace;
}

}  // namespace

Result<Step> make_scatter_step(const StepContext& context) {
  return with_device(context, host_scatter(context), [&](DeviceWeights&) -> Result<DeviceStep> {
    const Indexed at = indexed(context);
    kernels::CudaScatter args{};
    args.mode = device_mode(context.node.attribute<std::string>("mode"));
    args.outer = at.outer, args.size = at.size, args.inner = at.inner, args.indexed = at.count / at.outer;
    args.is_float = context.input(0).dtype == program::DType::kFloat32;
    args.element_bytes = size_of(context.input(0).dtype), args.count = at.outer * at.inner;
    const int64_t bytes = at.outer * at.size * at.inner * args.element_bytes;
    return DeviceStep{[args, bytes](const DeviceBuffers& b) {
                        kernels::CudaScatter own = args;
                        own.indices = b.input<int64_t>(1), own.values = b.inputs[2], own.y = b.outputs[0],
                        own.failed = b.failed;
                        const char* wrong = b.plugin->copy(b.outputs[0], b.inputs[0], bytes, b.stream);
                        return wrong != nullptr ? wrong : b.plugin->scatter(&own, b.stream);
                      },
                      0, "scatter:cuda"};
  });
}

Result<Step> make_slice_scatter_step(const StepContext& context) {
  const size_t dim = dim_of(context);
  StridedView source = context.input_view(1);
  const int64_t bytes = size_of(context.input(0).dtype);
  StridedView whole = context.output_view();
  StridedView part =
      whole.part(dim, context.node.attribute<int64_t>("start"), source.sizes[dim], context.node.attribute<int64_t>("step"));
  return copies_step(
      context, {{{context.input_view(0), std::move(whole), bytes}, 0}, {{std::move(source), std::move(part), bytes}, 1}});
}

Result<Step> make_expand_step(const StepContext& context) {
  return copy_step(context, context.input_view(0).broadcast(context.output_shape()));
}

Result<Step> make_cat_step(const StepContext& context) {
  const size_t dim = dim_of(context);
  std::vector<PlacedCopy> copies;
  int64_t start = 0;
  for (size_t i = 0; i < context.node.inputs.size(); ++i) {
    StridedView from = context.input_view(i);
    const int64_t length = from.sizes[dim];
    copies.push_back(
        {{std::move(from), context.output_view().part(dim, start, length), size_of(context.input(i).dtype)}, i});
    start += length;
  }
  return copies_step(context, std::move(copies));
}

Result<Step> make_split_step(const StepContext& context) {
  const size_t dim = dim_of(context);
  std::vector<PlacedCopy> copies;
  int64_t start = 0;
  for (size_t i = 0; i < context.node.outputs.size(); ++i) {
    const int64_t length = context.output_shape(i)[dim];
    copies.push_back(
        {StridedCopy::in_rows(context.input_view(0).part(dim, start, length), size_of(context.input(0).dtype)), 0, i});
    start += length;
  }
  return copies_step(context, std::move(copies));
}

Result<Step> make_cast_step(const StepContext& context) {
  BITLAB_TRY(const program::DType to, program::parse_dtype(context.node.attribute<std::string>("dtype")));
  const program::DType from = context.input(0).dtype;
  const int64_t count = context.output_elements();
  Step step{[=](const StepBuffers& b) -> Status {
              cast(from, b.inputs[0], to, b.outputs[0], count);
              return {};
            },
            0, ""};
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    return DeviceStep{[=](const DeviceBuffers& b) {
                        const kernels::CudaCast args{device_type(from), device_type(to), b.inputs[0], b.outputs[0], count};
                        return b.plugin->cast(&args, b.stream);
                      },
                      0, "cast:cuda"};
  });
}

}  // namespace bitlab::runtime
