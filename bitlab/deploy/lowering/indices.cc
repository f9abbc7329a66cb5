// What is read at indices: of whole dimensions, of each sample, in windows.
#include <numeric>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/nonzero.h>
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

// The diagonal of two dimensions, which become the last one: taken from both as one.
Status lower_diagonal(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const auto rank = static_cast<int64_t>(lowering.shape(x).size());
  const int64_t rows = dim_of(call, "dim1"), columns = dim_of(call, "dim2"), offset = call.argument("offset").toInt();
  Sizes order;
  for (int64_t dim = 0; dim < rank; ++dim)
    if (dim != rows && dim != columns) order.push_back(dim);
  order.insert(order.end(), {rows, columns});
  BITLAB_TRY(x, lowering.node(Op::permute, {x}, {{"dims", order}}));
  program::Shape shape = lowering.shape(x);
  const program::Dim height = shape[static_cast<size_t>(rank - 2)], width = shape.back();
  if (!height.is_number() || !width.is_number())
    return unsupported(call, "dimensions of fixed size", lowering.show({height, width}));
  shape.pop_back();
  shape.back() = height * width;
  BITLAB_TRY(x, lowering.reshape(x, shape));
  const int64_t first = offset < 0 ? -offset * width.factor : offset;
  const at::Tensor places = at::arange(output_of(call).size(-1)) * (width.factor + 1) + first;
  return lowering.lower_to(call, Op::take, {x, lowering.constant(places)}, {{"dim", rank - 2}});
}

// Windows of a dimension, which stand at the end: taken by their indices.
Status lower_unfold(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const auto rank = static_cast<int64_t>(lowering.shape(x).size());
  const int64_t dim = wrap_dim(call.argument("dimension").toInt(), rank), size = call.argument("size").toInt(),
                step = call.argument("step").toInt();
  const program::Dim& whole = lowering.shape(x)[static_cast<size_t>(dim)];
  if (!whole.is_number() || size < 1) return unsupported(call, "a dimension of fixed size", lowering.show({whole}));
  const int64_t count = (whole.factor - size) / step + 1;
  const at::Tensor places = at::arange(count).unsqueeze(1) * step + at::arange(size);
  BITLAB_TRY(x, lowering.node(Op::take, {x, lowering.constant(places)}, {{"dim", dim}}));
  Sizes order(static_cast<size_t>(rank + 1));
  std::iota(order.begin(), order.end(), int64_t{0});
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

// x[arange(batch), index]: each sample at an index of its own.
Status lower_index_of_samples(Lowering& lowering, const Call& call, ValueId x) {
  BITLAB_TRY(ValueId indices, lowering.value_of(call, index_of(call, 1)));
  program::Shape shape = lowering.shape(x);
  program::Shape ones(shape.size(), 1);
  ones[0] = shape[0];
  shape[1] = 1;
  BITLAB_TRY(indices, lowering.reshape(indices, ones));
  BITLAB_TRY(indices, lowering.node(Op::expand, {indices}, {{"shape", shape}}));
  BITLAB_TRY(ValueId y, lowering.node(Op::gather, {x, indices}, {{"dim", int64_t{1}}}));
  shape.erase(shape.begin() + 1);
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

bool counts_samples(const Call& call) {
  const at::Tensor &samples = index_of(call, 0), &of_each = index_of(call, 1), self = call.argument("self").toTensor();
  return samples.dim() == 1 && of_each.dim() == 1 && of_each.scalar_type() == at::kLong && samples.size(0) == self.size(0) &&
         at::equal(samples, at::arange(self.size(0)));
}

}  // namespace

bool indexes_samples(Lowering& lowering, const Call& call) {
  return indexed_dims(call) == std::vector<size_t>{0, 1} && lowering.is_activation(index_of(call, 1)) &&
         !lowering.is_activation(index_of(call, 0)) && counts_samples(call) && counts_samples(lowering.twin());
}

namespace {

// x[:, rows, columns], of dimensions side by side as one: constants, that broadcast.
Status lower_index_of_dims(Lowering& lowering, const Call& call, ValueId x, const std::vector<size_t>& dims) {
  program::Shape shape = lowering.shape(x);
  int64_t whole = 1;
  for (size_t i = 0; i < dims.size(); ++i) {
    const program::Dim& size = shape[dims[i]];
    const at::Tensor& index = index_of(call, dims[i]);
    if (dims[i] != dims[0] + i || !size.is_number() || index.scalar_type() != at::kLong || lowering.is_activation(index))
      return unsupported(call, "one tensor of int64 indices, or constants for dimensions of fixed sizes side by side",
                         describe(call.argument("indices")));
    whole *= size.factor;
  }
  BITLAB_TRY(const ValueId indices, lowering.constant_of(call, [&](const Call& c) {
    at::Tensor places = at::zeros({}, at::kLong);
    for (const size_t dim : dims) {
      const at::Tensor& index = index_of(c, dim);
      const int64_t size = c.argument("self").toTensor().size(static_cast<int64_t>(dim));
      places = places * size + at::where(index < 0, index + size, index);
    }
    return places;
  }));
  shape.erase(shape.begin() + static_cast<std::ptrdiff_t>(dims[0]) + 1,
              shape.begin() + static_cast<std::ptrdiff_t>(dims.back()) + 1);
  shape[dims[0]] = whole;
  BITLAB_TRY(x, lowering.reshape(x, shape));
  return lowering.lower_to(call, Op::take, {x, indices}, {{"dim", static_cast<int64_t>(dims[0])}});
}

}  // namespace

// x[:, indices]: of one dimension, of several, or of each sample.
Status lower_index(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand(call, "self"));
  const std::vector<size_t> dims = indexed_dims(call);
  if (dims.empty()) return lowering.finish(call, x);
  if (indexes_samples(lowering, call)) return lower_index_of_samples(lowering, call, x);
  if (dims.size() > 1) return lower_index_of_dims(lowering, call, x, dims);
  const at::Tensor& index = index_of(call, dims[0]);
  const bool is_mask = index.scalar_type() == at::kBool && index.dim() == 1 && !lowering.is_activation(index);
  if (index.scalar_type() != at::kLong && !is_mask)
    return unsupported(call, "one tensor of int64 indices", describe(call.argument("indices")));
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
