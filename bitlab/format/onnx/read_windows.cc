// Readers of pools.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/format/onnx/internal/readers.h"
#include "bitlab/format/onnx/internal/windows.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

constexpr int64_t kMostWindow = 1 << 20;

// Padding that leaves n / stride windows, rounded up; of a transposed one n stride values.
Result<int64_t> same_padding(const Reader& r, const Dim& n, int64_t stride, int64_t extent, bool transposed) {
  if (transposed) return std::max<int64_t>(extent - stride, 0);
  if (n.is_number()) return std::max<int64_t>((ceil_div(n.factor, stride) - 1) * stride + extent - n.factor, 0);
  if (n.factor % stride == 0) return std::max<int64_t>(extent - stride, 0);
  return r.refuse("padding that is the same for every size, got {} in strides of {}", r.show({n}), stride);
}

Status auto_padding(const Reader& r, const std::string& mode, bool transposed, WindowSizes& w) {
  const Shape x = r.shape(0);
  for (size_t i = 0; i < w.kernel.size(); ++i) {
    const int64_t extent = w.dilation[i] * (w.kernel[i] - 1) + 1;
    BITLAB_TRY(const int64_t total, same_padding(r, x[i + 2], w.stride[i], extent + w.output_padding[i], transposed));
    const int64_t less = total / 2;
    w.before[i] = mode == "SAME_UPPER" ? less : total - less;
    w.behind[i] = total - w.before[i];
  }
  return {};
}

// output_shape of a transposed convolution says what padding is.
Status padding_of_output(const Reader& r, const Ints& output, const std::string& mode, WindowSizes& w) {
  const Shape x = r.shape(0);
  if (output.size() < w.kernel.size()) return r.corrupt("sizes of the output, got {}", output.size());
  for (size_t i = 0; i < w.kernel.size(); ++i) {
    if (!x[i + 2].is_number()) return r.refuse("sizes that are numbers, got {}", r.show(x));
    const int64_t full = w.stride[i] * (x[i + 2].factor - 1) + w.output_padding[i] + w.dilation[i] * (w.kernel[i] - 1) + 1;
    const int64_t total = full - output[output.size() - w.kernel.size() + i];
    if (total < 0 || total > kMostWindow) return r.refuse("an output of at most {}, got {}", full, full - total);
    w.before[i] = mode == "SAME_UPPER" ? total / 2 : total - total / 2;
    w.behind[i] = total - w.before[i];
  }
  return {};
}

}  // namespace

Result<WindowSizes> window_sizes(const Reader& r, Ints kernel, bool transposed) {
  const size_t axes = kernel.size();
  if (r.shape(0).size() != axes + 2 || axes > program::kMaxImageRank - 2 || axes < 1)
    return r.refuse("images of 1 to 3 sizes, got {}", r.show(r.shape(0)));
  WindowSizes w{std::move(kernel), Ints(axes, 1), Ints(axes, 1), Ints(axes, 0), Ints(axes, 0), Ints(axes, 0)};
  if (const auto given = r.list("kernel_shape")) w.kernel = *given;
  if (const auto given = r.list("strides")) w.stride = *given;
  if (const auto given = r.list("dilations")) w.dilation = *given;
  if (const auto given = r.list("output_padding")) w.output_padding = *given;
  if (const auto pads = r.list("pads")) {
    if (pads->size() != 2 * axes) return r.corrupt("{} pads, got {}", 2 * axes, pads->size());
    const auto middle = pads->begin() + static_cast<int64_t>(axes);
    w.before.assign(pads->begin(), middle), w.behind.assign(middle, pads->end());
  }
  for (const Ints* list : {&w.kernel, &w.stride, &w.dilation, &w.before, &w.behind, &w.output_padding}) {
    const int64_t least = list == &w.kernel || list == &w.stride || list == &w.dilation ? 1 : 0;
    const bool fits = std::all_of(list->begin(), list->end(), [&](int64_t v) { return v >= least && v <= kMostWindow; });
    if (list->size() != axes || !fits)
      return r.refuse("{} numbers from {} to 2^20 of a window, got {}", axes, least, program::to_string(*list));
  }
  const std::string mode = r.text("auto_pad", "NOTSET");
  if (const auto output = r.list("output_shape"); output && transposed) {
    BITLAB_RETURN_IF_ERROR(padding_of_output(r, *output, mode, w));
  } else if (mode.starts_with("SAME")) {
    BITLAB_RETURN_IF_ERROR(auto_padding(r, mode, transposed, w));
  }
  return w;
}

Result<ValueId> padded_image(Reader& r, ValueId x, const WindowSizes& window, float value) {
  Ints before{0, 0}, behind{0, 0};
  before.insert(before.end(), window.before.begin(), window.before.end());
  behind.insert(behind.end(), window.behind.begin(), window.behind.end());
  return r.padded(x, before, behind, value);
}

// --- pools

namespace {

// Whether the program's pools have this padding: the same on both sides, and at most half a window.
bool is_own_padding(const WindowSizes& w) {
  bool fits = w.before == w.behind;
  for (size_t i = 0; fits && i < w.kernel.size(); ++i) fits = w.before[i] <= (w.dilation[i] * (w.kernel[i] - 1) + 1) / 2;
  return fits;
}

// How many values of an image each window of an average sees, along one axis.
Ints counts_of(const WindowSizes& w, size_t axis, int64_t size, int64_t windows) {
  Ints counts;
  for (int64_t i = 0; i < windows; ++i) {
    const int64_t start = i * w.stride[axis] - w.before[axis];
    int64_t count = 0;
    for (int64_t k = 0; k < w.kernel[axis]; ++k) {
      const int64_t at = start + k * w.dilation[axis];
      count += at >= 0 && at < size ? 1 : 0;
    }
    counts.push_back(std::max<int64_t>(count, 1));
  }
  return counts;
}

// Means over windows as means over what is inside the image.
Result<ValueId> without_padding(Reader& r, ValueId y, const Shape& x, const WindowSizes& w) {
  Term mean(r, y);
  const Shape shape = r.shape_of(y);
  for (size_t i = 0; i < w.kernel.size(); ++i) {
    if (!x[i + 2].is_number()) return r.refuse("sizes that are numbers, got {}", r.show(x));
    const Ints counts = counts_of(w, i, x[i + 2].factor, shape[i + 2].factor);
    Ints sizes(shape.size() - 2, 1);
    sizes[i] = static_cast<int64_t>(counts.size());
    BITLAB_TRY(const Tensor factors, r.folding.of_numbers(ElementType::kFloat, sizes, [&](int64_t k) {
      return static_cast<double>(w.kernel[i]) / static_cast<double>(counts[static_cast<size_t>(k)]);
    }));
    mean = mean * Term(r, r.constant(factors));
  }
  return mean.id();
}

}  // namespace

Result<Operands> read_pool(Reader& r) {
  const bool is_max = r.node().type == "MaxPool";
  const auto kernel = r.list("kernel_shape");
  if (!kernel) return r.corrupt("a kernel_shape, got none");
  BITLAB_TRY(WindowSizes w, window_sizes(r, *kernel, false));
  const int64_t ceil_mode = r.integer("ceil_mode", 0);
  const bool counts = r.integer("count_include_pad", 0) != 0, is_own = is_own_padding(w);
  if (!is_max && w.dilation != Ints(kernel->size(), 1)) return r.refuse("averages without dilation, got some");
  if (!is_own && ceil_mode != 0) return r.refuse("ceil_mode with the same padding on both sides, got another");
  BITLAB_TRY(ValueId x, r.activation(0));
  const Shape image = r.shape_of(x);
  for (size_t i = 0; ceil_mode != 0 && i < kernel->size() && i + 2 < image.size();
       ++i)  // so that no window is cut off at both ends
    r.at_least(image[i + 2], w.dilation[i] * (w.kernel[i] - 1) + 1 - 2 * w.before[i]);
  if (!is_own) {
    BITLAB_TRY(x, padded_image(r, x, w, is_max ? -std::numeric_limits<float>::max() : 0));
  }
  program::Attributes attributes{{"kernel_size", w.kernel},
                                 {"stride", w.stride},
                                 {"padding", is_own ? w.before : Ints(kernel->size(), 0)},
                                 {"ceil_mode", ceil_mode}};
  if (is_max) {
    attributes["dilation"] = w.dilation;
    return single(r.emit(Op::max_pool, {x}, attributes));
  }
  attributes["count_include_pad"] = int64_t{counts ? 1 : 0};
  attributes["divisor"] = int64_t{0};
  BITLAB_TRY(const ValueId y, r.emit(Op::avg_pool, {x}, attributes));
  return single(is_own || counts ? Result<ValueId>(y) : without_padding(r, y, image, w));
}

Result<Operands> read_global_pool(Reader& r) {
  const bool is_max = r.node().type == "GlobalMaxPool";
  const Shape x = r.shape(0);
  if (x.size() < 3) return r.corrupt("an image, got {}", r.show(x));
  BITLAB_TRY(ValueId id, r.activation(0));
  if (x.size() <= program::kMaxImageRank && program::is_fixed({x.begin() + 1, x.end()}))
    return single(
        r.emit(is_max ? Op::adaptive_max_pool : Op::adaptive_avg_pool, {id}, {{"output_size", Shape(x.size() - 2, 1)}}));
  BITLAB_TRY(id, r.reshape(id, {x[0], x[1], program::volume({x.begin() + 2, x.end()})}));
  BITLAB_TRY(id, r.emit(is_max ? Op::max : Op::mean, {id}));
  Shape y(x.size(), 1);
  y[0] = x[0], y[1] = x[1];
  return single(r.reshape(id, y));
}

// (the sum of |x|^p over a window)^(1/p)
Result<Operands> read_lp_pool(Reader& r) {
  const int64_t p = r.integer("p", 2);
  if (p < 1 || p > 8) return r.refuse("p from 1 to 8, got {}", p);
  const auto kernel = r.list("kernel_shape");
  if (!kernel) return r.corrupt("a kernel_shape, got none");
  BITLAB_TRY(const WindowSizes w, window_sizes(r, *kernel, false));
  if (w.dilation != Ints(kernel->size(), 1) || r.integer("ceil_mode", 0) != 0)
    return r.refuse("windows without dilation and without ceil_mode, got others");
  const Term x = computed_input(r, 0).of(Op::abs);
  Term power = x;
  for (int64_t i = 1; i < p; ++i) power = power * x;
  BITLAB_TRY(ValueId id, power.id());
  BITLAB_TRY(id, padded_image(r, id, w, 0));
  BITLAB_TRY(id, r.emit(Op::avg_pool, {id},
                        {{"kernel_size", w.kernel},
                         {"stride", w.stride},
                         {"padding", Ints(kernel->size(), 0)},
                         {"ceil_mode", int64_t{0}},
                         {"count_include_pad", int64_t{1}},
                         {"divisor", int64_t{1}}}));
  const Term sum(r, id);
  if (p == 1) return single(sum);
  if (p == 2) return single(sum.of(Op::sqrt));
  return single((sum.of(Op::log) * (1.0 / static_cast<double>(p))).of(Op::exp));
}

}  // namespace bitlab::format::onnx
