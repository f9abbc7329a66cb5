// Steps that reduce rows: softmax, norms, sums, extremes.
#include "bitlab/kernels/reduction/reduction.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "bitlab/kernels/internal/cuda_plugin.h"
#include "bitlab/kernels/reduction/cuda/reduction.h"
#include "bitlab/runtime/internal/device_step.h"

namespace bitlab::runtime {
namespace {

// What a norm's constants are on a device.
Result<kernels::ReductionArgs> on_device(const kernels::ReductionArgs& layer, DeviceWeights& device) {
  kernels::ReductionArgs own = layer;
  for (const float** constant : {&own.weight, &own.bias}) {
    BITLAB_TRY(const uint8_t* copy, device.copy_of(*constant, layer.columns * int64_t{sizeof(float)}));
    *constant = reinterpret_cast<const float*>(copy);
  }
  return own;
}

// `layer` says what, of rows of `columns` values.
Result<Step> reduction_step(const StepContext& context, kernels::ReductionArgs layer, int64_t columns) {
  const LoadOptions& options = context.model.options();
  BITLAB_TRY(const kernels::ReductionRow* row, select(kernels::reduction_kernels(), options.machine, options.policy));
  layer.columns = columns;
  const int64_t rows = elements(context.input(0).shape, context.sizes) / columns;
  Step step{[=](const StepBuffers& b) -> Status {
              kernels::ReductionArgs args = layer;
              args.x = b.input(0);
              args.y = b.output();
              reduction(*row, args, rows, *b.pool);
              return {};
            },
            0, fmt::format("reduction:{}", row->name)};
  return with_device(context, std::move(step), [&](DeviceWeights& device) -> Result<DeviceStep> {
    BITLAB_TRY(const kernels::ReductionArgs own, on_device(layer, device));
    return DeviceStep{[own, rows](const DeviceBuffers& b) {
                        kernels::ReductionArgs args = own;
                        args.x = b.input(0);
                        args.y = b.output();
                        return b.plugin->reduction(&args, rows, b.stream);
                      },
                      0, "reduction:cuda"};
  });
}

Result<Step> norm_step(const StepContext& context, kernels::Reduction op, const float* bias) {
  const std::vector<int64_t> x = context.input_shape(0);
  int64_t columns = 1;
  for (int64_t i = 0; i < context.node.attribute<int64_t>("dims"); ++i) columns *= x[x.size() - 1 - static_cast<size_t>(i)];
  return reduction_step(context,
                        {.op = op,
                         .weight = context.floats(1),
                         .bias = bias,
                         .eps = static_cast<float>(context.node.attribute<double>("eps"))},
                        columns);
}

// The step, and on a device what is computed of its rows by one function, an element after another.
Result<Step> with_device_rows(const StepContext& context, Step step, kernels::CudaRow op) {
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    const int64_t columns = context.input_shape(0).back();
    kernels::CudaRows args{};
    args.op = op, args.is_float = context.input(0).dtype == program::DType::kFloat32;
    args.columns = columns, args.rows = elements(context.input(0).shape, context.sizes) / columns;
    const bool has_places = context.node.outputs.size() > 1;
    return DeviceStep{[=](const DeviceBuffers& b) {
                        kernels::CudaRows own = args;
                        own.x = b.inputs[0], own.y = b.outputs[0];
                        if (has_places) own.places = b.output<int64_t>(1);
                        return b.plugin->rows(&own, b.stream);
                      },
                      0, "reduction:cuda"};
  });
}

// y[row] = f(x + row columns, columns), for rows of the last dimension.
template <class X, class Y, class Function>
Step row_step(const StepContext& context, Function f) {
  const int64_t columns = context.input_shape(0).back(), rows = context.output_elements();
  return Step{[=](const StepBuffers& b) -> Status {
                b.pool->run(rows, [&](int64_t row, int) {
                  b.output<Y>()[row] = static_cast<Y>(f(b.input<X>(0) + row * columns, columns));
                });
                return {};
              },
              0, ""};
}

// A reduction of float32 by a kernel, or one of int64 by f, which is `of_integers` on a device.
template <class Function>
Result<Step> reduced(const StepContext& context, kernels::Reduction op, kernels::CudaRow of_integers, Function f) {
  if (context.input(0).dtype == program::DType::kInt64)
    return with_device_rows(context, row_step<int64_t, int64_t>(context, f), of_integers);
  return reduction_step(context, {.op = op}, context.input_shape(0).back());
}

// y[i] = x[0] f ... f x[i], in a wide type.
template <class Wide, class T, class Function>
void scan(const T* x, int64_t count, T* y, Wide value, Function f) {
  for (int64_t i = 0; i < count; ++i) y[i] = static_cast<T>(value = f(value, static_cast<Wide>(x[i])));
}

template <class Function>
Step scan_step(const StepContext& context, int first, Function f) {
  const int64_t columns = context.input_shape(0).back(), rows = context.output_elements() / columns;
  const bool is_float = context.input(0).dtype == program::DType::kFloat32;
  return Step{[=](const StepBuffers& b) -> Status {
                b.pool->run(rows, [&](int64_t row, int) {
                  const int64_t at = row * columns;
                  if (is_float) {
                    scan<double>(b.input(0) + at, columns, b.output() + at, first, f);
                  } else {
                    scan<uint64_t>(b.input<int64_t>(0) + at, columns, b.output<int64_t>() + at, static_cast<uint64_t>(first),
                                   f);
                  }
                });
                return {};
              },
              0, ""};
}

}  // namespace

Result<Step> make_softmax_step(const StepContext& context) {
  return reduction_step(context, {.op = kernels::Reduction::kSoftmax}, context.input_shape(0).back());
}

Result<Step> make_mean_step(const StepContext& context) {
  return reduction_step(context, {.op = kernels::Reduction::kMean}, context.input_shape(0).back());
}

Result<Step> make_sum_step(const StepContext& context) {
  return reduced(context, kernels::Reduction::kSum, kernels::CudaRow::kSum, [](const auto* x, int64_t n) {
    return std::accumulate(x, x + n, uint64_t{0}, [](uint64_t sum, int64_t v) { return sum + static_cast<uint64_t>(v); });
  });
}
Result<Step> make_prod_step(const StepContext& context) {
  const auto product = [](const auto* x, int64_t n, auto one) {
    return std::accumulate(x, x + n, one, std::multiplies<>());
  };
  const bool is_float = context.input(0).dtype != program::DType::kInt64;
  Step step =
      is_float ? row_step<float, float>(context, [=](const auto* x, int64_t n) { return product(x, n, 1.0); })
               : row_step<uint64_t, uint64_t>(context, [=](const auto* x, int64_t n) { return product(x, n, uint64_t{1}); });
  return with_device_rows(context, std::move(step), kernels::CudaRow::kProduct);
}
Result<Step> make_max_step(const StepContext& context) {
  return reduced(context, kernels::Reduction::kMax, kernels::CudaRow::kMax,
                 [](const auto* x, int64_t n) { return *std::max_element(x, x + n); });
}
Result<Step> make_min_step(const StepContext& context) {
  return reduced(context, kernels::Reduction::kMin, kernels::CudaRow::kMin,
                 [](const auto* x, int64_t n) { return *std::min_element(x, x + n); });
}

Result<Step> make_argmax_step(const StepContext& context) {
  const auto place = [](const auto* x, int64_t n) {
    int64_t most = 0;
    for (int64_t i = 1; i < n && x[most] == x[most]; ++i)
      if (x[i] > x[most] || x[i] != x[i]) most = i;
    return most;
  };
  const bool is_float = context.input(0).dtype != program::DType::kInt64;
  Step step = is_float ? row_step<float, int64_t>(context, place) : row_step<int64_t, int64_t>(context, place);
  const int64_t columns = context.input_shape(0).back(), rows = context.output_elements();
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    return DeviceStep{[=](const DeviceBuffers& b) {
                        return b.plugin->argmax(b.inputs[0], is_float ? 1 : 0, rows, columns, b.output<int64_t>(), b.stream);
                      },
                      0, "reduction:cuda"};
  });
}

Result<Step> make_cumsum_step(const StepContext& context) {
  return with_device_rows(context, scan_step(context, 0, std::plus<>()), kernels::CudaRow::kSums);
}
Result<Step> make_cumprod_step(const StepContext& context) {
  return with_device_rows(context, scan_step(context, 1, std::multiplies<>()), kernels::CudaRow::kProducts);
}

namespace {

template <class T>
Step cummax_step(const StepContext& context) {
  const int64_t columns = context.input_shape(0).back(), rows = context.output_elements() / columns;
  return Step{[=](const StepBuffers& b) -> Status {
                b.pool->run(rows, [&](int64_t row, int) {
                  const T* x = b.input<T>(0) + row * columns;
                  int64_t most = 0;
                  for (int64_t i = 0; i < columns; ++i) {
                    if (x[i] >= x[most] || x[i] != x[i]) most = i;
                    b.output<T>()[row * columns + i] = x[most];
                    b.output<int64_t>(1)[row * columns + i] = most;
                  }
                });
                return {};
              },
              0, ""};
}

}  // namespace

Result<Step> make_cummax_step(const StepContext& context) {
  const bool is_float = context.input(0).dtype != program::DType::kInt64;
  return with_device_rows(context, is_float ? cummax_step<float>(context) : cummax_step<int64_t>(context),
                          kernels::CudaRow::kMaxima);
}

namespace {

template <class T>
Step sort_step(const StepContext& context, bool descending) {
  const int64_t columns = context.input_shape(0).back(), length = context.output_shape().back();
  const int64_t rows = context.output_elements() / length, stride = round_up(columns, kAlignment);
  return Step{[=](const StepBuffers& b) -> Status {
                b.pool->run(rows, [&](int64_t row, int thread) {
                  const T* x = b.input<T>(0) + row * columns;
                  int64_t* places = reinterpret_cast<int64_t*>(b.scratch) + thread * stride;
                  std::iota(places, places + columns, int64_t{0});
                  // An order without equals, so that every way of sorting gives the same.
                  std::partial_sort(places, places + length, places + columns, [=](int64_t i, int64_t j) {
                    const T a = descending ? x[j] : x[i], c = descending ? x[i] : x[j];
                    if (a < c || (a == a && c != c)) return true;
                    return !(c < a || (c == c && a != a)) && i < j;
                  });
                  std::copy_n(places, length, b.output<int64_t>(1) + row * length);
                  std::transform(places, places + length, b.output<T>() + row * length, [=](int64_t i) { return x[i]; });
                });
                return {};
              },
              context.threads* stride* int64_t{sizeof(int64_t)}, ""};
}

}  // namespace

Result<Step> make_sort_step(const StepContext& context) {
  const bool descending = context.node.attribute<int64_t>("descending") == 1;
  const bool is_float = context.input(0).dtype != program::DType::kInt64;
  Step step = is_float ? sort_step<float>(context, descending) : sort_step<int64_t>(context, descending);
  return with_device(context, std::move(step), [&](DeviceWeights&) -> Result<DeviceStep> {
    kernels::CudaSort args{};
    args.is_float = is_float, args.descending = descending;
    args.columns = context.input_shape(0).back(), args.length = context.output_shape().back();
    args.rows = context.output_elements() / args.length;
    return DeviceStep{[args](const DeviceBuffers& b) {
                        kernels::CudaSort own = args;
                        own.x = b.inputs[0], own.y = b.outputs[0], own.places = b.output<int64_t>(1);
                        own.scratch = reinterpret_cast<int64_t*>(b.scratch);
                        return b.plugin->sort(&own, b.stream);
                      },
                      args.rows * kernels::cuda_sort_stride(args.columns) * int64_t{sizeof(int64_t)}, "sort:cuda"};
  });
}

Result<Step> make_layer_norm_step(const StepContext& context) {
  return norm_step(context, kernels::Reduction::kLayerNorm, context.floats(2));
}

Result<Step> make_rms_norm_step(const StepContext& context) {
  return norm_step(context, kernels::Reduction::kRmsNorm, nullptr);
}

}  // namespace bitlab::runtime
