// Images and volumes: convolutions, pools, resampling.
#include <array>
#include <cmath>
#include <optional>

#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/_upsample_nearest_exact2d.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/upsample_bicubic2d.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <ATen/ops/upsample_nearest2d.h>

#include "bitlab/deploy/lowering/internal/terms.h"
#include "bitlab/ops/layout.h"
#include "bitlab/ops/padding.h"

namespace bitlab::deploy {
namespace {

// A list argument of `count` numbers; LibTorch lets one number stand for all, and none for `fallback`.
Sizes sizes_of(const Call& call, const std::string& argument, size_t count, const Sizes& fallback) {
  if (call.argument(argument).isString()) return fallback;  // "valid", or "same", whose numbers stand elsewhere
  Sizes numbers = call.argument(argument).toIntVector();
  if (numbers.empty()) return fallback;
  if (numbers.size() == 1) numbers.resize(count, numbers[0]);
  return numbers;
}

using program::Attributes;

Attributes window(const Call& call, size_t axes) {
  return {{"stride", sizes_of(call, "stride", axes, Sizes(axes, 1))},
          {"padding", sizes_of(call, "padding", axes, Sizes(axes, 0))},
          {"dilation", sizes_of(call, "dilation", axes, Sizes(axes, 1))}};
}

// An image or a volume, as a batch of one where it has none, and its spatial dimensions.
struct Image {
  ValueId x;
  size_t axes;
};
Result<Image> image_of(Lowering& lowering, const Call& call, const std::string& argument, char last) {
  const auto axes = static_cast<size_t>(last - '0');  // of "conv2d"
  BITLAB_TRY(ValueId x, lowering.activation(call, argument));
  const size_t rank = lowering.shape(x).size();
  if (rank != axes + 1 && rank != axes + 2)
    return unsupported(call, fmt::format("rank {} or {}", axes + 1, axes + 2), fmt::format("{}", rank));
  BITLAB_TRY(x, with_rank(lowering, x, axes + 2));
  return Image{x, axes};
}

// The digit in an operator's name: 2 of "aten::conv2d", "aten::conv_transpose2d.input".
char digit_of(const Call& call) { return call.op[call.op.find_first_of("123")]; }

Status float_conv(Lowering& lowering, const Call& call, bool transposed) {
  const at::Tensor& weight = call.argument("weight").toTensor();
  const auto digit = static_cast<char>('0' + weight.dim() - 2);
  BITLAB_TRY(Image image, image_of(lowering, call, "input", digit));
  auto& [x, axes] = image;
  if (lowering.is_activation(weight)) return computed_conv(lowering, call, x, transposed);
  const int64_t groups = call.argument("groups").toInt();
  const ops::WeightLayout layout("capture", weight, transposed, groups);
  Sizes shape{layout.rows().expect_int()};
  for (int64_t i = 2; i < weight.dim(); ++i) shape.push_back(weight.size(i));
  shape.push_back(transposed ? weight.size(0) / groups : weight.size(1));
  auto attributes = window(call, axes);
  if (const c10::IValue& padding = call.argument("padding"); padding.isString() && padding.toStringRef() == "same") {
    const auto [both, odd] = ops::same_padding(weight.sizes().slice(2), call.argument("stride").toIntVector(),
                                               call.argument("dilation").toIntVector());
    BITLAB_TRY(x, zeros_around(lowering, call, x, ops::sides(Sizes(axes, 0), odd)));
    attributes["padding"] = both;
  }
  const ValueId w = lowering.constant(weight, layout.to_matrix(weight).view(shape));
  attributes["groups"] = groups;
  attributes["transposed"] = int64_t{transposed};
  attributes["output_padding"] = transposed ? sizes_of(call, "output_padding", axes, Sizes(axes, 0)) : Sizes(axes, 0);
  if (!lowering.is_activation(call.tensor("bias"))) {
    BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
    return lowering.lower_to(call, Op::conv, {x, w, bias}, std::move(attributes));
  }
  BITLAB_TRY(const ValueId bias, by_channel(lowering, call, "bias", axes));
  BITLAB_TRY(const ValueId y, lowering.node(Op::conv, {x, w}, std::move(attributes)));
  return lowering.lower_to(call, Op::add, {y, bias});
}

}  // namespace

Status lower_ternary_conv(Lowering& lowering, const Call& call) {
  const Sizes kernel = call.argument("kernel_size").toIntVector();
  const size_t axes = kernel.size();
  const at::Tensor& input = call.argument("x").toTensor();
  const int64_t groups = call.argument("groups").toInt();
  Sizes shape{call.argument("codes").toTensor().size(0)};
  shape.insert(shape.end(), kernel.begin(), kernel.end());
  shape.push_back(input.size(-1 - static_cast<int64_t>(axes)) / groups);
  BITLAB_TRY(const Image image, image_of(lowering, call, "x", static_cast<char>('0' + axes)));
  BITLAB_TRY(const ValueId weight, lowering.ternary(call, shape));
  BITLAB_TRY(const ValueId bias, lowering.floats(call, "bias"));
  BITLAB_TRY(const ValueId act_scale, lowering.floats(call, "act_scale"));
  auto attributes = window(call, axes);
  attributes["groups"] = groups;
  attributes["transposed"] = int64_t{call.argument("transposed").toBool()};
  attributes["output_padding"] = sizes_of(call, "output_padding", axes, Sizes(axes, 0));
  attributes["activation"] = call.argument("activation").toStringRef();
  return lowering.lower_to(call, Op::ternary_conv, {image.x, weight, bias, act_scale}, std::move(attributes));
}

Status lower_conv(Lowering& lowering, const Call& call) { return float_conv(lowering, call, false); }
// Called as such by traces of TorchScript, and by what has no window of its own.
Status lower_convolution(Lowering& lowering, const Call& call) {
  return float_conv(lowering, call, call.argument("transposed").toBool());
}
Status lower_conv_transpose(Lowering& lowering, const Call& call) { return float_conv(lowering, call, true); }

namespace {

// Whether an adaptive pool has as many values along an axis as there are.
bool is_kept(Lowering& lowering, const Call& call, int64_t from_end) {
  return lowering.is_same(call, [&](const Call& c) {
    return output_of(c).size(from_end) - c.argument("self").toTensor().size(from_end);
  }) && output_of(call).size(from_end) == call.argument("self").toTensor().size(from_end);
}

// One value for each whole axis that has a grid of 1, of an image whose sizes differ from run to run; other axes stay as they are.
Status pool_of_axes(Lowering& lowering, const Call& call, Op op, ValueId x, const Sizes& grid) {
  Sizes order{0, 1}, whole;
  program::Shape shape = lowering.shape(x), kept{shape[0], shape[1]};
  program::Dim values = 1;
  for (size_t i = 0; i < grid.size(); ++i) {
    const auto dim = static_cast<int64_t>(i) + 2;
    const program::Dim& size = shape[i + 2];
    if (grid[i] == 1) {
      whole.push_back(dim);
      values = values * size;
    } else {
      order.push_back(dim);
      kept.push_back(size);
    }
  }
  order.insert(order.end(), whole.begin(), whole.end());
  kept.push_back(values);
  BITLAB_TRY(x, permuted(lowering, x, order));
  BITLAB_TRY(x, lowering.reshape(x, kept));
  BITLAB_TRY(x, lowering.node(op, {x}));
  for (size_t i = 0; i < grid.size(); ++i)
    if (grid[i] == 1) shape[i + 2] = 1;
  BITLAB_TRY(x, lowering.reshape(x, shape));
  return lowering.finish(call, x);
}

// Whether a pool's windows are all that there is along each axis of an image whose sizes differ from run to run.
bool has_whole_windows(Lowering& lowering, const Call& call, size_t axes) {
  const auto is_whole = [&](const Call& c) {
    const Sizes kernel = sizes_of(c, "kernel_size", axes, {});
    return c.argument("self").toTensor().sizes().slice(static_cast<size_t>(c.argument("self").toTensor().dim()) - axes) ==
           at::IntArrayRef(kernel);
  };
  const auto are = [&](const char* name, int64_t number) {
    const Sizes numbers = sizes_of(call, name, axes, {});
    return std::all_of(numbers.begin(), numbers.end(), [&](int64_t n) { return n == number; });
  };
  return is_whole(call) && is_whole(lowering.twin()) && are("padding", 0);
}

// A pool's first window lies inside images of every size.
void leave_room(Lowering& lowering, const Call& call, ValueId x, const Sizes& kernel) {
  const size_t axes = kernel.size();
  const Sizes padding = sizes_of(call, "padding", axes, Sizes(axes, 0));
  for (size_t axis = 0; axis < axes; ++axis)
    lowering.at_least(lowering.shape(x)[axis + 2], kernel[axis] - 2 * padding[axis]);
}

bool is_sized(Lowering& lowering, ValueId x) {
  const program::Shape& shape = lowering.shape(x);
  return program::is_fixed({shape.begin() + 2, shape.end()});
}

}  // namespace

Status lower_max_pool(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Image image, image_of(lowering, call, "self", digit_of(call)));
  const auto [x, axes] = image;
  auto attributes = window(call, axes);
  const Sizes kernel = sizes_of(call, "kernel_size", axes, {});
  attributes["kernel_size"] = kernel;
  attributes["stride"] = sizes_of(call, "stride", axes, kernel);
  attributes["ceil_mode"] = int64_t{call.argument("ceil_mode").toBool()};
  if (!is_sized(lowering, x) && has_whole_windows(lowering, call, axes)) {
    lose_from(lowering, call, 1);
    return pool_of_axes(lowering, call, Op::max, x, Sizes(axes, 1));
  }
  leave_room(lowering, call, x, kernel);
  BITLAB_RETURN_IF_ERROR(finish_pool_places(lowering, call, x,
                                            {kernel, sizes_of(call, "stride", axes, kernel),
                                             sizes_of(call, "padding", axes, {}), sizes_of(call, "dilation", axes, {})}));
  return lowering.lower_to(call, Op::max_pool, {x}, std::move(attributes));
}

Status lower_avg_pool(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Image image, image_of(lowering, call, "self", digit_of(call)));
  const auto [x, axes] = image;
  const Sizes kernel = sizes_of(call, "kernel_size", axes, {});
  if (!is_sized(lowering, x) && has_whole_windows(lowering, call, axes))
    return pool_of_axes(lowering, call, Op::mean, x, Sizes(axes, 1));
  leave_room(lowering, call, x, kernel);
  const bool own_divisor = axes > 1 && given(call, "divisor_override");
  return lowering.lower_to(call, Op::avg_pool, {x},
                           {{"kernel_size", kernel},
                            {"stride", sizes_of(call, "stride", axes, kernel)},
                            {"padding", sizes_of(call, "padding", axes, Sizes(axes, 0))},
                            {"ceil_mode", int64_t{call.argument("ceil_mode").toBool()}},
                            {"count_include_pad", int64_t{call.argument("count_include_pad").toBool()}},
                            {"divisor", own_divisor ? call.argument("divisor_override").toInt() : int64_t{0}}});
}

namespace {

// A grid that divides the image is one of equal windows, whatever the image's size.
Status adaptive_pool(Lowering& lowering, const Call& call, Op op, Op equal_op) {
  BITLAB_TRY(const Image image, image_of(lowering, call, "self", digit_of(call)));
  const auto [x, axes] = image;
  const Sizes grid = sizes_of(call, "output_size", axes, {});
  const at::Tensor& self = call.argument("self").toTensor();
  if (!is_sized(lowering, x)) {
    lose_from(lowering, call, 1);
    const auto from_end = [&](size_t i) { return static_cast<int64_t>(i) - static_cast<int64_t>(axes); };
    program::Shape sizes;
    bool is_whole = true;
    for (size_t i = 0; i < axes; ++i) {
      is_whole = is_whole && (grid[i] == 1 || is_kept(lowering, call, from_end(i)));
      BITLAB_TRY(sizes.emplace_back(), lowering.dim_of(call, [&](const Call& c) { return output_of(c).size(from_end(i)); }));
    }
    if (is_whole) return pool_of_axes(lowering, call, equal_op == Op::max_pool ? Op::max : Op::mean, x, grid);
    return lowering.lower_to(call, op, {x}, {{"output_size", sizes}});
  }
  Sizes kernel, sizes;
  for (size_t i = 0; i < axes; ++i) {
    const int64_t size = self.size(static_cast<int64_t>(i) - static_cast<int64_t>(axes));
    sizes.push_back(grid[i] < 0 ? size : grid[i]);  // None: as many as there are
    if (sizes[i] < 1) return unsupported(call, "a grid of at least 1 in each dimension", show(grid));
    if (size % sizes[i] == 0) kernel.push_back(size / sizes[i]);
  }
  BITLAB_RETURN_IF_ERROR(finish_adaptive_places(lowering, call, x, sizes));
  if (kernel.size() < axes)
    return lowering.lower_to(call, op, {x}, {{"output_size", program::Shape(sizes.begin(), sizes.end())}});
  program::Attributes attributes{{"kernel_size", kernel}, {"stride", kernel}, {"padding", Sizes(axes, 0)}};
  if (equal_op == Op::max_pool) attributes["dilation"] = Sizes(axes, 1);
  return lowering.lower_to(call, equal_op, {x}, std::move(attributes));
}

}  // namespace

Status lower_adaptive_avg_pool(Lowering& lowering, const Call& call) {
  return adaptive_pool(lowering, call, Op::adaptive_avg_pool, Op::avg_pool);
}
Status lower_adaptive_max_pool(Lowering& lowering, const Call& call) {
  return adaptive_pool(lowering, call, Op::adaptive_max_pool, Op::max_pool);
}

namespace {

std::optional<double> scale_of(const Call& call, size_t axis) {
  size_t number = 0;
  for (const Argument& argument : call.arguments)
    if (argument.name.starts_with("scale") && number++ == axis && !argument.value.isNone()) return argument.value.toDouble();
  return std::nullopt;
}

// The scale that a call has for an axis, where it is another than the sizes' own: of 7 pixels 1.5 times as many are 10, a little less than 1.5 apart.
std::optional<double> own_scale(const Call& call, size_t axis, int64_t in, int64_t out) {
  const std::optional<double> scale = scale_of(call, axis);
  const double ratio = static_cast<double>(out) / static_cast<double>(in);
  return scale && std::fabs(*scale / ratio - 1) > 1e-6 ? scale : std::nullopt;
}

// How an image is resampled.
struct Resampling {
  std::string mode;  // "linear", "cubic", "nearest" or "nearest_exact"
  bool align = false, antialias = false;
};

// What an axis is made of where a scale is not that of the sizes, [out, in]: found by the operator itself, from images that have a 1 in one place each. They
// have two equal columns, since antialiased forms of LibTorch take one column for channels.
at::Tensor weights_of_axis(const Resampling& how, int64_t in, int64_t out, std::optional<double> scale) {
  const at::Tensor ones = at::eye(in).view({in, 1, in, 1}).expand({in, 1, in, 2}).contiguous();
  const Sizes size{out, 2};
  const auto of = [&]() -> at::Tensor {
    if (how.mode == "nearest") return at::upsample_nearest2d(ones, size, scale, std::nullopt);
    if (how.mode == "nearest_exact") return at::_upsample_nearest_exact2d(ones, size, scale, std::nullopt);
    if (how.antialias && how.mode == "cubic") return at::_upsample_bicubic2d_aa(ones, size, how.align, scale, std::nullopt);
    if (how.antialias) return at::_upsample_bilinear2d_aa(ones, size, how.align, scale, std::nullopt);
    if (how.mode == "cubic") return at::upsample_bicubic2d(ones, size, how.align, scale, std::nullopt);
    return at::upsample_bilinear2d(ones, size, how.align, scale, std::nullopt);
  };
  return of().select(3, 0).reshape({in, out}).t().contiguous();
}

// f of x with the dimension last, and back.
template <class F>
Result<ValueId> with_last(Lowering& lowering, ValueId x, size_t dim, const F& f) {
  Sizes order = counted(lowering.shape(x).size());
  std::swap(order[dim], order.back());
  BITLAB_TRY(x, permuted(lowering, x, order));
  BITLAB_TRY(x, f(x));
  return permuted(lowering, x, order);
}

// The axes one after the other as products, which LibTorch adds up in another order; its nearest pixels as places.
Status resample_by_weights(Lowering& lowering, const Call& call, ValueId x, const Resampling& how, at::IntArrayRef in,
                           at::IntArrayRef out) {
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const at::Tensor weights =
        weights_of_axis(how, in[axis], out[axis], how.align ? std::nullopt : own_scale(call, axis, in[axis], out[axis]));
    if (how.mode.starts_with("nearest")) {
      BITLAB_TRY(
          x, lowering.node(Op::take, {x, lowering.constant(weights.argmax(1))}, {{"dim", static_cast<int64_t>(axis + 2)}}));
      continue;
    }
    BITLAB_TRY(x, with_last(lowering, x, axis + 2, [&](ValueId rows) {
                 return lowering.node(Op::linear, {rows, lowering.constant(weights)});
               }));
  }
  return lowering.finish(call, x);
}

// Keys' cubic convolution at a distance, 0 from 2 on.
Term cubic_weight(const Term& distance, double a) {
  const Term& d = distance;
  const Term near = (d * (a + 2) + -(a + 3)) * d * d + 1, far = ((d + -5.0) * d + 8) * d * a + -4 * a;
  return (d < 1).choose(near, (d < 2).choose(far, d.constant(0)));
}

// The weights [in, out] of an axis, computed in each run: of an image whose pixels are 1 / scale apart (kernels/resample).
Term open_weights(Lowering& lowering, const Resampling& how, const Term& scale, const program::Dim& in,
                  const program::Dim& out) {
  const auto numbers = [&](const program::Dim& size, program::Shape shape) -> Result<ValueId> {
    BITLAB_TRY(ValueId value, counted_to(lowering, size));
    BITLAB_TRY(value, lowering.cast(value, at::kFloat));
    return lowering.reshape(value, std::move(shape));
  };
  const Term from(lowering, numbers(in, {in, 1})), center = (Term(lowering, numbers(out, {1, out})) + 0.5) / scale;
  const bool is_cubic = how.mode == "cubic";
  if (how.antialias) {
    const Term width = scale.behind(Op::div, 1).with(Op::maximum, 1), d = ((from + 0.5) - center).of(Op::abs) / width;
    const Term weights = is_cubic ? cubic_weight(d, -0.5) : d.behind(Op::sub, 1).with(Op::maximum, 0);
    const Term sums(lowering, [&]() -> Result<ValueId> {
      BITLAB_TRY(ValueId value, weights.value());
      BITLAB_TRY(value, permuted(lowering, value, {1, 0}));
      BITLAB_TRY(value, lowering.node(Op::sum, {value}));
      return lowering.reshape(value, {1, out});
    }());
    return weights / sums;
  }
  const Term last = Term(lowering, lowering.size_value(in)).cast(at::kFloat) + -1.0;
  const Term place = is_cubic ? center + -0.5 : (center + -0.5).with(Op::maximum, 0);
  const Term whole = place.of(Op::floor);
  std::optional<Term> weights;  // what lies outside is the pixel at the edge
  for (int tap = is_cubic ? -1 : 0; tap <= (is_cubic ? 2 : 1); ++tap) {
    const Term at = whole + static_cast<double>(tap), d = (place - at).of(Op::abs);
    const Term inside = at.with(Op::maximum, 0).with(Op::minimum, last);
    const Term weight =
        from.with(Op::equal, inside).choose(is_cubic ? cubic_weight(d, -0.75) : d.behind(Op::sub, 1), d.constant(0));
    weights = weights ? *weights + weight : weight;
  }
  return *weights;
}

// The axes one after the other as products with weights that follow from sizes, and from scales of the caller's own.
Status resample_by_open_weights(Lowering& lowering, const Call& call, ValueId x, const Resampling& how,
                                const program::Shape& out) {
  if (how.mode.starts_with("nearest"))
    return unsupported(call, "a scale that is a quotient of small numbers, or sizes that are fixed", "another one");
  if (how.align) return unsupported(call, "sizes that are fixed, or align_corners=False", "align_corners=True");
  for (size_t axis = 2; axis < out.size(); ++axis) {
    const program::Dim in = lowering.shape(x)[axis];
    if (uses(in, 0) || uses(out[axis], 0)) return unsupported(call, "pixels within samples", "as many as the batch has");
    const auto scale_in = [axis](const Call& c) {
      const auto ratio = static_cast<double>(output_of(c).size(static_cast<int64_t>(axis))) /
                         static_cast<double>(c.argument("self").toTensor().size(static_cast<int64_t>(axis)));
      return scale_of(c, axis - 2).value_or(ratio);
    };
    const Term scale(lowering, lowering.number_in_all(call, scale_in, at::kFloat));
    BITLAB_TRY(const ValueId weights, open_weights(lowering, how, scale, in, out[axis]).value());
    BITLAB_TRY(x, with_last(lowering, x, axis, [&](ValueId rows) { return lowering.node(Op::matmul, {rows, weights}); }));
  }
  lowering.set_exactness(program::Exactness::kBounded);
  return lowering.finish(call, x);
}

// A scale as a quotient of small numbers, [over, under]; nothing for others.
std::optional<std::array<int64_t, 2>> quotient_of(double scale) {
  constexpr int64_t kMostUnder = 16, kMostOver = 64;
  for (int64_t under = 1; under <= kMostUnder; ++under) {
    const double over = std::round(scale * static_cast<double>(under));
    if (over >= 1 && over <= kMostOver && std::fabs(over / static_cast<double>(under) - scale) < 1e-9)
      return std::array{static_cast<int64_t>(over), under};
  }
  return std::nullopt;
}

// Scales of the caller's own, where sizes are rounded down: of images that are filled up by their last pixels, which is what lies beyond them, so that the
// scale is that of the sizes; the first ones of what that makes.
Result<ValueId> resampled_by_steps(Lowering& lowering, const Call& call, ValueId x, const std::string& mode,
                                   const program::Shape& out) {
  program::Shape whole(lowering.shape(x).begin() + 2, lowering.shape(x).end());
  for (size_t axis = 0; axis < whole.size(); ++axis) {
    const auto dim = static_cast<int64_t>(axis + 2);
    const std::optional<double> scale = scale_of(call, axis);
    const auto steps = scale ? quotient_of(*scale) : std::nullopt;
    const auto count = steps ? quotient(whole[axis], (*steps)[1] - 1, (*steps)[1]) : std::nullopt;
    if (!count || uses(whole[axis], 0))
      return unsupported(call, "a scale that is a quotient of small numbers, or sizes that are fixed",
                         scale ? fmt::format("{}", *scale) : "none");
    const auto [over, under] = *steps;
    BITLAB_TRY(x, repeated_to(lowering, call, x, dim, with_factor(*count, count->factor * under)));
    whole[axis] = with_factor(*count, count->factor * over);
  }
  BITLAB_TRY(x, lowering.node(Op::resample, {x}, {{"output_size", whole}, {"mode", mode}, {"align_corners", int64_t{0}}}));
  for (size_t axis = 0; axis < whole.size(); ++axis) {
    if (whole[axis] == out[axis + 2]) continue;
    BITLAB_TRY(x, slice_of(lowering, x, static_cast<int64_t>(axis + 2), 0, out[axis + 2]));
  }
  return x;
}

// Whether pixels along an axis are apart as a scale of the caller's own says, and not as the sizes do.
bool has_own_scale(Lowering& lowering, const Call& call, const program::Shape& in, const program::Shape& out, bool align) {
  if (align) return false;
  for (size_t axis = 0; axis < in.size(); ++axis) {
    const auto own_in = [&](const Call& c) {
      const auto dim = static_cast<int64_t>(axis + 2);
      return own_scale(c, axis, c.argument("self").toTensor().size(dim), output_of(c).size(dim)).has_value();
    };
    // Where the ratio of the sizes changes with them, a scale of the caller's own is not theirs at all of them.
    if (own_in(call) || own_in(lowering.twin()) || (!same_unit(in[axis], out[axis]) && scale_of(call, axis))) return true;
  }
  return false;
}

// Whether every scale is a quotient of small numbers.
bool has_steps(const Call& call, size_t axes) {
  for (size_t axis = 0; axis < axes; ++axis)
    if (const auto scale = scale_of(call, axis); !scale || !quotient_of(*scale)) return false;
  return true;
}

}  // namespace

// "aten::upsample_bilinear2d"
Status lower_upsample(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Image image, image_of(lowering, call, "self", digit_of(call)));
  const auto in = call.argument("self").toTensor().sizes().slice(2), out = output_of(call).sizes().slice(2);
  const bool is_nearest = call.op.find("nearest") != std::string::npos,
             is_cubic = call.op.find("cubic") != std::string::npos;
  std::string mode = is_nearest ? "nearest" : is_cubic ? "cubic" : "linear";
  if (call.op.find("exact") != std::string::npos) mode += "_exact";
  const bool align = !is_nearest && call.argument("align_corners").toBool(), antialias = call.op.ends_with("_aa");
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  const program::Shape from(lowering.shape(image.x).begin() + 2, lowering.shape(image.x).end());
  if (std::all_of(from.begin(), from.end(),
                  [](const program::Dim& size) { return size == program::Dim(1); })) {  // one value everywhere
    BITLAB_TRY(const ValueId y, expanded(lowering, image.x, shape));
    return lowering.finish(call, y);
  }
  const bool has_fixed_sizes = program::is_fixed(from) && program::is_fixed({shape.begin() + 2, shape.end()});
  const Resampling how{mode, align, antialias};
  if (has_own_scale(lowering, call, from, {shape.begin() + 2, shape.end()}, align) || (align && antialias)) {
    if (has_fixed_sizes) return resample_by_weights(lowering, call, image.x, how, in, out);
    if (antialias || program::is_fixed(from) || !has_steps(call, from.size()))
      return resample_by_open_weights(lowering, call, image.x, how, shape);
    BITLAB_TRY(const ValueId y, resampled_by_steps(lowering, call, image.x, mode, shape));
    return lowering.finish(call, y);
  }
  if (antialias) mode += "_antialias";
  const Status status = lowering.lower_to(
      call, Op::resample, {image.x},
      {{"output_size", program::Shape(shape.begin() + 2, shape.end())}, {"mode", mode}, {"align_corners", int64_t{align}}});
  if (status.ok() && is_nearest) lowering.set_exactness(program::Exactness::kIeeeExact);
  return status;
}

Status lower_grid_sample(Lowering& lowering, const Call& call) {
  constexpr std::array<const char*, 3> kPadding{"zeros", "border", "reflection"};
  const int64_t mode = call.argument("interpolation_mode").toInt();
  if (mode != 0 && mode != 1) return unsupported(call, "a bilinear or nearest grid", "a bicubic one");
  BITLAB_TRY(const ValueId x, lowering.activation(call, "input"));
  BITLAB_TRY(const ValueId grid, lowering.operand(call, "grid"));
  return lowering.lower_to(
      call, Op::grid_sample, {x, grid},
      {{"mode", std::string(mode == 1 ? "nearest" : "linear")},
       {"padding", std::string(kPadding.at(static_cast<size_t>(call.argument("padding_mode").toInt())))},
       {"align_corners", int64_t{call.argument("align_corners").toBool()}}});
}

}  // namespace bitlab::deploy
