// x[rows, columns, ...]: what one or several indices read, or write.
#include <algorithm>
#include <map>
#include <optional>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {

const at::Tensor& index_of(const Call& call, size_t dim) { return call.argument("indices").toListRef()[dim].toTensor(); }

Result<ValueId> index_value(Lowering& lowering, const Call& call, size_t dim) {
  const at::Tensor& index = index_of(call, dim);
  if (lowering.is_activation(index)) return lowering.value_of(call, index);
  return lowering.constant_of(call, [&](const Call& c) { return index_of(c, dim); });
}

std::vector<size_t> indexed_dims(const Call& call) {
  std::vector<size_t> dims;
  const auto list = call.argument("indices").toListRef();
  for (size_t i = 0; i < list.size(); ++i)
    if (list[i].isTensor() && list[i].toTensor().defined()) dims.push_back(i);
  return dims;
}

namespace {

// Places of each sample, one sample's behind the other's: x[arange(batch).repeat_interleave(n), places], as detectors take their best. How many a sample has; 0
// for other indices.
int64_t places_of_samples(const Lowering& lowering, const Call& call, const std::vector<size_t>& dims) {
  if (dims != std::vector<size_t>{0, 1} || lowering.is_activation(index_of(call, 0))) return 0;
  const at::Tensor &samples = index_of(call, 0), &places = index_of(call, 1);
  const int64_t batch = call.argument("self").toTensor().size(0);
  if (samples.scalar_type() != at::kLong || places.scalar_type() != at::kLong || samples.dim() != 1 ||
      places.sizes() != samples.sizes() || batch == 0 || samples.numel() % batch != 0)
    return 0;
  const int64_t of_each = samples.numel() / batch;
  return at::equal(samples, at::arange(batch).repeat_interleave(of_each)) ? of_each : 0;
}

}  // namespace

bool indexes_samples(Lowering& lowering, const Call& call) {
  const std::vector<size_t> dims = indexed_dims(call);
  return dims == std::vector<size_t>{0, 1} && lowering.is_activation(index_of(call, 1)) &&
         places_of_samples(lowering, call, dims) == 1 && places_of_samples(lowering, lowering.twin(), dims) == 1;
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

Status lower_places_of_samples(Lowering& lowering, const Call& call, ValueId x) {
  program::Shape shape = lowering.shape(x), ones(shape.size(), 1);
  const auto count = [](const Call& c) { return index_of(c, 1).numel() / c.argument("self").toTensor().size(0); };
  BITLAB_TRY(shape[1], lowering.dim_of(call, count));
  ones[0] = shape[0], ones[1] = shape[1];
  BITLAB_TRY(ValueId places, index_value(lowering, call, 1));
  BITLAB_TRY(places, lowering.reshape(places, ones));
  BITLAB_TRY(places, expanded(lowering, places, shape));
  BITLAB_TRY(x, lowering.node(Op::gather, {x, places}, {{"dim", int64_t{1}}}));
  BITLAB_TRY(const program::Shape result, lowering.shape_of_output(call));
  BITLAB_TRY(x, lowering.reshape(x, result));
  return lowering.finish(call, x);
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
  if (places_of_samples(lowering, call, dims) > 1 && places_of_samples(lowering, lowering.twin(), dims) > 1)
    return lower_places_of_samples(lowering, call, x);
  if (dims.size() > 1) return lower_index_of_dims(lowering, call, x, dims);
  const auto of_mask = [&](const Call& c) { return at::nonzero(index_of(c, dims[0])).squeeze(1); };
  BITLAB_TRY(const ValueId indices, is_mask ? lowering.constant_of(call, of_mask) : index_value(lowering, call, dims[0]));
  return lowering.lower_to(call, Op::take, {x, indices}, {{"dim", static_cast<int64_t>(dims[0])}});
}

}  // namespace bitlab::deploy
