// Shape rules of operations with weights, and of windows.
#include <algorithm>
#include <array>

#include "bitlab/program/internal/shape_rules.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::program {
namespace {

// Layers have the same inputs in the same places.
constexpr size_t kX = input_of(Op::ternary_linear, "x"), kWeight = input_of(Op::ternary_linear, "weight"),
                 kBias = input_of(Op::ternary_linear, "bias"), kActScale = input_of(Op::ternary_linear, "act_scale");
static_assert(kX == input_of(Op::ternary_conv, "x") && kX == input_of(Op::linear, "x") && kX == input_of(Op::conv, "x"));
static_assert(kWeight == input_of(Op::ternary_conv, "weight") && kWeight == input_of(Op::linear, "weight") &&
              kWeight == input_of(Op::conv, "weight") && kWeight == input_of(Op::ternary_embedding, "weight") &&
              kWeight == input_of(Op::embedding, "weight"));
static_assert(kBias == input_of(Op::ternary_conv, "bias") && kBias == input_of(Op::linear, "bias") &&
              kBias == input_of(Op::conv, "bias"));
static_assert(kActScale == input_of(Op::ternary_conv, "act_scale"));
static_assert(kX == input_of(Op::ternary_recurrent, "x") && kWeight == input_of(Op::ternary_recurrent, "weight") &&
              kBias == input_of(Op::ternary_recurrent, "bias") && kActScale == input_of(Op::ternary_recurrent, "act_scale"));

// Activations of a product of integer weights; ternary ones take them as floats, too.
Status check_activation(const Program& p, const Node& node) {
  const Result<ternary::ActKind> kind = ternary::parse_act_kind(node.attribute<std::string>("activation"));
  if (!kind.ok()) return refuse(ErrorCode::kUnsupported, node, "{}", kind.error().message);
  if (*kind == ternary::ActKind::kNone && p.value(node.inputs[kWeight]).storage == Storage::kInt8)
    return refuse(ErrorCode::kUnsupported, node, "int8 or int4 activations of weights in int8, got none");
  if (const auto problem = ternary::act_scale_problem(*kind, node.inputs[kActScale] != kNone))
    return refuse(ErrorCode::kCorrupt, node, "{}", *problem);
  return check_constant(p, node, kActScale, {1});
}

Result<Shape> linear_shape(const Program& p, const Node& node) {
  const Shape &x = shape_of(p, node, kX), &weight = shape_of(p, node, kWeight);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 2));
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, weight, 2, 2));
  if (x.back() != weight[1])
    return refuse(ErrorCode::kShapeMismatch, node, "x of depth {}, got {}", p.show(weight[1]), p.show(x));
  BITLAB_RETURN_IF_ERROR(check_constant(p, node, kBias, {weight[0]}));
  Shape y = x;
  y.back() = weight[0];
  return y;
}

struct Window {
  Sizes kernel, stride, padding, dilation, output_padding;
  bool transposed = false, ceil_mode = false;
};

// Window operations multiply these and add up a few products: none overflows.
constexpr int64_t kMostWindow = 1 << 20;

// Numbers along one axis that a window can have.
Status check_window(const Node& node, const Window& w, size_t axis, int64_t size) {
  const int64_t kernel = w.kernel[axis], stride = w.stride[axis], padding = w.padding[axis], dilation = w.dilation[axis],
                extra = w.output_padding[axis];
  const auto in_range = [](int64_t v, int64_t least) { return v >= least && v <= kMostWindow; };
  if (!in_range(kernel, 1) || !in_range(stride, 1) || !in_range(padding, 0) || !in_range(dilation, 1) || size > kMostWindow)
    return refuse(ErrorCode::kInvalidArgument, node,
                  "kernel, stride, dilation from 1 and padding from 0 to 2^20, got {}, {}, {}, {} for size {}", kernel,
                  stride, dilation, padding, size);
  if (extra < 0 || (extra > 0 && (!w.transposed || extra >= std::max(stride, dilation))))
    return refuse(ErrorCode::kInvalidArgument, node, "output_padding below stride or dilation, of a transposed one, got {}",
                  extra);
  return {};
}

// What a window operation makes of the size of one axis. A window may lie in the padding as a whole.
Result<int64_t> window_size(const Node& node, const Window& w, size_t axis, int64_t size) {
  const int64_t stride = w.stride[axis], margins = 2 * w.padding[axis], extent = w.dilation[axis] * (w.kernel[axis] - 1) + 1;
  if (w.transposed) {
    const int64_t out = (size - 1) * stride - margins + extent + w.output_padding[axis];
    if (out >= 1) return out;
    return refuse(ErrorCode::kShapeMismatch, node, "padding that leaves at least 1 of an output of {}, got {}",
                  out + margins, w.padding[axis]);
  }
  if (size + margins < extent)
    return refuse(ErrorCode::kShapeMismatch, node, "an image of at least {} with padding, got {}", extent, size + margins);
  int64_t out = (size + margins - extent + (w.ceil_mode ? stride - 1 : 0)) / stride + 1;
  if (w.ceil_mode && (out - 1) * stride >= size + w.padding[axis]) --out;  // a window that would begin behind the image
  return out;
}

// Of a size that differs from run to run. What is left of f times a symbol is a multiple of it where it is at one size and behind the next.
Result<Dim> symbolic_window_size(const Program& p, const Node& node, const Window& w, size_t axis, const Dim& size) {
  const int64_t stride = w.stride[axis], margins = 2 * w.padding[axis], extent = w.dilation[axis] * (w.kernel[axis] - 1) + 1;
  // With ceil_mode a window may begin behind the image, and is left out, at some sizes alone.
  if (w.ceil_mode && extent < stride + w.padding[axis]) {
    if (size.factor % stride == 0) {
      BITLAB_TRY(const int64_t once, window_size(node, w, axis, size.factor));
      BITLAB_TRY(const int64_t twice, window_size(node, w, axis, 2 * size.factor));
      if (twice == 2 * once) return with_factor(size, once);
    }
    return refuse(ErrorCode::kUnsupported, node,
                  "windows in ceil_mode that begin inside images of every size, got stride {}, padding {} of {}", stride,
                  w.padding[axis], p.show(size));
  }
  const std::optional<Dim> y = w.transposed
                                   ? sum(Dim(extent - margins + w.output_padding[axis] - stride), size, stride)
                                   : quotient(size, margins - extent + (w.ceil_mode ? stride - 1 : 0) + stride, stride);
  const bool is_short = !w.transposed && w.ceil_mode && !is_within(extent - margins, 1, 0, size, p.symbols);
  if (y && !is_short) return *y;
  return refuse(ErrorCode::kUnsupported, node,
                "a window that leaves a size that can be written of {}, got stride {}, padding {}", p.show(size), stride,
                w.padding[axis]);
}

Result<Shape> window_shape(const Program& p, const Node& node, const Shape& x, const Window& window, const Dim& channels) {
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 3, kMaxImageRank));
  const size_t axes = x.size() - 2;
  for (const Sizes* sizes : {&window.kernel, &window.stride, &window.padding, &window.dilation, &window.output_padding})
    if (sizes->size() != axes)
      return refuse(ErrorCode::kInvalidArgument, node, "a number for each of {} sizes, got {} for {}", axes, sizes->size(),
                    p.show(x));
  if (!x[1].is_number()) return refuse(ErrorCode::kUnsupported, node, "a number of channels, got {}", p.show(x));
  Shape y{x[0], channels};
  for (size_t axis = 0; axis < axes; ++axis) {
    const Dim& size = x[axis + 2];
    BITLAB_RETURN_IF_ERROR(check_window(node, window, axis, size.factor));
    if (size.is_number()) {
      BITLAB_TRY(const int64_t number, window_size(node, window, axis, size.factor));
      y.emplace_back(number);
    } else {
      BITLAB_TRY(y.emplace_back(), symbolic_window_size(p, node, window, axis, size));
    }
  }
  return y;
}

Result<Shape> conv_shape(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, kX);
  const Shape& weight = shape_of(p, node, kWeight);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 3, kMaxImageRank));
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, weight, x.size(), x.size()));
  BITLAB_RETURN_IF_ERROR(check_flag(node, "transposed"));
  const int64_t groups = node.attribute<int64_t>("groups");
  if (groups < 1 || weight[0].factor % groups != 0 || x[1].factor % groups != 0 ||
      x[1].factor / groups != weight.back().factor)
    return refuse(ErrorCode::kShapeMismatch, node, "{} channels in each of {} groups, got {}", p.show(weight.back()), groups,
                  p.show(x));
  BITLAB_RETURN_IF_ERROR(check_constant(p, node, kBias, {weight[0]}));
  Window window{{},
                node.attribute<Sizes>("stride"),
                node.attribute<Sizes>("padding"),
                node.attribute<Sizes>("dilation"),
                node.attribute<Sizes>("output_padding"),
                node.attribute<int64_t>("transposed") == 1};
  for (size_t axis = 1; axis + 1 < weight.size(); ++axis) window.kernel.push_back(weight[axis].factor);
  return window_shape(p, node, x, window, weight[0]);
}

// Pools are padded by at most half a window, as LibTorch asks: further out a window would see nothing but padding.
Status check_pool_padding(const Node& node, const Window& w) {
  for (size_t axis = 0; axis < w.kernel.size(); ++axis) {
    const int64_t extent = w.dilation[axis] * (w.kernel[axis] - 1) + 1;
    if (w.padding[axis] > extent / 2)
      return refuse(ErrorCode::kInvalidArgument, node, "padding of at most half the window's extent {}, got {}", extent,
                    w.padding[axis]);
  }
  return {};
}

Result<Shape> pool_shape(const Program& p, const Node& node, const Sizes* dilation) {
  const Shape& x = shape_of(p, node, kX);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 3, kMaxImageRank));
  BITLAB_RETURN_IF_ERROR(check_flag(node, "ceil_mode"));
  const size_t axes = x.size() - 2;
  Window window{node.attribute<Sizes>("kernel_size"), node.attribute<Sizes>("stride"), node.attribute<Sizes>("padding"),
                dilation == nullptr ? Sizes(axes, 1) : *dilation, Sizes(axes, 0)};
  window.ceil_mode = node.attribute<int64_t>("ceil_mode") == 1;
  BITLAB_TRY(Shape y, window_shape(p, node, x, window, x[1]));
  BITLAB_RETURN_IF_ERROR(check_pool_padding(node, window));
  return y;
}

// [batch, channels, sizes...] with sizes of other numbers.
Result<Shape> resized_shape(const Program& p, const Node& node, const Shape& sizes) {
  const Shape& x = shape_of(p, node, kX);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 3, kMaxImageRank));
  if (!x[1].is_number()) return refuse(ErrorCode::kUnsupported, node, "a number of channels, got {}", p.show(x));
  Shape y{x[0], x[1]};
  y.insert(y.end(), sizes.begin(), sizes.end());
  const bool is_small =
      std::all_of(sizes.begin(), sizes.end(), [](const Dim& d) { return d.factor >= 1 && d.factor <= kMostWindow; }) &&
      std::all_of(x.begin() + 2, x.end(), [](const Dim& d) { return d.factor <= kMostWindow; });
  if (y.size() != x.size() || !is_small)
    return refuse(ErrorCode::kInvalidArgument, node, "a size from 1 to 2^20 for each of {}, got {}", p.show(x),
                  p.show(sizes));
  return y;
}

// The ratio of sizes may be another in every run.
Result<Shape> resized_in_samples(const Program& p, const Node& node) {
  const auto& sizes = node.attribute<Shape>("output_size");
  BITLAB_TRY(Shape y, resized_shape(p, node, sizes));
  const Shape& x = shape_of(p, node, kX);
  for (size_t i = 2; i < x.size(); ++i)
    if (uses(x[i], 0) || uses(y[i], 0))
      return refuse(ErrorCode::kUnsupported, node, "sizes within samples, got {} of {}", p.show(sizes), p.show(x));
  return y;
}

Result<Shape> embedding_shape(const Program& p, const Node& node) {
  const Shape& weight = shape_of(p, node, kWeight);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, weight, 2, 2));
  Shape y = shape_of(p, node, kX);
  y.push_back(weight[1]);
  return y;
}

// How many gates a recurrent layer's cell has.
Result<int64_t> gates_of(const Node& node) {
  const auto& cell = node.attribute<std::string>("cell");
  if (cell == "lstm") return 4;
  if (cell == "gru") return 3;
  return refuse(ErrorCode::kInvalidArgument, node, "a cell of lstm, gru, got '{}'", cell);
}

// What a sample gets must not depend on its place in the batch: steps run along another dimension.
// h0: the place of that input, which c0 follows.
Result<Types> recurrent_types(const Program& p, const Node& node, size_t h0) {
  const Shape &x = shape_of(p, node, kX), &weight = shape_of(p, node, kWeight);
  BITLAB_TRY(const int64_t gates, gates_of(node));
  BITLAB_RETURN_IF_ERROR(check_flag(node, "reverse"));
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 3, 3));
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, weight, 2, 2));
  const Dim& hidden = weight[1];
  const bool fits = same_unit(weight[0], hidden) && weight[0].factor % gates == 0 &&
                    weight[0].factor / gates == hidden.factor && x[2] == weight[0];
  if (!fits)
    return refuse(ErrorCode::kShapeMismatch, node,
                  "a weight [{} hidden, hidden] and x [batch, tokens, {} hidden], got {} and {}", gates, gates,
                  p.show(weight), p.show(x));
  if (uses(x[1], 0)) return refuse(ErrorCode::kUnsupported, node, "tokens within samples, got {}", p.show(x));
  BITLAB_RETURN_IF_ERROR(check_constant(p, node, kBias, {weight[0]}));
  const Shape state{x[0], hidden};
  for (const size_t input : {h0, h0 + 1}) BITLAB_RETURN_IF_ERROR(check_constant(p, node, input, state));
  const bool has_cell = gates == 4;
  if (!has_cell && node.inputs[h0 + 1] != kNone) return refuse(ErrorCode::kInvalidArgument, node, "no c0 of a gru, got one");
  Types types{{DType::kFloat32, {x[0], x[1], hidden}}, {DType::kFloat32, state}};
  if (has_cell) types.push_back({DType::kFloat32, state});
  return types;
}

// Norms over the last `dims` dimensions.
Result<Shape> norm_shape(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, kX);
  const int64_t dims = node.attribute<int64_t>("dims");
  const double eps = node.attribute<double>("eps");
  if (dims < 1 || dims > static_cast<int64_t>(x.size()) || !(eps >= 0 && eps < 1e30))
    return refuse(ErrorCode::kInvalidArgument, node, "1 to {} dims and an eps from 0, got {} and {}", x.size(), dims, eps);
  const Shape normalized(x.end() - dims, x.end());
  if (!is_fixed(normalized)) return refuse(ErrorCode::kUnsupported, node, "a norm within samples, got {}", p.show(x));
  for (size_t input = 1; input < node.inputs.size(); ++input)
    BITLAB_RETURN_IF_ERROR(check_constant(p, node, input, normalized));
  return x;
}

}  // namespace

Result<Types> infer_ternary_linear(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_activation(p, node));
  return one(linear_shape(p, node));
}

Result<Types> infer_ternary_conv(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_activation(p, node));
  return one(conv_shape(p, node));
}

Result<Types> infer_ternary_recurrent(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_activation(p, node));
  return recurrent_types(p, node, input_of(Op::ternary_recurrent, "h0"));
}

Result<Types> infer_ternary_embedding(const Program& p, const Node& node) { return one(embedding_shape(p, node)); }
Result<Types> infer_recurrent(const Program& p, const Node& node) {
  return recurrent_types(p, node, input_of(Op::recurrent, "h0"));
}
Result<Types> infer_linear(const Program& p, const Node& node) { return one(linear_shape(p, node)); }
Result<Types> infer_conv(const Program& p, const Node& node) { return one(conv_shape(p, node)); }
Result<Types> infer_embedding(const Program& p, const Node& node) { return one(embedding_shape(p, node)); }
Result<Types> infer_max_pool(const Program& p, const Node& node) {
  return one(pool_shape(p, node, &node.attribute<Sizes>("dilation")));
}
Result<Types> infer_avg_pool(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_flag(node, "count_include_pad"));
  const int64_t divisor = node.attribute<int64_t>("divisor");
  if (divisor < 0 || divisor > kMaxElements)
    return refuse(ErrorCode::kInvalidArgument, node, "a divisor from 0 to 2^40, got {}", divisor);
  return one(pool_shape(p, node, nullptr));
}

Result<Types> infer_adaptive_max_pool(const Program& p, const Node& node) { return one(resized_in_samples(p, node)); }
Result<Types> infer_adaptive_avg_pool(const Program& p, const Node& node) { return one(resized_in_samples(p, node)); }

Result<Types> infer_resample(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_flag(node, "align_corners"));
  const auto& mode = node.attribute<std::string>("mode");
  constexpr std::array<std::string_view, 6> kModes{"nearest", "nearest_exact",    "linear",
                                                   "cubic",   "linear_antialias", "cubic_antialias"};
  if (std::find(kModes.begin(), kModes.end(), mode) == kModes.end())
    return refuse(ErrorCode::kInvalidArgument, node, "a mode of nearest, linear, cubic, one of its forms, got '{}'", mode);
  if (mode.ends_with("antialias") && node.attribute<int64_t>("align_corners") == 1)
    return refuse(ErrorCode::kUnsupported, node, "align_corners 0 with '{}', got 1", mode);
  return one(resized_in_samples(p, node));
}

Result<Types> infer_grid_sample(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_flag(node, "align_corners"));
  const auto &mode = node.attribute<std::string>("mode"), &padding = node.attribute<std::string>("padding");
  if (mode != "nearest" && mode != "linear")
    return refuse(ErrorCode::kInvalidArgument, node, "a mode of nearest, linear, got '{}'", mode);
  if (padding != "zeros" && padding != "border" && padding != "reflection")
    return refuse(ErrorCode::kInvalidArgument, node, "a padding of zeros, border, reflection, got '{}'", padding);
  const Shape &x = shape_of(p, node, kX), &grid = shape_of(p, node, 1);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 4, 4));
  if (grid.size() != 4 || grid[0] != x[0] || grid[3] != Dim(2) || uses({x[2], x[3]}, 0))
    return refuse(ErrorCode::kShapeMismatch, node,
                  "x [batch, channels, h, w] and a grid [batch, rows, columns, 2], got {} and {}", p.show(x), p.show(grid));
  return one({x[0], x[1], grid[1], grid[2]});
}

Result<Types> infer_layer_norm(const Program& p, const Node& node) { return one(norm_shape(p, node)); }
Result<Types> infer_rms_norm(const Program& p, const Node& node) { return one(norm_shape(p, node)); }

Result<Types> infer_batch_norm(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, kX);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 2));
  for (size_t input : {1U, 2U}) BITLAB_RETURN_IF_ERROR(check_constant(p, node, input, {x[1]}));
  return one(x);
}

}  // namespace bitlab::program
