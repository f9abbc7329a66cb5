// AxisWindows of images whose values are taken one by one: convolutions by computed weights, places of the largest values, what is put back at places.
#include <algorithm>
#include <limits>

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"
#include "bitlab/ops/padding.h"

namespace bitlab::deploy {
namespace {

using program::Dim;
using program::Shape;

// The windows of one axis.
struct AxisWindows {
  Dim count;
  int64_t taps, stride, dilation;
};

// x [n, c, sizes...] as [n, c, taps..., windows...].
Result<ValueId> windows_of(Lowering& lowering, ValueId x, const std::vector<AxisWindows>& windows) {
  const auto axes = static_cast<int64_t>(windows.size());
  for (int64_t axis = axes - 1; axis >= 0; --axis) {
    const auto& [count, taps, stride, dilation] = windows[static_cast<size_t>(axis)];
    BITLAB_TRY(x, frames_of(lowering, x, axis + 2, count, taps, stride, dilation));
  }
  Sizes order{0, 1};
  for (int64_t axis = 0; axis < axes; ++axis) order.push_back(3 + 2 * axis);
  for (int64_t axis = 0; axis < axes; ++axis) order.push_back(2 + 2 * axis);
  return permuted(lowering, x, order);
}

int64_t taps_of(const std::vector<AxisWindows>& windows) {
  int64_t all = 1;
  for (const AxisWindows& axis : windows) all *= axis.taps;
  return all;
}
Shape counts_of(const std::vector<AxisWindows>& windows) {
  Shape counts;
  for (const AxisWindows& axis : windows) counts.push_back(axis.count);
  return counts;
}

// A convolution by a weight [rows, channels / groups, taps...] that is computed.
struct Convolution {
  Sizes stride, dilation, front, behind;  // zeros around the image
  Dim groups;
};

Result<ValueId> convolved(Lowering& lowering, const Call& call, ValueId x, ValueId weight, const Convolution& conv) {
  const Shape of_weight = lowering.shape(weight);
  const size_t axes = of_weight.size() - 2;
  Sizes sides;
  for (size_t axis = axes; axis-- > 0;) sides.insert(sides.end(), {conv.front[axis], conv.behind[axis]});
  BITLAB_TRY(x, zeros_around(lowering, call, x, sides));
  std::vector<AxisWindows> windows;
  for (size_t axis = 0; axis < axes; ++axis) {
    if (!of_weight[axis + 2].is_number()) return unsupported(call, "a window of fixed size", lowering.show(of_weight));
    const int64_t taps = of_weight[axis + 2].factor, reach = conv.dilation[axis] * (taps - 1) + 1;
    const Dim size = lowering.shape(x)[axis + 2];
    const auto count = quotient(size, conv.stride[axis] - reach, conv.stride[axis]);
    if (!count || uses(size, 0))
      return unsupported(call, "windows whose number can be written", lowering.show(lowering.shape(x)));
    lowering.at_least(size, reach);
    windows.push_back({*count, taps, conv.stride[axis], conv.dilation[axis]});
  }
  BITLAB_TRY(x, windows_of(lowering, x, windows));
  const Shape counts = counts_of(windows);
  const Dim batch = lowering.shape(x)[0], depth = of_weight[1] * Dim(taps_of(windows)), all = program::volume(counts);
  const std::optional<Dim> rows = divided(of_weight[0], conv.groups);
  if (!rows) return unsupported(call, "rows of the weight for each group", lowering.show(of_weight));
  BITLAB_TRY(x, lowering.reshape(x, {batch, conv.groups, depth, all}));
  BITLAB_TRY(weight, lowering.reshape(weight, {1, conv.groups, *rows, depth}));
  BITLAB_TRY(weight, expanded(lowering, weight, {batch, conv.groups, *rows, depth}));
  BITLAB_TRY(ValueId y, lowering.node(Op::matmul, {weight, x}));
  Shape result{batch, of_weight[0]};
  result.insert(result.end(), counts.begin(), counts.end());
  return lowering.reshape(y, result);
}

// x with `stride` - 1 zeros between the values of each axis.
Result<ValueId> spread(Lowering& lowering, const Call& call, ValueId x, const Sizes& stride) {
  for (size_t axis = 0; axis < stride.size(); ++axis) {
    const size_t dim = axis + 2;
    if (stride[axis] == 1) continue;
    Shape shape = lowering.shape(x), split = shape;
    const Dim size = shape[dim], all = with_factor(size, size.factor * stride[axis]);
    const auto left = sum(all, 1 - stride[axis]);
    if (!left) return unsupported(call, "an image whose size can be written", lowering.show(shape));
    split.insert(split.begin() + static_cast<std::ptrdiff_t>(dim) + 1, 1);
    BITLAB_TRY(x, lowering.reshape(x, split));
    Sizes sides(2 * (split.size() - dim - 1), 0);
    sides.back() = stride[axis] - 1;
    BITLAB_TRY(x, zeros_around(lowering, call, x, sides));
    shape[dim] = all;
    BITLAB_TRY(x, lowering.reshape(x, shape));
    BITLAB_TRY(x, slice_of(lowering, x, static_cast<int64_t>(dim), 0, *left));
  }
  return x;
}

// The weight [channels, rows / groups, taps...] of a transposed convolution as that of the convolution which it is on the spread image.
Result<ValueId> turned_weight(Lowering& lowering, const Call& call, ValueId weight, Dim groups) {
  Shape shape = lowering.shape(weight);
  const auto rank = static_cast<int64_t>(shape.size());
  const std::optional<Dim> depth = divided(shape[0], groups);
  if (!depth) return unsupported(call, "channels of the weight for each group", lowering.show(shape));
  Shape split{groups, *depth};
  split.insert(split.end(), shape.begin() + 1, shape.end());
  BITLAB_TRY(weight, lowering.reshape(weight, split));
  Sizes order = counted(split.size());
  std::swap(order[1], order[2]);
  BITLAB_TRY(weight, permuted(lowering, weight, order));
  Shape joined{groups * shape[1], *depth};
  joined.insert(joined.end(), shape.begin() + 2, shape.end());
  BITLAB_TRY(weight, lowering.reshape(weight, joined));
  return lowering.node(Op::flip, {weight}, {{"dims", counted(static_cast<size_t>(rank) - 2, 2)}});
}

}  // namespace

Status computed_conv(Lowering& lowering, const Call& call, ValueId x, bool is_transposed) {
  BITLAB_TRY(ValueId weight, lowering.activation(call, "weight"));
  const size_t axes = lowering.shape(weight).size() - 2;
  const auto list = [&](const char* name, int64_t fallback) {
    Sizes numbers = call.argument(name).isIntList() ? call.argument(name).toIntVector() : Sizes();
    if (numbers.empty()) numbers = {fallback};
    if (numbers.size() == 1) numbers.resize(axes, numbers[0]);
    return numbers;
  };
  BITLAB_TRY(const Dim groups, lowering.dim_of(call, [](const Call& c) { return c.argument("groups").toInt(); }));
  Convolution conv{list("stride", 1), list("dilation", 1), list("padding", 0), list("padding", 0), groups};
  if (const c10::IValue& padding = call.argument("padding"); padding.isString() && padding.toStringRef() == "same")
    for (size_t axis = 0; axis < axes; ++axis) {
      const int64_t both = conv.dilation[axis] * (call.tensor("weight").size(static_cast<int64_t>(axis) + 2) - 1);
      conv.front[axis] = both / 2;
      conv.behind[axis] = both - both / 2;
    }
  if (is_transposed) {
    const Sizes more = list("output_padding", 0);
    BITLAB_TRY(x, spread(lowering, call, x, conv.stride));
    for (size_t axis = 0; axis < axes; ++axis) {
      const int64_t reach = conv.dilation[axis] * (call.tensor("weight").size(static_cast<int64_t>(axis) + 2) - 1);
      conv.front[axis] = reach - conv.front[axis];
      conv.behind[axis] = reach - conv.behind[axis] + more[axis];
      conv.stride[axis] = 1;
    }
    BITLAB_TRY(weight, turned_weight(lowering, call, weight, groups));
  }
  BITLAB_TRY(ValueId y, convolved(lowering, call, x, weight, conv));
  if (const at::Tensor bias = call.tensor("bias"); bias.defined()) {
    BITLAB_TRY(ValueId added, lowering.operand(call, "bias"));
    Shape shape(axes + 1, 1);
    shape[0] = lowering.shape(added)[0];
    BITLAB_TRY(added, lowering.reshape(added, shape));
    BITLAB_TRY(y, lowering.node(Op::add, {y, added}));
  }
  return lowering.finish(call, y);
}

namespace {

// Along one axis of fixed size: the places [windows, taps] that windows read.
at::Tensor places_of(int64_t windows, int64_t taps, int64_t stride, int64_t dilation) {
  return at::arange(windows).unsqueeze(1) * stride + at::arange(taps) * dilation;
}

int64_t product_of(const std::vector<at::Tensor>& places, int64_t dim) {
  int64_t all = 1;
  for (const at::Tensor& axis : places) all *= axis.size(dim);
  return all;
}

// Each window's places, without what lies outside of the image: in its stead the nearest place of the window that does not, which is no first largest one
// before that itself is. A place is counted row by row in the whole image.
Status finish_places(Lowering& lowering, const Call& call, ValueId x, const std::vector<at::Tensor>& windows) {
  const at::Tensor& output = call.outputs.at(1).toTensor();
  if (!lowering.is_read(output)) {
    lowering.lose(output);
    return {};
  }
  Sizes sizes;
  for (size_t i = 2; i < lowering.shape(x).size(); ++i) sizes.push_back(lowering.shape(x)[i].factor);
  const auto axes = static_cast<int64_t>(windows.size());
  at::Tensor places = at::zeros({}, at::kLong);  // [windows..., taps...]
  for (int64_t axis = 0; axis < axes; ++axis) {
    Sizes shape(static_cast<size_t>(2 * axes), 1);
    shape[static_cast<size_t>(axis)] = windows[static_cast<size_t>(axis)].size(0);
    shape[static_cast<size_t>(axis + axes)] = windows[static_cast<size_t>(axis)].size(1);
    places = places * sizes[static_cast<size_t>(axis)] + windows[static_cast<size_t>(axis)].view(shape);
  }
  const int64_t taps = product_of(windows, 1), count = product_of(windows, 0);
  Shape shape = lowering.shape(x);
  shape.resize(2);
  Shape result = shape;
  for (const at::Tensor& axis : windows) result.emplace_back(axis.size(0));
  BITLAB_TRY(ValueId y, lowering.reshape(x, {shape[0], shape[1], program::volume({sizes.begin(), sizes.end()})}));
  BITLAB_TRY(y, lowering.node(Op::take, {y, lowering.constant(places.reshape({count, taps}))}, {{"dim", int64_t{2}}}));
  BITLAB_TRY(y, lowering.node(Op::argmax, {y}));
  BITLAB_TRY(y, lowering.node(Op::add, {y, lowering.constant(at::arange(count) * taps)}));
  BITLAB_TRY(y, lowering.node(Op::take, {lowering.constant(places.reshape({-1})), y}, {{"dim", int64_t{0}}}));
  BITLAB_TRY(y, lowering.reshape(y, result));
  return lowering.finish(call, y, output);
}

// The same of a size that differs from run to run. What lies outside of the image is next to what does not.
Status finish_open_places(Lowering& lowering, const Call& call, ValueId x, const PoolWindow& pool) {
  const at::Tensor& output = call.outputs.at(1).toTensor();
  if (!lowering.is_read(output)) {
    lowering.lose(output);
    return {};
  }
  const size_t axes = pool.kernel.size();
  BITLAB_TRY(const Shape result, lowering.shape_of(call, [](const Call& c) { return c.shapes.at(1); }));
  const Shape image(lowering.shape(x).begin() + 2, lowering.shape(x).end());
  const Dim count = program::volume({result.end() - static_cast<std::ptrdiff_t>(axes), result.end()});
  int64_t taps = 1;
  ValueId places = program::kNone;  // [windows..., taps...]
  for (size_t axis = 0; axis < axes; ++axis) {
    if (pool.dilation[axis] != 1 || uses(image[axis], 0))
      return unsupported(call, "places of windows without dilation, or of an image of fixed size",
                         lowering.show(lowering.shape(x)));
    const Dim windows = result[result.size() - axes + axis];
    taps *= pool.kernel[axis];
    BITLAB_TRY(const ValueId size, lowering.size_value(image[axis]));
    BITLAB_TRY(ValueId own, window_places(lowering, windows, pool.kernel[axis], pool.stride[axis]));
    BITLAB_TRY(own, with_number(lowering, Op::add, own, static_cast<double>(-pool.padding[axis])));
    BITLAB_TRY(own, with_number(lowering, Op::maximum, own, 0));
    BITLAB_TRY(const ValueId last, with_number(lowering, Op::add, size, -1));
    BITLAB_TRY(own, lowering.node(Op::minimum, {own, last}));
    Shape aligned(2 * axes, 1);
    aligned[axis] = windows;
    aligned[axis + axes] = pool.kernel[axis];
    BITLAB_TRY(own, lowering.reshape(own, aligned));
    if (places != program::kNone) {
      BITLAB_TRY(places, lowering.node(Op::mul, {places, size}));
      BITLAB_TRY(own, lowering.node(Op::add, {places, own}));
    }
    places = own;
  }
  const Shape shape = lowering.shape(x);
  BITLAB_TRY(ValueId y, lowering.reshape(x, {shape[0], shape[1], program::volume(image)}));
  BITLAB_TRY(places, lowering.reshape(places, {count, taps}));
  BITLAB_TRY(y, lowering.node(Op::take, {y, places}, {{"dim", int64_t{2}}}));
  BITLAB_TRY(y, lowering.node(Op::argmax, {y}));
  BITLAB_TRY(ValueId first, counted_to(lowering, count));
  BITLAB_TRY(first, with_number(lowering, Op::mul, first, static_cast<double>(taps)));
  BITLAB_TRY(y, lowering.node(Op::add, {y, first}));
  BITLAB_TRY(places, lowering.reshape(places, {with_factor(count, count.factor * taps)}));
  BITLAB_TRY(y, lowering.node(Op::take, {places, y}, {{"dim", int64_t{0}}}));
  BITLAB_TRY(y, lowering.reshape(y, result));
  return lowering.finish(call, y, output);
}

}  // namespace

Status finish_pool_places(Lowering& lowering, const Call& call, ValueId x, const PoolWindow& pool) {
  if (call.outputs.size() < 2) return {};
  if (!program::is_fixed({lowering.shape(x).begin() + 2, lowering.shape(x).end()}))
    return finish_open_places(lowering, call, x, pool);
  std::vector<at::Tensor> windows;
  const auto axes = static_cast<int64_t>(pool.kernel.size());
  for (int64_t axis = 0; axis < axes; ++axis) {
    const auto i = static_cast<size_t>(axis);
    const int64_t size = call.argument("self").toTensor().size(axis - axes), count = output_of(call).size(axis - axes);
    const at::Tensor places = places_of(count, pool.kernel[i], pool.stride[i], pool.dilation[i]) - pool.padding[i];
    const at::Tensor inside = places.ge(0).logical_and(places.lt(size));
    const at::Tensor first = places.masked_fill(inside.logical_not(), size).amin(1, true);
    const at::Tensor last = places.masked_fill(inside.logical_not(), -1).amax(1, true);
    windows.push_back(places.maximum(first).minimum(last));
  }
  return finish_places(lowering, call, x, windows);
}

Status finish_adaptive_places(Lowering& lowering, const Call& call, ValueId x, const Sizes& grid) {
  if (call.outputs.size() < 2) return {};
  std::vector<at::Tensor> windows;
  const auto axes = static_cast<int64_t>(grid.size());
  for (int64_t axis = 0; axis < axes; ++axis) {
    const int64_t size = call.argument("self").toTensor().size(axis - axes), count = grid[static_cast<size_t>(axis)];
    const at::Tensor begins = (at::arange(count) * size).floor_divide(count).unsqueeze(1),
                     ends = ((at::arange(count) + 1) * size + count - 1).floor_divide(count).unsqueeze(1);
    windows.push_back((begins + at::arange((ends - begins).max().item<int64_t>())).minimum(ends - 1));
  }
  return finish_places(lowering, call, x, windows);
}

// Values put back at their places, zeros elsewhere.
Status lower_max_unpool(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(ValueId indices, lowering.operand_as(call, "indices", at::kLong));
  BITLAB_TRY(const Shape result, lowering.shape_of_output(call));
  const size_t axes = call.op.find("3d") != std::string::npos ? 3 : 2, front = result.size() - axes;
  const Dim all = program::volume({result.begin() + static_cast<std::ptrdiff_t>(front), result.end()});
  Shape flat = lowering.shape(x), whole(result.begin(), result.begin() + static_cast<std::ptrdiff_t>(front));
  const Dim values = program::volume({flat.begin() + static_cast<std::ptrdiff_t>(front), flat.end()});
  flat.resize(front);
  flat.push_back(values);
  whole.push_back(all);
  BITLAB_TRY(x, lowering.reshape(x, flat));
  BITLAB_TRY(indices, lowering.reshape(indices, flat));
  BITLAB_TRY(ValueId y, lowering.node(Op::expand, {lowering.constant(at::zeros({1}))}, {{"shape", whole}}));
  BITLAB_TRY(
      y, lowering.node(Op::scatter, {y, indices, x}, {{"dim", static_cast<int64_t>(front)}, {"mode", std::string("set")}}));
  lowering.set_exactness(program::Exactness::kIeeeExact);
  BITLAB_TRY(y, lowering.reshape(y, result));
  return lowering.finish(call, y);
}

// The sum of windows at their places in a dimension, what `unfold` took apart.
Status lower_unfold_backward(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "grad_in"));
  BITLAB_TRY(Shape result, lowering.shape_of_output(call));
  const auto rank = static_cast<int64_t>(result.size());
  const int64_t dim = wrap_dim(call.argument("dim").toInt(), rank);
  const Dim size = result[static_cast<size_t>(dim)], count = lowering.shape(x)[static_cast<size_t>(dim)],
            taps = lowering.shape(x).back();
  if (!taps.is_number() || uses(count, 0) || uses(size, 0))
    return unsupported(call, "windows of fixed size within samples", lowering.show(lowering.shape(x)));
  Sizes order;
  for (int64_t i = 0; i < rank; ++i)
    if (i != dim) order.push_back(i);
  order.insert(order.end(), {dim, rank});
  BITLAB_TRY(x, permuted(lowering, x, order));
  Shape flat(lowering.shape(x).begin(), lowering.shape(x).end() - 2), whole = flat;
  flat.push_back(count * taps);
  whole.push_back(size);
  BITLAB_TRY(x, lowering.reshape(x, flat));
  BITLAB_TRY(ValueId indices, window_places(lowering, count, taps.factor, call.argument("step").toInt()));
  BITLAB_TRY(indices, lowering.reshape(indices, {count * taps}));
  BITLAB_TRY(indices, lowering.node(Op::expand, {indices}, {{"shape", flat}}));
  BITLAB_TRY(ValueId y, lowering.node(Op::expand, {lowering.constant(at::zeros({1}))}, {{"shape", whole}}));
  BITLAB_TRY(y, lowering.node(Op::scatter, {y, indices, x}, {{"dim", rank - 1}, {"mode", std::string("add")}}));
  Sizes back = counted(static_cast<size_t>(rank));
  std::rotate(back.begin() + dim, back.begin() + rank - 1, back.begin() + rank);
  BITLAB_TRY(y, permuted(lowering, y, back));
  return lowering.finish(call, y);
}

}  // namespace bitlab::deploy
