// What is read at indices: of whole dimensions, of each sample, in windows.
#include <algorithm>
#include <cstdlib>
#include <optional>

#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>

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

}  // namespace bitlab::deploy
