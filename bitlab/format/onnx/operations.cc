// Operations that compute: element by element, reductions, norms, pools, resampling.
#include "bitlab/format/onnx/internal/operations.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Node;
using program::Shape;
using program::Sizes;

Result<Names> write_gelu(Writer& w, const Node& node) { return Names{w.g.node("Gelu", {w.in(node, 0)})}; }

Result<Names> write_gelu_tanh(Writer& w, const Node& node) {
  return Names{w.g.node("Gelu", {w.in(node, 0)}, {{"approximate", std::string("tanh")}})};
}

Result<Names> write_silu(Writer& w, const Node& node) {
  const std::string x = w.in(node, 0);
  return Names{w.g.node("Mul", {x, w.g.node("Sigmoid", {x})})};
}

// e^x - 1 = tanh(x / 2) (e^x + 1), which cancels nothing near 0.
Result<Names> write_expm1(Writer& w, const Node& node) {
  const std::string x = w.in(node, 0);
  const std::string half = w.g.node("Tanh", {w.g.node("Mul", {x, w.g.number(0.5F)})});
  return Names{w.g.node("Mul", {half, w.g.node("Add", {w.g.node("Exp", {x}), w.g.number(1)})})};
}

// log(1 + x) = 2 atanh(x / (x + 2)), which is exact near 0 and not far from it.
Result<Names> write_log1p(Writer& w, const Node& node) {
  const std::string x = w.in(node, 0);
  const std::string ratio = w.g.node("Div", {x, w.g.node("Add", {x, w.g.number(2)})});
  const std::string near = w.g.node("Mul", {w.g.node("Atanh", {ratio}), w.g.number(2)});
  const std::string far = w.g.node("Log", {w.g.node("Add", {x, w.g.number(1)})});
  const std::string is_near = w.g.node("Less", {w.g.node("Abs", {x}), w.g.number(0.5F)});
  return Names{w.g.node("Where", {is_near, near, far})};
}

Result<Names> write_rsqrt(Writer& w, const Node& node) {
  return Names{w.g.node("Reciprocal", {w.g.node("Sqrt", {w.in(node, 0)})})};
}

Result<Names> write_minimum(Writer& w, const Node& node) {
  const bool is_bool = w.value(node, 0).dtype == DType::kBool;
  return Names{w.g.node(is_bool ? "And" : "Min", {w.in(node, 0), w.in(node, 1)})};
}

Result<Names> write_maximum(Writer& w, const Node& node) {
  const bool is_bool = w.value(node, 0).dtype == DType::kBool;
  return Names{w.g.node(is_bool ? "Or" : "Max", {w.in(node, 0), w.in(node, 1)})};
}

Result<Names> write_not_equal(Writer& w, const Node& node) {
  return Names{w.g.node("Not", {w.g.node("Equal", {w.in(node, 0), w.in(node, 1)})})};
}

namespace {

// ONNX compares numbers alone.
Names compared(Writer& w, const Node& node, std::string_view type) {
  Names operands{w.in(node, 0), w.in(node, 1)};
  if (w.value(node, 0).dtype == DType::kBool)
    for (std::string& operand : operands)
      operand = w.g.node("Cast", {operand}, {{"to", static_cast<int64_t>(ElementType::kInt32)}});
  return {w.g.node(type, operands)};
}

// Over the last dimension, which the result lacks.
Names reduced(Writer& w, const Node& node, std::string_view type) {
  return {w.g.node(type, {w.in(node, 0), w.g.ints({-1})}, {{"keepdims", int64_t{0}}})};
}

}  // namespace

Result<Names> write_less(Writer& w, const Node& node) { return compared(w, node, "Less"); }
Result<Names> write_less_equal(Writer& w, const Node& node) { return compared(w, node, "LessOrEqual"); }

// Div of integers rounds to zero: what is left over, with the divisor's sign, is taken off first.
Result<Names> write_floor_divide(Writer& w, const Node& node) {
  const std::string a = w.in(node, 0), b = w.in(node, 1);
  return Names{w.g.node("Div", {w.g.node("Sub", {a, w.g.node("Mod", {a, b})}), b})};
}

Result<Names> write_mean(Writer& w, const Node& node) { return reduced(w, node, "ReduceMean"); }
Result<Names> write_sum(Writer& w, const Node& node) { return reduced(w, node, "ReduceSum"); }
Result<Names> write_prod(Writer& w, const Node& node) { return reduced(w, node, "ReduceProd"); }
Result<Names> write_max(Writer& w, const Node& node) { return reduced(w, node, "ReduceMax"); }
Result<Names> write_min(Writer& w, const Node& node) { return reduced(w, node, "ReduceMin"); }

Result<Names> write_argmax(Writer& w, const Node& node) {
  return Names{w.g.node("ArgMax", {w.in(node, 0)}, {{"axis", int64_t{-1}}, {"keepdims", int64_t{0}}})};
}

Result<Names> write_cumsum(Writer& w, const Node& node) {
  return Names{w.g.node("CumSum", {w.in(node, 0), w.g.integer(-1)})};
}

Result<Names> write_sort(Writer& w, const Node& node) {
  return w.g.nodes("TopK", {w.in(node, 0), w.size(node.attribute<Shape>("length")[0])}, 2,
                   {{"axis", int64_t{-1}}, {"largest", node.attribute<int64_t>("descending")}, {"sorted", int64_t{1}}});
}

Result<Names> write_softmax(Writer& w, const Node& node) {
  return Names{w.g.node("Softmax", {w.in(node, 0)}, {{"axis", node.attribute<int64_t>("dim")}})};
}

Result<Names> write_layer_norm(Writer& w, const Node& node) {
  const int64_t dims = node.attribute<int64_t>("dims");
  const Shape& x = w.shape(node, 0);
  const Ints normalized = program::shape_at({x.end() - dims, x.end()}, program::kOnes);
  const int64_t count = std::accumulate(normalized.begin(), normalized.end(), int64_t{1}, std::multiplies<>());
  Names inputs{w.in(node, 0), w.has(node, 1)
                                  ? w.in(node, 1)
                                  : w.g.floats("ones", normalized, std::vector<float>(static_cast<size_t>(count), 1))};
  if (w.has(node, 2)) inputs.push_back(w.in(node, 2));
  return Names{w.g.node("LayerNormalization", inputs,
                        {{"axis", -dims}, {"epsilon", static_cast<float>(node.attribute<double>("eps"))}})};
}

Result<Names> write_rms_norm(Writer& w, const Node& node) {
  Ints axes(static_cast<size_t>(node.attribute<int64_t>("dims")));
  std::iota(axes.begin(), axes.end(), -static_cast<int64_t>(axes.size()));
  const std::string x = w.in(node, 0);
  const std::string mean = w.g.node("ReduceMean", {w.g.node("Mul", {x, x}), w.g.ints(axes)});
  const std::string root =
      w.g.node("Sqrt", {w.g.node("Add", {mean, w.g.number(static_cast<float>(node.attribute<double>("eps")))})});
  const std::string y = w.g.node("Div", {x, root});
  return Names{w.has(node, 1) ? w.g.node("Mul", {y, w.in(node, 1)}) : y};
}

// x scale[c] + shift[c].
Result<Names> write_batch_norm(Writer& w, const Node& node) {
  Ints sizes(w.shape(node, 0).size() - 1, 1);
  sizes[0] = w.shape(node, 1)[0].factor;
  const std::string scaled = w.g.node("Mul", {w.in(node, 0), w.constant(node.inputs[1], sizes)});
  return Names{w.g.node("Add", {scaled, w.constant(node.inputs[2], sizes)})};
}

namespace {

// Padding in front and behind. Windows of ceil_mode that reach beyond it get the rows that they lack.
struct PoolPads {
  Ints pads;
  bool is_beyond = false;
};

Result<PoolPads> pool_pads(Writer& w, const Node& node, const Sizes& dilation) {
  const auto &kernel = node.attribute<Sizes>("kernel_size"), &stride = node.attribute<Sizes>("stride"),
             &padding = node.attribute<Sizes>("padding");
  const Shape &x = w.shape(node, 0), &y = w.p.value(node.output()).shape;
  PoolPads result{padding};
  for (size_t axis = 0; axis < kernel.size(); ++axis) {
    int64_t extra = 0;
    if (node.attribute<int64_t>("ceil_mode") == 1) {
      if (!x[axis + 2].is_number()) return w.refuse(node, "ceil_mode over sizes that are numbers");
      const int64_t reach = (y[axis + 2].factor - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1;
      extra = std::max<int64_t>(reach - x[axis + 2].factor - 2 * padding[axis], 0);
    }
    result.is_beyond |= extra > 0;
    result.pads.push_back(padding[axis] + extra);
  }
  return result;
}

// Output i of m along an axis of n values is of those from floor(i n / m) to ceil((i + 1) n / m): a part, reduced. Axis by axis, since the mean of means over
// equal parts of another axis is the mean of all.
Result<Names> adaptive_pool(Writer& w, const Node& node, std::string_view type) {
  std::string y = w.in(node, 0);
  const auto& output = node.attribute<Shape>("output_size");
  for (size_t k = 0; k < output.size(); ++k) {
    const auto axis = static_cast<int64_t>(k) + 2;
    const Dim& n = w.shape(node, 0)[k + 2];
    if (output[k] == n) continue;
    if (!output[k].is_number()) return w.refuse(node, "a number of windows");
    const int64_t m = output[k].factor;
    Names parts;
    for (int64_t i = 0; i < m; ++i) {
      const std::optional<Dim> begin = i == 0 ? Dim(0) : program::quotient(n * Dim(i), 0, m);
      const std::optional<Dim> end = program::quotient(n * Dim(i + 1), m - 1, m);
      if (!begin || !end) return w.refuse(node, "windows that begin and end at sizes");
      const std::string part = w.g.node("Slice", {y, w.size(*begin), w.size(*end), w.g.ints({axis})});
      parts.push_back(w.g.node(type, {part, w.g.ints({axis})}));
    }
    y = w.g.node("Concat", parts, {{"axis", axis}});
  }
  return Names{y};
}

}  // namespace

Result<Names> write_max_pool(Writer& w, const Node& node) {
  const auto& dilation = node.attribute<Sizes>("dilation");
  BITLAB_TRY(const PoolPads pads, pool_pads(w, node, dilation));
  return Names{w.g.node("MaxPool", {w.in(node, 0)},
                        {{"kernel_shape", node.attribute<Sizes>("kernel_size")},
                         {"strides", node.attribute<Sizes>("stride")},
                         {"pads", pads.pads},
                         {"dilations", dilation}})};
}

Result<Names> write_avg_pool(Writer& w, const Node& node) {
  const auto& kernel = node.attribute<Sizes>("kernel_size");
  const int64_t divisor = node.attribute<int64_t>("divisor");
  const bool counts = divisor != 0 || node.attribute<int64_t>("count_include_pad") == 1;
  BITLAB_TRY(const PoolPads pads, pool_pads(w, node, Sizes(kernel.size(), 1)));
  // With a divisor padding counts as a value of 0, as in ONNX; without, what lies beyond it does not.
  if (pads.is_beyond && counts && divisor == 0) return w.refuse(node, "windows inside the padding that they count");
  const std::string mean = w.g.node("AveragePool", {w.in(node, 0)},
                                    {{"kernel_shape", kernel},
                                     {"strides", node.attribute<Sizes>("stride")},
                                     {"pads", pads.pads},
                                     {"count_include_pad", int64_t{counts ? 1 : 0}}});
  if (divisor == 0) return Names{mean};
  const int64_t window = std::accumulate(kernel.begin(), kernel.end(), int64_t{1}, std::multiplies<>());
  return Names{w.g.node("Mul", {mean, w.g.number(static_cast<float>(window) / static_cast<float>(divisor))})};
}

Result<Names> write_adaptive_max_pool(Writer& w, const Node& node) { return adaptive_pool(w, node, "ReduceMax"); }

Result<Names> write_adaptive_avg_pool(Writer& w, const Node& node) { return adaptive_pool(w, node, "ReduceMean"); }

Result<Names> write_resample(Writer& w, const Node& node) {
  const auto& mode = node.attribute<std::string>("mode");
  const bool aligned = node.attribute<int64_t>("align_corners") == 1, antialiased = mode.ends_with("antialias");
  Attributes attributes;
  if (mode.starts_with("nearest")) {
    attributes = {{"mode", std::string("nearest")},
                  {"coordinate_transformation_mode", std::string(mode == "nearest" ? "asymmetric" : "half_pixel")},
                  {"nearest_mode", std::string(mode == "nearest" ? "floor" : "round_prefer_ceil")}};
  } else {
    attributes = {{"mode", mode.substr(0, mode.find('_'))},
                  {"coordinate_transformation_mode", std::string(aligned ? "align_corners" : "half_pixel")},
                  {"cubic_coeff_a", antialiased ? -0.5F : -0.75F},
                  {"antialias", int64_t{antialiased ? 1 : 0}},
                  {"exclude_outside", int64_t{antialiased ? 1 : 0}}};  // windows end at the image's border
  }
  Shape sizes = w.shape(node, 0);
  const auto& output = node.attribute<Shape>("output_size");
  std::copy(output.begin(), output.end(), sizes.begin() + 2);
  return Names{w.g.node("Resize", {w.in(node, 0), "", "", w.sizes(sizes)}, attributes)};
}

Result<Names> write_grid_sample(Writer& w, const Node& node) {
  return Names{w.g.node("GridSample", {w.in(node, 0), w.in(node, 1)},
                        {{"mode", node.attribute<std::string>("mode")},
                         {"padding_mode", node.attribute<std::string>("padding")},
                         {"align_corners", node.attribute<int64_t>("align_corners")}})};
}

}  // namespace bitlab::format::onnx
