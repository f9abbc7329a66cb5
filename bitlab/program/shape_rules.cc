// One rule an operation: infer_<name>. What a rule accepts, the runtime runs.
#include <array>

#include "bitlab/program/program.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::program {
namespace {

using ShapeRule = Result<Shape> (*)(const Program&, const Node&);

const Shape& shape_of(const Program& p, const Node& node, size_t input) { return p.value(node.inputs[input]).shape; }

template <class... Args>
Error refuse(ErrorCode code, const Node& node, fmt::format_string<Args...> format, Args&&... args) {
  return make_error(code, "[{}] {} (node={})", name(node.op), fmt::vformat(format, fmt::make_format_args(args...)),
                    node.name);
}

Status check_rank(const Node& node, const Shape& shape, size_t least, size_t most) {
  if (shape.size() >= least && shape.size() <= most) return {};
  return refuse(ErrorCode::kShapeMismatch, node, "rank {} to {}, got {}", least, most, to_string(shape));
}

Status check_bias(const Program& p, const Node& node, int64_t rows) {
  if (node.inputs[2] == kNone) return {};
  const Shape& bias = shape_of(p, node, 2);
  if (bias == Shape{{rows, false}}) return {};
  return refuse(ErrorCode::kShapeMismatch, node, "bias of shape [{}], got {}", rows, to_string(bias));
}

// `float_activations`: whether activations may stay float.
Status check_activation(const Program& p, const Node& node, bool float_activations) {
  const Result<ternary::ActKind> kind = ternary::parse_act_kind(node.attribute<std::string>("activation"));
  if (!kind.ok()) return refuse(ErrorCode::kUnsupported, node, "{}", kind.error().message);
  if (*kind == ternary::ActKind::kNone && !float_activations)
    return refuse(ErrorCode::kUnsupported, node, "int8 or int4 activations of a convolution, got none");
  const bool scaled = node.inputs[3] != kNone;
  if (scaled != is_static(*kind))
    return refuse(ErrorCode::kCorrupt, node, "act_scale for static activations alone, got {} for {}",
                  scaled ? "one" : "none", name(*kind));
  if (scaled && shape_of(p, node, 3) != Shape{{1, false}})
    return refuse(ErrorCode::kShapeMismatch, node, "act_scale of shape [1], got {}", to_string(shape_of(p, node, 3)));
  return {};
}

Result<Shape> linear_shape(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const Shape& weight = shape_of(p, node, 1);
  BITLAB_RETURN_IF_ERROR(check_rank(node, x, 2, 3));
  BITLAB_RETURN_IF_ERROR(check_rank(node, weight, 2, 2));
  if (x.back() != weight[1])
    return refuse(ErrorCode::kShapeMismatch, node, "x of depth {}, got {}", to_string(weight[1]), to_string(x));
  BITLAB_RETURN_IF_ERROR(check_bias(p, node, weight[0].size));
  Shape y = x;
  y.back() = weight[0];
  return y;
}

struct Window {
  Pair kernel, stride, padding, dilation;
};

// Height (0) or width (1) of what a window operation makes of `size`.
Result<int64_t> window_size(const Node& node, const Window& w, size_t axis, int64_t size) {
  constexpr int64_t kMost = 1 << 20;
  const int64_t kernel = w.kernel[axis], stride = w.stride[axis], padding = w.padding[axis], dilation = w.dilation[axis];
  const auto in_range = [](int64_t v, int64_t least) { return v >= least && v <= kMost; };
  if (!in_range(kernel, 1) || !in_range(stride, 1) || !in_range(padding, 0) || !in_range(dilation, 1) || size > kMost)
    return refuse(ErrorCode::kInvalidArgument, node,
                  "kernel, stride, dilation from 1 and padding from 0 to 2^20, got {}, {}, {}, {} for size {}", kernel,
                  stride, dilation, padding, size);
  const int64_t extent = dilation * (kernel - 1) + 1;
  if (padding >= extent)
    return refuse(ErrorCode::kInvalidArgument, node, "padding below the window's extent {}, got {}", extent, padding);
  if (size + 2 * padding < extent)
    return refuse(ErrorCode::kShapeMismatch, node, "an image of at least {} with padding, got {}", extent,
                  size + 2 * padding);
  return (size + 2 * padding - extent) / stride + 1;
}

Result<Shape> window_shape(const Node& node, const Shape& x, const Window& window, Dim channels) {
  if (x[2].symbolic || x[3].symbolic || x[1].symbolic)
    return refuse(ErrorCode::kUnsupported, node, "a batch in the first dimension only, got {}", to_string(x));
  BITLAB_TRY(const int64_t height, window_size(node, window, 0, x[2].size));
  BITLAB_TRY(const int64_t width, window_size(node, window, 1, x[3].size));
  Shape y{x[0], channels, {height, false}, {width, false}};
  if (!is_valid(y)) return refuse(ErrorCode::kUnsupported, node, "an output of at most 2^40 values, got {}", to_string(y));
  return y;
}

Result<Shape> conv_shape(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const Shape& weight = shape_of(p, node, 1);
  BITLAB_RETURN_IF_ERROR(check_rank(node, x, 4, 4));
  BITLAB_RETURN_IF_ERROR(check_rank(node, weight, 4, 4));
  if (x[1] != weight[3])
    return refuse(ErrorCode::kShapeMismatch, node, "{} channels, got {}", to_string(weight[3]), to_string(x));
  BITLAB_RETURN_IF_ERROR(check_bias(p, node, weight[0].size));
  const Window window{{weight[1].size, weight[2].size},
                      node.attribute<Pair>("stride"),
                      node.attribute<Pair>("padding"),
                      node.attribute<Pair>("dilation")};
  return window_shape(node, x, window, weight[0]);
}

Result<Shape> pool_shape(const Program& p, const Node& node, Pair dilation) {
  const Shape& x = shape_of(p, node, 0);
  BITLAB_RETURN_IF_ERROR(check_rank(node, x, 4, 4));
  const Window window{node.attribute<Pair>("kernel_size"), node.attribute<Pair>("stride"), node.attribute<Pair>("padding"),
                      dilation};
  return window_shape(node, x, window, x[1]);
}

Result<Shape> infer_ternary_linear(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_activation(p, node, true));
  return linear_shape(p, node);
}

Result<Shape> infer_ternary_conv2d(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_activation(p, node, false));
  return conv_shape(p, node);
}

Result<Shape> infer_linear(const Program& p, const Node& node) { return linear_shape(p, node); }
Result<Shape> infer_conv2d(const Program& p, const Node& node) { return conv_shape(p, node); }
Result<Shape> infer_max_pool2d(const Program& p, const Node& node) {
  return pool_shape(p, node, node.attribute<Pair>("dilation"));
}
Result<Shape> infer_avg_pool2d(const Program& p, const Node& node) { return pool_shape(p, node, {1, 1}); }
Result<Shape> infer_relu(const Program& p, const Node& node) { return shape_of(p, node, 0); }

Result<Shape> infer_add(const Program& p, const Node& node) {
  const Shape &a = shape_of(p, node, 0), &b = shape_of(p, node, 1);
  if (a != b) return refuse(ErrorCode::kShapeMismatch, node, "equal shapes, got {} and {}", to_string(a), to_string(b));
  return a;
}

Result<Shape> infer_flatten(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const auto rank = static_cast<int64_t>(x.size());
  const int64_t first = node.attribute<int64_t>("start_dim"), last = node.attribute<int64_t>("end_dim");
  if (first < 0 || first >= last || last >= rank)
    return refuse(ErrorCode::kInvalidArgument, node, "0 <= start_dim < end_dim < {}, got {} and {}", rank, first, last);
  Dim joined{1, false};
  for (int64_t i = first; i <= last; ++i) {
    const Dim& dim = x[static_cast<size_t>(i)];
    if (dim.symbolic && joined.symbolic)
      return refuse(ErrorCode::kUnsupported, node, "one batch dimension, got {}", to_string(x));
    joined = {joined.size * dim.size, joined.symbolic || dim.symbolic};
  }
  Shape y(x.begin(), x.begin() + first);
  y.push_back(joined);
  y.insert(y.end(), x.begin() + last + 1, x.end());
  return y;
}

Result<Shape> infer_softmax(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  BITLAB_RETURN_IF_ERROR(check_rank(node, x, 1, 3));
  if (node.attribute<int64_t>("dim") != static_cast<int64_t>(x.size()) - 1)
    return refuse(ErrorCode::kUnsupported, node, "the last dimension of {}, got {}", to_string(x),
                  node.attribute<int64_t>("dim"));
  return x;
}

constexpr std::array<ShapeRule, 10> kRules{
#define BITLAB_OP(name, exactness, inputs, attributes) infer_##name,
#include "bitlab/program/ops.def"
#undef BITLAB_OP
};

}  // namespace

Result<Shape> infer_shape(const Program& program, const Node& node) {
  return kRules.at(static_cast<size_t>(node.op))(program, node);
}

}  // namespace bitlab::program
