// Steps of pooling, and of images in another size.
#include "bitlab/kernels/pool/pool.h"

#include "bitlab/kernels/grid_sample/cuda/grid_sample.h"
#include "bitlab/kernels/grid_sample/grid_sample.h"
#include "bitlab/kernels/pool/cuda/pool.h"
#include "bitlab/kernels/resample/cuda/resample.h"
#include "bitlab/kernels/resample/resample.h"
#include "bitlab/runtime/internal/device_step.h"

namespace bitlab::runtime {
namespace {

using kernels::PoolAxis;
using kernels::PoolShape;
using program::Sizes;

// The shape of a node's windows; `axis(i, input, out)` makes those of one of its sizes.
template <class Shape, class Axis>
Shape image_shape(const StepContext& context, Axis axis) {
  const std::vector<int64_t> x = context.input_shape(0), y = context.output_shape();
  Shape shape{.batch = x[0], .channels = x[1], .axes = {}};
  const size_t sizes = x.size() - 2;
  for (size_t i = 0; i < sizes; ++i) shape.axes[3 - sizes + i] = axis(i, x[i + 2], y[i + 2]);
  return shape;
}

PoolShape sliding(const StepContext& context) {
  const auto &kernel = context.node.attribute<Sizes>("kernel_size"), &stride = context.node.attribute<Sizes>("stride"),
             &padding = context.node.attribute<Sizes>("padding");
  const Sizes dilation =
      context.node.attributes.contains("dilation") ? context.node.attribute<Sizes>("dilation") : Sizes(kernel.size(), 1);
  return image_shape<PoolShape>(context, [&](size_t i, int64_t input, int64_t out) {
    return kernels::sliding_windows(input, kernel[i], stride[i], padding[i], dilation[i], out);
  });
}

PoolShape adaptive(const StepContext& context) {
  return image_shape<PoolShape>(context,
                                [](size_t, int64_t input, int64_t out) { return kernels::adaptive_windows(input, out); });
}

// divisor: null for the largest value.
Result<DeviceStep> device_pool(DeviceWeights& device, const PoolShape& shape, const kernels::PoolDivisor* divisor) {
  kernels::CudaPool args{};
  std::vector<kernels::CudaWindow> windows;
  args.count = shape.batch * shape.channels;
  for (size_t d = 0; d < 3; ++d) {
    const PoolAxis& axis = shape.axes[d];
    args.out[d] = shape.out(d), args.input[d] = axis.input, args.dilation[d] = axis.dilation;
    args.count *= args.out[d];
    for (const kernels::PoolWindow& window : axis.windows) windows.push_back({window.first, window.taps, window.span});
  }
  args.channels = shape.channels, args.is_max = divisor == nullptr;
  if (divisor != nullptr) args.counts_padding = divisor->counts_padding, args.number = divisor->number;
  BITLAB_TRY(const auto kept, device.keep(bytes_of(windows)));
  args.windows = reinterpret_cast<const kernels::CudaWindow*>(kept->data());
  return DeviceStep{[args, kept](const DeviceBuffers& b) {
                      kernels::CudaPool own = args;
                      own.x = b.input(0), own.y = b.output();
                      return b.plugin->pool(&own, b.stream);
                    },
                    0, "pool:cuda"};
}

Result<Step> max_step(const StepContext& context, PoolShape shape) {
  BITLAB_TRY(const kernels::ElementwiseRow* row, elementwise_row(context));
  Step step{[row, shape](const StepBuffers& b) -> Status {
              max_pool(*row, shape, b.input(0), b.output(), *b.pool);
              return {};
            },
            0, label(*row)};
  return with_device(context, std::move(step), [&](DeviceWeights& device) { return device_pool(device, shape, nullptr); });
}

Result<Step> average_step(const StepContext& context, PoolShape shape, kernels::PoolDivisor divisor) {
  BITLAB_TRY(const kernels::ElementwiseRow* row, elementwise_row(context));
  Step step{[row, shape, divisor](const StepBuffers& b) -> Status {
              avg_pool(*row, shape, divisor, b.input(0), b.output(), *b.pool);
              return {};
            },
            0, label(*row)};
  return with_device(context, std::move(step), [&](DeviceWeights& device) { return device_pool(device, shape, &divisor); });
}

}  // namespace

Result<Step> make_max_pool_step(const StepContext& context) { return max_step(context, sliding(context)); }
Result<Step> make_avg_pool_step(const StepContext& context) {
  return average_step(
      context, sliding(context),
      {context.node.attribute<int64_t>("count_include_pad") == 1, context.node.attribute<int64_t>("divisor")});
}
Result<Step> make_adaptive_max_pool_step(const StepContext& context) { return max_step(context, adaptive(context)); }
Result<Step> make_adaptive_avg_pool_step(const StepContext& context) { return average_step(context, adaptive(context), {}); }

namespace {

kernels::ResampleMode resample_mode(const std::string& mode) {
  using Mode = kernels::ResampleMode;
  if (mode == "nearest") return Mode::kNearest;
  if (mode == "nearest_exact") return Mode::kNearestExact;
  if (mode == "linear") return Mode::kLinear;
  if (mode == "linear_antialias") return Mode::kLinearAntialias;
  return mode == "cubic" ? Mode::kCubic : Mode::kCubicAntialias;
}

// What each output reads goes to the device once: places of all dimensions, then their weights.
Result<DeviceStep> device_resample(DeviceWeights& device, const kernels::ResampleShape& shape) {
  kernels::CudaResample args{};
  std::vector<int64_t> places;
  std::vector<float> weights;
  args.count = shape.batch * shape.channels, args.channels = shape.channels;
  for (size_t d = 0; d < 3; ++d) {
    const kernels::ResampleAxis& axis = shape.axes[d];
    args.taps[d] = axis.taps, args.out[d] = axis.out(), args.input[d] = axis.input;
    args.count *= axis.out();
    places.insert(places.end(), axis.places.begin(), axis.places.end());
    weights.insert(weights.end(), axis.weights.begin(), axis.weights.end());
  }
  BITLAB_TRY(const auto kept_places, device.keep(bytes_of(places)));
  BITLAB_TRY(const auto kept_weights, device.keep(bytes_of(weights)));
  const auto* place = reinterpret_cast<const int64_t*>(kept_places->data());
  const auto* weight = reinterpret_cast<const float*>(kept_weights->data());
  for (size_t d = 0; d < 3; ++d) {
    args.places[d] = place, args.weights[d] = weight;
    place += shape.axes[d].places.size(), weight += shape.axes[d].weights.size();
  }
  return DeviceStep{[args, kept_places, kept_weights](const DeviceBuffers& b) {
                      kernels::CudaResample own = args;
                      own.x = b.input(0), own.y = b.output();
                      return b.plugin->resample(&own, b.stream);
                    },
                    0, "resample:cuda"};
}

}  // namespace

Result<Step> make_grid_sample_step(const StepContext& context) {
  const std::vector<int64_t> x = context.input_shape(0), grid = context.input_shape(1);
  const auto& padding = context.node.attribute<std::string>("padding");
  const kernels::GridSample layer{.batch = x[0],
                                  .channels = x[1],
                                  .height = x[2],
                                  .width = x[3],
                                  .places = grid[1] * grid[2],
                                  .is_nearest = context.node.attribute<std::string>("mode") == "nearest",
                                  .align_corners = context.node.attribute<int64_t>("align_corners") == 1,
                                  .padding = padding == "zeros"    ? kernels::GridPadding::kZeros
                                             : padding == "border" ? kernels::GridPadding::kBorder
                                                                   : kernels::GridPadding::kReflection};
  Step step{[layer](const StepBuffers& b) -> Status {
              grid_sample(layer, b.input(0), b.input(1), b.output(), *b.pool);
              return {};
            },
            0, ""};
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    kernels::CudaGridSample args{};
    args.channels = layer.channels, args.height = layer.height, args.width = layer.width, args.places = layer.places;
    args.is_nearest = layer.is_nearest, args.align_corners = layer.align_corners;
    args.moves = layer.padding != kernels::GridPadding::kZeros;
    args.reflects = layer.padding == kernels::GridPadding::kReflection;
    args.count = layer.batch * layer.places;
    return DeviceStep{[args](const DeviceBuffers& b) {
                        kernels::CudaGridSample own = args;
                        own.x = b.input(0), own.grid = b.input(1), own.y = b.output();
                        return b.plugin->grid_sample(&own, b.stream);
                      },
                      0, "grid_sample:cuda"};
  });
}

Result<Step> make_resample_step(const StepContext& context) {
  const auto kind = resample_mode(context.node.attribute<std::string>("mode"));
  const bool align = context.node.attribute<int64_t>("align_corners") == 1;
  auto shape = image_shape<kernels::ResampleShape>(
      context, [&](size_t, int64_t input, int64_t out) { return kernels::resample_axis(kind, align, input, out); });
  Step step{[shape](const StepBuffers& b) -> Status {
              resample(shape, b.input(0), b.output(), *b.pool);
              return {};
            },
            0, ""};
  return with_device(context, std::move(step), [&](DeviceWeights& device) { return device_resample(device, shape); });
}

}  // namespace bitlab::runtime
