// What is read at indices: of whole dimensions, of each sample, in windows.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <numeric>
#include <optional>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {

Status lower_index_select(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand(call, "self"));
  BITLAB_TRY(const ValueId indices, lowering.operand_as(call, "index", at::kLong));
  return lowering.lower_to(call, Op::take, {x, indices}, {{"dim", dim_of(call)}});
}

Status lower_gather(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand(call, "self"));
  BITLAB_TRY(const ValueId indices, lowering.operand_as(call, "index", at::kLong));
  return lowering.lower_to(call, Op::gather, {x, indices}, {{"dim", dim_of(call)}});
}

// A row for every index of int64 values: num_classes places, 1 at the index.
Status lower_one_hot(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", at::kLong));
  const int64_t classes = call.argument("num_classes").toInt();
  if (classes < 1) return unsupported(call, "a number of classes", fmt::format("{}", classes));
  program::Shape shape = lowering.shape(x);
  shape.emplace_back(1);
  BITLAB_TRY(x, lowering.reshape(x, shape));
  BITLAB_TRY(x, lowering.node(Op::equal, {x, lowering.constant(at::arange(classes))}));
  BITLAB_TRY(x, lowering.cast(x, at::kLong));
  return lowering.finish(call, x);
}

// As gather, of sizes that broadcast.
Status lower_take_along_dim(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand(call, "self"));
  BITLAB_TRY(ValueId indices, lowering.operand_as(call, "indices", at::kLong));
  if (!given(call, "dim")) return unsupported(call, "a dimension", "none");
  program::Shape shape = lowering.shape(x);
  const auto dim = static_cast<size_t>(dim_of(call));
  if (lowering.shape(indices).size() != shape.size())
    return unsupported(call, "indices of as many dimensions", lowering.show(lowering.shape(indices)));
  shape[dim] = lowering.shape(indices)[dim];
  BITLAB_TRY(indices, expanded(lowering, indices, shape));
  return lowering.lower_to(call, Op::gather, {x, indices}, {{"dim", static_cast<int64_t>(dim)}});
}

// a x b: of three components each times the next one but one of the other, minus the other way round.
Status lower_cross(Lowering& lowering, const Call& call) {
  const int64_t rank = output_of(call).dim(), dim = wrap_dim(call.argument("dim").toInt(), rank);
  BITLAB_TRY(const ValueId a, lowering.operand(call, "self"));
  BITLAB_TRY(const ValueId b, lowering.operand(call, "other"));
  const auto turned = [&](ValueId x, int64_t by) {
    const at::Tensor places = (at::arange(3) + by).remainder(3);
    return lowering.node(Op::take, {x, lowering.constant(places)}, {{"dim", dim}});
  };
  const auto products = [&](int64_t of_a, int64_t of_b) -> Result<ValueId> {
    BITLAB_TRY(const ValueId x, turned(a, of_a));
    BITLAB_TRY(const ValueId y, turned(b, of_b));
    return lowering.node(Op::mul, {x, y});
  };
  BITLAB_TRY(const ValueId plus, products(1, 2));
  BITLAB_TRY(const ValueId minus, products(2, 1));
  BITLAB_RETURN_IF_ERROR(lowering.lower_to(call, Op::sub, {plus, minus}));
  lowering.set_exactness(program::Exactness::kBounded);  // LibTorch may round a product and the difference at once
  return {};
}

namespace {

// The dimensions of x with two of them at the end.
Sizes order_with_last(size_t rank, int64_t rows, int64_t columns) {
  Sizes order;
  for (int64_t dim = 0; dim < static_cast<int64_t>(rank); ++dim)
    if (dim != rows && dim != columns) order.push_back(dim);
  order.insert(order.end(), {rows, columns});
  return order;
}

// [height, width], true on a diagonal; of open sizes, which are the same, on the main one.
Result<ValueId> is_on_diagonal(Lowering& lowering, const program::Dim& height, const program::Dim& width, int64_t offset) {
  if (height.is_number() && width.is_number()) {
    const at::Tensor all = at::ones({height.factor, width.factor}, at::kBool);
    return lowering.constant(all.triu(offset).logical_and(all.tril(offset)));
  }
  BITLAB_TRY(const ValueId columns, counted_to(lowering, width));
  BITLAB_TRY(const ValueId rows, lowering.reshape(columns, {height, 1}));
  return lowering.node(Op::equal, {rows, columns});
}

// The diagonal of [..., n, n], whose size differs from run to run: in each row the value at its place.
Result<ValueId> open_diagonal(Lowering& lowering, const Call& call, ValueId x, int64_t offset) {
  const auto last = static_cast<int64_t>(lowering.shape(x).size()) - 1;
  const program::Dim size = lowering.shape(x).back();
  const auto length = sum(size, -std::abs(offset));
  if (lowering.shape(x)[static_cast<size_t>(last) - 1] != size || uses(size, 0) || !length)
    return unsupported(call, "dimensions of fixed size, or two of one size within samples",
                       lowering.show(lowering.shape(x)));
  lowering.at_least(size, std::abs(offset) + 1);
  BITLAB_TRY(x, slice_of(lowering, x, last - 1, std::max<int64_t>(-offset, 0), *length));
  BITLAB_TRY(ValueId places, counted_to(lowering, *length));
  if (offset > 0) {
    BITLAB_TRY(places, with_number(lowering, Op::add, places, static_cast<double>(offset)));
  }
  program::Shape shape = lowering.shape(x);
  shape.back() = 1;
  BITLAB_TRY(places, lowering.reshape(places, {*length, 1}));
  BITLAB_TRY(places, expanded(lowering, places, shape));
  BITLAB_TRY(x, lowering.node(Op::gather, {x, places}, {{"dim", last}}));
  shape.pop_back();
  return lowering.reshape(x, shape);
}

}  // namespace

Result<ValueId> put_on_diagonal(Lowering& lowering, const Call& call, const at::Tensor&, ValueId base, ValueId part) {
  const size_t rank = lowering.shape(base).size();
  const int64_t offset = call.argument("offset").toInt();
  const Sizes order = order_with_last(rank, dim_of(call, "dim1"), dim_of(call, "dim2"));
  BITLAB_TRY(base, permuted(lowering, base, order));
  const program::Dim height = lowering.shape(base)[rank - 2], width = lowering.shape(base).back(),
                     length = lowering.shape(part).back();
  if (!(height == width && offset == 0) && !(height.is_number() && width.is_number()))
    return unsupported(call, "a diagonal of dimensions of fixed size, or the main one of two of one size",
                       lowering.show(lowering.shape(base)));
  if (length != height) {
    const int64_t above = std::max<int64_t>(-offset, 0);
    BITLAB_TRY(part, zeros_around(lowering, call, part, {above, height.factor - above - length.factor}));
  }
  program::Shape column = lowering.shape(part);
  column.emplace_back(1);
  BITLAB_TRY(part, lowering.reshape(part, column));
  BITLAB_TRY(const ValueId diagonal, is_on_diagonal(lowering, height, width, offset));
  BITLAB_TRY(base, lowering.node(Op::where, {diagonal, part, base}));
  return permuted(lowering, base, inverse_of(order));
}

// A number on the main diagonal of a matrix.
Status lower_fill_diagonal(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const program::Shape shape = lowering.shape(x);
  const bool is_fixed = program::is_fixed(shape), is_tall = is_fixed && shape[0].factor > shape.back().factor;
  if (shape.size() != 2 || (!is_fixed && shape[0] != shape[1]) || (is_tall && call.argument("wrap").toBool()))
    return unsupported(call, "a matrix of fixed or of equal sizes", lowering.show(shape));
  BITLAB_TRY(const ValueId diagonal, is_on_diagonal(lowering, shape[0], shape[1], 0));
  BITLAB_TRY(const ValueId value, lowering.operand_as(call, "fill_value", output_of(call).scalar_type()));
  return lowering.lower_to(call, Op::where, {diagonal, value, x});
}

// The diagonal of two dimensions, which become the last one: taken from both as one.
Status lower_diagonal(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const auto rank = static_cast<int64_t>(lowering.shape(x).size());
  const int64_t rows = dim_of(call, "dim1"), columns = dim_of(call, "dim2"), offset = call.argument("offset").toInt();
  BITLAB_TRY(x, lowering.node(Op::permute, {x}, {{"dims", order_with_last(static_cast<size_t>(rank), rows, columns)}}));
  program::Shape shape = lowering.shape(x);
  const program::Dim height = shape[static_cast<size_t>(rank - 2)], width = shape.back();
  if (!height.is_number() || !width.is_number()) {
    BITLAB_TRY(x, open_diagonal(lowering, call, x, offset));
    return lowering.finish(call, x);
  }
  shape.pop_back();
  shape.back() = height * width;
  BITLAB_TRY(x, lowering.reshape(x, shape));
  const int64_t first = offset < 0 ? -offset * width.factor : offset;
  const at::Tensor places = at::arange(output_of(call).size(-1)) * (width.factor + 1) + first;
  return lowering.lower_to(call, Op::take, {x, lowering.constant(places)}, {{"dim", rank - 2}});
}

// The last dimension on a diagonal of two new ones; zeros elsewhere.
Status lower_diag_embed(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const int64_t rank = output_of(call).dim(), rows = wrap_dim(call.argument("dim1").toInt(), rank),
                columns = wrap_dim(call.argument("dim2").toInt(), rank), offset = call.argument("offset").toInt();
  program::Shape shape = lowering.shape(x);
  const program::Dim length = shape.back();
  if (uses(length, 0) || (!length.is_number() && offset != 0))
    return unsupported(call, "a dimension within samples, of fixed size beside the main diagonal", lowering.show(shape));
  // [..., 1, n] where the matrix has a diagonal, of which row i has element i, or i + offset of a diagonal below.
  const int64_t size = length.factor + std::abs(offset);
  shape.insert(shape.end() - 1, 1);
  BITLAB_TRY(x, lowering.reshape(x, shape));
  BITLAB_TRY(x, zeros_around(lowering, call, x, {std::max<int64_t>(offset, 0), std::max<int64_t>(-offset, 0)}));
  const program::Dim whole = length.is_number() ? program::Dim(size) : length;
  BITLAB_TRY(const ValueId diagonal, is_on_diagonal(lowering, whole, whole, offset));
  const ValueId zero = lowering.number(0, output_of(call).scalar_type());
  BITLAB_TRY(x, lowering.node(Op::where, {diagonal, x, zero}));
  Sizes order(static_cast<size_t>(rank));
  for (int64_t dim = 0, next = 0; dim < rank; ++dim)
    order[static_cast<size_t>(dim)] = dim == rows ? rank - 2 : dim == columns ? rank - 1 : next++;
  BITLAB_TRY(x, permuted(lowering, x, order));
  return lowering.finish(call, x);
}

// At places of all that there is, as if it had one dimension.
Status lower_take(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.operand(call, "self"));
  BITLAB_TRY(const ValueId places, lowering.operand_as(call, "index", at::kLong));
  const program::Dim all = program::volume(lowering.shape(x));
  BITLAB_TRY(x, lowering.reshape(x, {all}));
  return lowering.lower_to(call, Op::take, {x, places}, {{"dim", int64_t{0}}});
}

Result<ValueId> window_places(Lowering& lowering, const program::Dim& count, int64_t taps, int64_t step, int64_t dilation) {
  const at::Tensor of_window = at::arange(taps) * dilation;
  if (count.is_number()) return lowering.constant(at::arange(count.factor).unsqueeze(1) * step + of_window);
  BITLAB_TRY(ValueId places, counted_to(lowering, count));
  BITLAB_TRY(places, lowering.reshape(places, {count, 1}));
  BITLAB_TRY(places, lowering.node(Op::mul, {places, lowering.number(step, at::kLong)}));
  return lowering.node(Op::add, {places, lowering.constant(of_window)});
}

Result<ValueId> frames_of(Lowering& lowering, ValueId x, int64_t dim, const program::Dim& count, int64_t size, int64_t step,
                          int64_t dilation) {
  BITLAB_TRY(const ValueId places, window_places(lowering, count, size, step, dilation));
  return lowering.node(Op::take, {x, places}, {{"dim", dim}});
}

// Windows of a dimension, which stand at the end: taken by their indices.
Status lower_unfold(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const auto rank = static_cast<int64_t>(lowering.shape(x).size());
  const int64_t dim = wrap_dim(call.argument("dimension").toInt(), rank), size = call.argument("size").toInt(),
                step = call.argument("step").toInt();
  const program::Dim& whole = lowering.shape(x)[static_cast<size_t>(dim)];
  if (const auto count = divided(whole, size); size >= 1 && size == step && count) {  // side by side
    program::Shape split = lowering.shape(x);
    split[static_cast<size_t>(dim)] = *count;
    split.insert(split.begin() + dim + 1, size);
    BITLAB_TRY(x, lowering.reshape(x, split));
    Sizes order = counted(static_cast<size_t>(rank + 1));
    std::rotate(order.begin() + dim + 1, order.begin() + dim + 2, order.end());
    BITLAB_TRY(x, permuted(lowering, x, order));
    return lowering.finish(call, x);
  }
  const std::optional<program::Dim> count = quotient(whole, step - size, step);
  if (uses(whole, 0) || size < 1 || !count) return unsupported(call, "a dimension within samples", lowering.show({whole}));
  lowering.at_least(whole, size);
  BITLAB_TRY(x, frames_of(lowering, x, dim, *count, size, step));
  Sizes order = counted(static_cast<size_t>(rank + 1));
  std::rotate(order.begin() + dim + 1, order.begin() + dim + 2, order.end());
  return lowering.lower_to(call, Op::permute, {x}, {{"dims", order}});
}

const at::Tensor& index_of(const Call& call, size_t dim) { return call.argument("indices").toListRef()[dim].toTensor(); }

std::vector<size_t> indexed_dims(const Call& call) {
  std::vector<size_t> dims;
  const auto list = call.argument("indices").toListRef();
  for (size_t i = 0; i < list.size(); ++i)
    if (list[i].isTensor() && list[i].toTensor().defined()) dims.push_back(i);
  return dims;
}

namespace {

// Whether a dimension's index is 0, 1, ... up to all that there are.
bool is_whole(const Call& call, size_t dim) {
  const at::Tensor& index = index_of(call, dim);
  const int64_t size = call.argument("self").toTensor().size(static_cast<int64_t>(dim));
  return index.numel() == size && at::equal(index.reshape({-1}), at::arange(size));
}

bool counts_samples(const Call& call) {
  const at::Tensor &samples = index_of(call, 0), &of_each = index_of(call, 1);
  return samples.dim() == 1 && of_each.dim() == 1 && of_each.scalar_type() == at::kLong && is_whole(call, 0);
}

}  // namespace

bool indexes_samples(Lowering& lowering, const Call& call) {
  return indexed_dims(call) == std::vector<size_t>{0, 1} && lowering.is_activation(index_of(call, 1)) &&
         !lowering.is_activation(index_of(call, 0)) && counts_samples(call) && counts_samples(lowering.twin());
}

namespace {

// The axis of the indices' common shape, of `rank`, along which a dimension's index is 0, 1, ... up to all that there are, and the same along the others:
// the dimension stays whole. Nothing for an index of another kind.
std::optional<int64_t> whole_axis(const Call& call, size_t dim, int64_t rank) {
  const at::Tensor& index = index_of(call, dim);
  const int64_t size = call.argument("self").toTensor().size(static_cast<int64_t>(dim));
  if (size == 1 || index.scalar_type() != at::kLong) return std::nullopt;
  for (int64_t axis = 0; axis < index.dim(); ++axis) {
    Sizes shape(static_cast<size_t>(index.dim()), 1);
    shape[static_cast<size_t>(axis)] = size;
    if (index.size(axis) == size && at::equal(at::arange(size).view(shape).expand_as(index), index))
      return axis + rank - index.dim();
  }
  return std::nullopt;
}

program::Shape joined(std::initializer_list<program::Shape> parts) {
  program::Shape all;
  for (const program::Shape& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

// x[..., rows, columns, ...] of dimensions that have an index each, whose shapes broadcast to one of `axes`.
struct Indexing {
  program::Shape shape;                  // of x
  std::vector<size_t> dims;              // that have an index
  std::map<int64_t, size_t> whole = {};  // by axis, the dimension that stays whole along it
  std::vector<size_t> picked = {};       // the other ones of `dims`
  program::Shape front = {}, behind = {},
                 axes = {};  // sizes: in front of the first of `dims`, behind it without an index, of the indices

  static Result<Indexing> of(Lowering& lowering, const Call& call, ValueId x, std::vector<size_t> indexed) {
    Indexing indexing(lowering, call, x, std::move(indexed));
    // An index of a whole dimension may be repeated along other axes.
    for (const auto& [axis, dim] : indexing.whole) {
      const auto sizes_of = [&, at = dim](const Call& c) { return index_of(c, at).sizes().vec(); };
      BITLAB_TRY(const program::Shape sizes, lowering.shape_of(call, sizes_of));
      for (size_t i = 0; i < sizes.size(); ++i)
        if (program::Dim& size = indexing.axes[indexing.axes.size() - sizes.size() + i]; size == program::Dim(1))
          size = sizes[i];
    }
    return indexing;
  }

 private:
  Indexing(const Lowering& lowering, const Call& call, ValueId x, std::vector<size_t> indexed)
      : shape(lowering.shape(x)), dims(std::move(indexed)) {
    int64_t rank = 0;
    for (const size_t dim : dims) rank = std::max(rank, index_of(call, dim).dim());
    for (const size_t dim : dims) {
      const bool is_constant = !lowering.is_activation(index_of(call, dim));
      const auto axis = is_constant ? whole_axis(call, dim, rank) : std::nullopt;
      const bool is_whole = axis && whole_axis(lowering.twin(), dim, rank) == axis && whole.try_emplace(*axis, dim).second;
      if (!is_whole) picked.push_back(dim);
    }
    axes.assign(static_cast<size_t>(rank), 1);
    for (const auto& [axis, dim] : whole) axes[static_cast<size_t>(axis)] = shape[dim];
    front.assign(shape.begin(), shape.begin() + static_cast<std::ptrdiff_t>(dims[0]));
    for (size_t dim = dims[0]; dim < shape.size(); ++dim)
      if (!has_index(dim)) behind.push_back(shape[dim]);
  }

 public:
  bool has_index(size_t dim) const { return std::find(dims.begin(), dims.end(), dim) != dims.end(); }
  bool are_side_by_side() const { return dims.back() - dims[0] + 1 == dims.size(); }
  // x's dimensions as [front, whole ones by axis, picked ones, behind].
  Sizes order() const {
    Sizes order = counted(front.size());
    for (const auto& [axis, dim] : whole) order.push_back(static_cast<int64_t>(dim));
    for (const size_t dim : picked) order.push_back(static_cast<int64_t>(dim));
    for (size_t dim = dims[0]; dim < shape.size(); ++dim)
      if (!has_index(dim)) order.push_back(static_cast<int64_t>(dim));
    return order;
  }
  // The axes along which dimensions stay whole, then the others.
  Sizes axes_by_kind() const {
    Sizes order;
    for (const auto& [axis, dim] : whole) order.push_back(axis);
    for (size_t axis = 0; axis < axes.size(); ++axis)
      if (!whole.contains(static_cast<int64_t>(axis))) order.push_back(static_cast<int64_t>(axis));
    return order;
  }
};

// Where dimensions of x that are taken as one are read, counted from their beginning; a number below 0 counts from the end of its own dimension.
Result<ValueId> joined_places(Lowering& lowering, const Call& call, const program::Shape& shape,
                              const std::vector<size_t>& dims) {
  const auto is_fixed = [&](size_t dim) { return shape[dim].is_number(); };
  const auto is_activation = [&](size_t dim) { return lowering.is_activation(index_of(call, dim)); };
  if (dims.size() == 1 && is_activation(dims[0])) return lowering.value_of(call, index_of(call, dims[0]));
  if (dims.size() > 1 && !std::all_of(dims.begin(), dims.end(), is_fixed))
    return unsupported(call, "indices for one dimension, or for dimensions of fixed sizes", lowering.show(shape));
  const auto stride_of = [&](size_t dim) {  // how many places one more is
    int64_t stride = 1;
    for (auto later = dims.rbegin(); *later != dim; ++later) stride *= shape[*later].factor;
    return stride;
  };
  BITLAB_TRY(ValueId places, lowering.constant_of(call, [&](const Call& c) {
    at::Tensor constant = at::zeros({}, at::kLong);
    for (const size_t dim : dims) {
      if (is_activation(dim)) continue;
      const at::Tensor& index = index_of(c, dim);
      const int64_t size = c.argument("self").toTensor().size(static_cast<int64_t>(dim));
      constant = constant + at::where(index < 0, index + size, index) * stride_of(dim);
    }
    return constant;
  }));
  const auto number = [&](int64_t value) { return lowering.number(value, at::kLong); };
  for (const size_t dim : dims) {
    if (!is_activation(dim)) continue;
    BITLAB_TRY(ValueId index, lowering.value_of(call, index_of(call, dim)));
    BITLAB_TRY(const ValueId is_below, lowering.node(Op::less, {index, number(0)}));
    BITLAB_TRY(const ValueId from_end, lowering.node(Op::add, {index, number(shape[dim].factor)}));
    BITLAB_TRY(index, lowering.node(Op::where, {is_below, from_end, index}));
    BITLAB_TRY(index, lowering.node(Op::mul, {index, number(stride_of(dim))}));
    BITLAB_TRY(places, lowering.node(Op::add, {index, places}));
  }
  return places;
}

// The indices' axes, those along which dimensions stay whole first, and their sizes.
struct ByKind {
  Sizes order;
  program::Shape sizes, wholes;
  program::Dim taken;  // places for each element of the whole ones

  explicit ByKind(const Indexing& indexing) : order(indexing.axes_by_kind()) {
    for (const int64_t axis : order) sizes.push_back(indexing.axes[static_cast<size_t>(axis)]);
    const auto count = static_cast<std::ptrdiff_t>(indexing.whole.size());
    wholes.assign(sizes.begin(), sizes.begin() + count);
    taken = program::volume({sizes.begin() + count, sizes.end()});
  }
};

// The axes that places tell the sizes of.
void add_axes_of(const Lowering& lowering, Indexing& indexing, ValueId places) {
  const program::Shape& sizes = lowering.shape(places);
  auto& axes = indexing.axes;
  for (size_t i = 0; i < sizes.size(); ++i)
    if (program::Dim& size = axes[axes.size() - sizes.size() + i]; size == program::Dim(1)) size = sizes[i];
}

// Places of the picked dimensions, which are one, as [front, wholes, taken, behind].
Result<ValueId> places_of_each(Lowering& lowering, const Indexing& indexing, const ByKind& kinds, ValueId places) {
  const program::Shape &front = indexing.front, &behind = indexing.behind;
  BITLAB_TRY(places, with_rank(lowering, places, indexing.axes.size()));
  BITLAB_TRY(places, expanded(lowering, places, indexing.axes));
  BITLAB_TRY(places, permuted(lowering, places, kinds.order));
  const program::Shape ones(front.size(), 1), ones_behind(behind.size(), 1);
  BITLAB_TRY(places, lowering.reshape(places, joined({ones, kinds.wholes, {kinds.taken}, ones_behind})));
  return expanded(lowering, places, joined({front, kinds.wholes, {kinds.taken}, behind}));
}

// The picked dimensions of x, which are one, read at places; for each element of the whole ones at places of its own. x is [front, whole, all of the picked,
// behind] before, [front, axes, behind] after.
Result<ValueId> picked_at(Lowering& lowering, Indexing& indexing, ValueId x, ValueId places) {
  add_axes_of(lowering, indexing, places);
  const auto& [shape, dims, whole, picked, front, behind, axes] = indexing;
  const auto dim = static_cast<int64_t>(front.size() + whole.size());
  if (whole.empty()) {
    BITLAB_TRY(places, lowering.reshape(places, axes));
    return lowering.node(Op::take, {x, places}, {{"dim", dim}});
  }
  const ByKind kinds(indexing);
  BITLAB_TRY(places, places_of_each(lowering, indexing, kinds, places));
  BITLAB_TRY(x, lowering.node(Op::gather, {x, places}, {{"dim", dim}}));
  BITLAB_TRY(x, lowering.reshape(x, joined({front, kinds.sizes, behind})));
  Sizes back = counted(front.size() + axes.size() + behind.size());
  for (size_t i = 0; i < axes.size(); ++i)
    back[front.size() + static_cast<size_t>(kinds.order[i])] = static_cast<int64_t>(front.size() + i);
  return permuted(lowering, x, back);
}

// The picked dimensions of x, joined: [front, wholes, all of them, behind].
program::Shape with_picked_joined(const Indexing& indexing) {
  program::Shape whole;
  for (const auto& [axis, dim] : indexing.whole) whole.push_back(indexing.shape[dim]);
  program::Dim all = 1;
  for (const size_t dim : indexing.picked) all = all * indexing.shape[dim];
  return joined({indexing.front, whole, {all}, indexing.behind});
}

// Where other dimensions lie between those that have an index, the indices' axes come first: their order in [front, axes, behind].
Sizes axes_first(const Indexing& indexing) {
  const size_t front = indexing.front.size(), rank = indexing.axes.size();
  Sizes order = counted(rank, front);
  for (const int64_t dim : counted(front)) order.push_back(dim);
  for (const int64_t dim : counted(indexing.behind.size(), front + rank)) order.push_back(dim);
  return order;
}

program::Dim whole_volume(const Indexing& indexing) {
  program::Dim all = 1;
  for (const auto& [axis, dim] : indexing.whole) all = all * indexing.shape[dim];
  return all;
}

// Dimensions that stay whole lie still, the others are taken as one, for each element of the whole ones. So x[arange(batch), place] is an index for each
// sample, and mask[samples, keys] a mask in another shape.
Status lower_index_of_dims(Lowering& lowering, const Call& call, ValueId x, const std::vector<size_t>& dims) {
  BITLAB_TRY(Indexing indexing, Indexing::of(lowering, call, x, dims));
  BITLAB_TRY(x, permuted(lowering, x, indexing.order()));
  const bool is_picked = !indexing.picked.empty() || program::volume(indexing.axes) != whole_volume(indexing);
  if (is_picked) {
    BITLAB_TRY(const ValueId places, joined_places(lowering, call, indexing.shape, indexing.picked));
    BITLAB_TRY(x, lowering.reshape(x, with_picked_joined(indexing)));
    BITLAB_TRY(x, picked_at(lowering, indexing, x, places));
  }
  BITLAB_TRY(x, lowering.reshape(x, joined({indexing.front, indexing.axes, indexing.behind})));
  if (indexing.are_side_by_side()) return lowering.finish(call, x);
  BITLAB_TRY(x, permuted(lowering, x, axes_first(indexing)));
  return lowering.finish(call, x);
}

}  // namespace

// x[rows, columns, ...] = values, the other way round: the values go where index would read.
Result<ValueId> put_at_places(Lowering& lowering, const Call& call, ValueId x, ValueId values, const std::string& mode) {
  BITLAB_TRY(Indexing indexing, Indexing::of(lowering, call, x, indexed_dims(call)));
  const Sizes order = indexing.order();
  BITLAB_TRY(x, permuted(lowering, x, order));
  const program::Shape ordered = lowering.shape(x);
  BITLAB_TRY(ValueId places, joined_places(lowering, call, indexing.shape, indexing.picked));
  add_axes_of(lowering, indexing, places);
  const ByKind kinds(indexing);
  BITLAB_TRY(places, places_of_each(lowering, indexing, kinds, places));
  BITLAB_TRY(x, lowering.reshape(x, with_picked_joined(indexing)));
  program::Shape written = joined({indexing.front, indexing.axes, indexing.behind});
  if (indexing.are_side_by_side()) {
    BITLAB_TRY(values, expanded(lowering, values, written));
  } else {
    const Sizes first = axes_first(indexing);
    program::Shape moved;
    for (const int64_t dim : first) moved.push_back(written[static_cast<size_t>(dim)]);
    BITLAB_TRY(values, expanded(lowering, values, moved));
    BITLAB_TRY(values, permuted(lowering, values, inverse_of(first)));
  }
  const size_t front = indexing.front.size();
  Sizes by_kind = counted(lowering.shape(values).size());
  for (size_t i = 0; i < kinds.order.size(); ++i) by_kind[front + i] = static_cast<int64_t>(front) + kinds.order[i];
  BITLAB_TRY(values, permuted(lowering, values, by_kind));
  BITLAB_TRY(values, lowering.reshape(values, lowering.shape(places)));
  const auto dim = static_cast<int64_t>(front + indexing.whole.size());
  BITLAB_TRY(x, lowering.node(Op::scatter, {x, places, values}, {{"dim", dim}, {"mode", mode}}));
  if (mode == "set") lowering.set_exactness(program::Exactness::kIeeeExact);
  BITLAB_TRY(x, lowering.reshape(x, ordered));
  return permuted(lowering, x, inverse_of(order));
}

// x[:, indices]: of one dimension, or of several.
Status lower_index(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand(call, "self"));
  const std::vector<size_t> dims = indexed_dims(call);
  if (dims.empty()) return lowering.finish(call, x);
  const at::Tensor& index = index_of(call, dims[0]);
  if (dims == std::vector<size_t>{0} && index.scalar_type() == at::kBool && lowering.is_activation(index))
    return lowering.select(call);
  const bool is_mask =
      dims.size() == 1 && index.scalar_type() == at::kBool && index.dim() == 1 && !lowering.is_activation(index);
  const auto is_long = [&](size_t dim) { return index_of(call, dim).scalar_type() == at::kLong; };
  if (!is_mask && !std::all_of(dims.begin(), dims.end(), is_long))
    return unsupported(call, "int64 indices, or a mask of one dimension that is the same in every run",
                       describe(call.argument("indices")));
  if (dims.size() > 1) return lower_index_of_dims(lowering, call, x, dims);
  ValueId indices = program::kNone;
  if (lowering.is_activation(index)) {
    BITLAB_TRY(indices, lowering.value_of(call, index));
  } else {
    BITLAB_TRY(indices, lowering.constant_of(call, [&](const Call& c) {
      return is_mask ? at::nonzero(index_of(c, dims[0])).squeeze(1) : index_of(c, dims[0]);
    }));
  }
  return lowering.lower_to(call, Op::take, {x, indices}, {{"dim", static_cast<int64_t>(dims[0])}});
}

}  // namespace bitlab::deploy
