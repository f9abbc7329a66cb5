// What is written into parts of tensors: a new value of the whole, as there is no memory in a program.
#include <algorithm>
#include <limits>
#include <numeric>

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

using program::Shape;

Result<ValueId> put_slice(Lowering& lowering, ValueId base, ValueId part, int64_t dim, int64_t start, int64_t step = 1) {
  if (lowering.shape(base) == lowering.shape(part)) return part;
  return lowering.node(Op::slice_scatter, {base, part}, {{"dim", dim}, {"start", start}, {"step", step}});
}

// With the dimension that a select took away.
Result<ValueId> with_dim(Lowering& lowering, ValueId part, ValueId base, int64_t dim) {
  Shape shape = lowering.shape(base);
  shape[static_cast<size_t>(dim)] = 1;
  return lowering.reshape(part, shape);
}

// --- inverses of views

Result<ValueId> put_sliced(Lowering& lowering, const Call& call, const at::Tensor&, ValueId base, ValueId part) {
  const int64_t dim = dim_of(call);
  BITLAB_TRY(const int64_t start, place_of(lowering, call, dim, "start"));
  return put_slice(lowering, base, part, dim, start, call.op == "aten::slice.Tensor" ? call.argument("step").toInt() : 1);
}

Result<ValueId> put_selected(Lowering& lowering, const Call& call, const at::Tensor&, ValueId base, ValueId part) {
  const int64_t dim = dim_of(call);
  BITLAB_TRY(part, with_dim(lowering, part, base, dim));
  BITLAB_TRY(const int64_t index, place_of(lowering, call, dim, "index"));
  return put_slice(lowering, base, part, dim, index);
}

// One of a list of parts that follow each other, without their dimension where `drops`.
Result<ValueId> put_one_of(Lowering& lowering, const Call& call, const at::Tensor& view, ValueId base, ValueId part,
                           bool drops) {
  const int64_t dim = dim_of(call);
  const auto parts = call.outputs.at(0).toTensorVector(), twins = lowering.twin().outputs.at(0).toTensorVector();
  int64_t start = 0, twin_start = 0;
  for (size_t i = 0; i < parts.size() && !parts[i].is_same(view); ++i) {
    start += drops ? 1 : parts[i].size(dim);
    twin_start += drops ? 1 : twins[i].size(dim);
  }
  if (start != twin_start)
    return unsupported(call, "a part that begins at a fixed place", fmt::format("{} and {}", start, twin_start));
  if (drops) {
    BITLAB_TRY(part, with_dim(lowering, part, base, dim));
  }
  return put_slice(lowering, base, part, dim, start);
}
Result<ValueId> put_split(Lowering& lowering, const Call& call, const at::Tensor& view, ValueId base, ValueId part) {
  return put_one_of(lowering, call, view, base, part, false);
}
Result<ValueId> put_unbound(Lowering& lowering, const Call& call, const at::Tensor& view, ValueId base, ValueId part) {
  return put_one_of(lowering, call, view, base, part, true);
}

Result<ValueId> put_reshaped(Lowering& lowering, const Call&, const at::Tensor&, ValueId base, ValueId part) {
  return lowering.reshape(part, lowering.shape(base));
}

Result<ValueId> put_permuted(Lowering& lowering, const Call& call, const at::Tensor&, ValueId, ValueId part) {
  const auto rank = static_cast<int64_t>(lowering.shape(part).size());
  Sizes back = counted(static_cast<size_t>(rank));
  if (call.op == "aten::permute") {
    Sizes order = call.argument("dims").toIntVector();
    for (int64_t& dim : order) dim = wrap_dim(dim, rank);
    back = inverse_of(order);
  } else if (call.op == "aten::t") {
    std::reverse(back.begin(), back.end());
  } else {
    std::swap(back[static_cast<size_t>(dim_of(call, "dim0"))], back[static_cast<size_t>(dim_of(call, "dim1"))]);
  }
  return lowering.node(Op::permute, {part}, {{"dims", back}});
}

struct ViewRow {
  std::string_view op;
  ViewFunction put_back;
};
constexpr ViewRow kViews[] = {
    {"aten::slice.Tensor", put_sliced},
    {"aten::narrow", put_sliced},
    {"aten::select.int", put_selected},
    {"aten::chunk", put_split},
    {"aten::split.Tensor", put_split},
    {"aten::split.sizes", put_split},
    {"aten::split_with_sizes", put_split},
    {"aten::unbind.int", put_unbound},
    {"aten::view", put_reshaped},
    {"aten::reshape", put_reshaped},
    {"aten::flatten.using_ints", put_reshaped},
    {"aten::unflatten.int", put_reshaped},
    {"aten::_unsafe_view", put_reshaped},
    {"aten::unsqueeze", put_reshaped},
    {"aten::squeeze", put_reshaped},
    {"aten::squeeze.dim", put_reshaped},
    {"aten::alias", put_reshaped},
    {"aten::detach", put_reshaped},
    {"aten::permute", put_permuted},
    {"aten::transpose.int", put_permuted},
    {"aten::t", put_permuted},
    {"aten::diagonal", put_on_diagonal},
};

// --- scattering

// Values of `source` scattered to indices of its shape, which may be smaller than x in the other dimensions: then in the part of x that begins where x
// does.
Result<ValueId> scattered(Lowering& lowering, ValueId x, int64_t dim, ValueId indices, ValueId source,
                          const std::string& mode) {
  const Shape shape = lowering.shape(x), part = lowering.shape(indices);
  for (size_t i = 0; i < shape.size(); ++i) {
    if (static_cast<int64_t>(i) == dim || shape[i] == part[i]) continue;
    BITLAB_TRY(ValueId inner, slice_of(lowering, x, static_cast<int64_t>(i), 0, part[i]));
    BITLAB_TRY(inner, scattered(lowering, inner, dim, indices, source, mode));
    return put_slice(lowering, x, inner, static_cast<int64_t>(i), 0);
  }
  const bool adds_up = mode == "add" || mode == "mul";
  BITLAB_TRY(const ValueId y, lowering.node(Op::scatter, {x, indices, source}, {{"dim", dim}, {"mode", mode}}));
  if (!adds_up) lowering.set_exactness(program::Exactness::kIeeeExact);
  return y;
}

// The same at indices [m] that all have in common: source has m in place of the size of the dimension.
Result<ValueId> scattered_to_rows(Lowering& lowering, ValueId x, int64_t dim, ValueId rows, ValueId source,
                                  const std::string& mode) {
  Shape shape(lowering.shape(x).size(), 1), target = lowering.shape(x);
  shape[static_cast<size_t>(dim)] = target[static_cast<size_t>(dim)] = program::volume(lowering.shape(rows));
  BITLAB_TRY(rows, lowering.reshape(rows, shape));
  BITLAB_TRY(rows, expanded(lowering, rows, target));
  BITLAB_TRY(source, expanded(lowering, source, target));
  return scattered(lowering, x, dim, rows, source, mode);
}

at::ScalarType result_type(const Call& call) { return output_of(call).scalar_type(); }

Result<ValueId> filled(Lowering& lowering, const Shape& shape, double value, at::ScalarType type) {
  return lowering.node(Op::expand, {lowering.number(value, type)}, {{"shape", shape}});
}

// What a scatter writes: a number, or the beginning of a tensor that may be larger than the indices.
Result<ValueId> source_of(Lowering& lowering, const Call& call, const char* name, Shape shape) {
  BITLAB_TRY(ValueId source, lowering.operand_as(call, name, result_type(call)));
  if (call.argument(name).isScalar() || !call.argument(name).isTensor() || call.tensor(name).dim() == 0)
    return expanded(lowering, source, shape);
  for (size_t i = 0; i < shape.size(); ++i) {
    if (lowering.shape(source)[i] == shape[i]) continue;
    BITLAB_TRY(source, slice_of(lowering, source, static_cast<int64_t>(i), 0, shape[i]));
  }
  return source;
}

Status scatter(Lowering& lowering, const Call& call, const char* source_name, const std::string& mode) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", result_type(call)));
  BITLAB_TRY(const ValueId indices, lowering.operand_as(call, "index", at::kLong));
  BITLAB_TRY(const ValueId source, source_of(lowering, call, source_name, lowering.shape(indices)));
  BITLAB_TRY(const ValueId y, scattered(lowering, x, dim_of(call), indices, source, mode));
  return lowering.finish(call, y);
}

}  // namespace

ViewFunction find_view_function(std::string_view op) {
  const auto* const found =
      std::find_if(std::begin(kViews), std::end(kViews), [&](const ViewRow& row) { return row.op == op; });
  return found == std::end(kViews) ? nullptr : found->put_back;
}

Status lower_scatter(Lowering& lowering, const Call& call) {
  return scatter(lowering, call, call.op.find(".value") == std::string::npos ? "src" : "value", "set");
}
Status lower_scatter_add(Lowering& lowering, const Call& call) { return scatter(lowering, call, "src", "add"); }

// scatter.reduce, and scatter_reduce, whose result may leave out what was there before: extremes then begin with one of the values, sums with 0.
Status lower_scatter_reduce(Lowering& lowering, const Call& call) {
  const std::string reduce = call.argument("reduce").toStringRef();
  const auto is_given = [&](const char* name) {
    return std::any_of(call.arguments.begin(), call.arguments.end(), [&](const Argument& a) { return a.name == name; });
  };
  const char* source_name = is_given("src") ? "src" : "value";
  const bool includes_self = !is_given("include_self") || call.argument("include_self").toBool();
  const bool is_mean = reduce == "mean";
  const std::string mode = reduce == "sum" || reduce == "add" || is_mean ? "add"
                           : reduce == "prod" || reduce == "multiply"    ? "mul"
                           : reduce == "amax"                            ? "maximum"
                                                                         : "minimum";
  const at::ScalarType type = result_type(call);
  if (is_mean && type != at::kFloat) return unsupported(call, "a mean of float32", c10::toString(type));
  const int64_t dim = dim_of(call);
  BITLAB_TRY(ValueId y, lowering.operand_as(call, "self", type));
  BITLAB_TRY(const ValueId indices, lowering.operand_as(call, "index", at::kLong));
  const Shape shape = lowering.shape(indices), whole = lowering.shape(y);
  BITLAB_TRY(const ValueId source, source_of(lowering, call, source_name, shape));
  if (!includes_self) {
    ValueId first = source;
    if (mode == "add" || mode == "mul") {
      BITLAB_TRY(first, filled(lowering, shape, mode == "mul" ? 1 : 0, type));
    }
    BITLAB_TRY(y, scattered(lowering, y, dim, indices, first, "set"));
  }
  BITLAB_TRY(y, scattered(lowering, y, dim, indices, source, mode));
  if (!is_mean) return lowering.finish(call, y);
  BITLAB_TRY(ValueId count, filled(lowering, whole, includes_self ? 1 : 0, type));
  BITLAB_TRY(const ValueId ones, filled(lowering, shape, 1, type));
  BITLAB_TRY(count, scattered(lowering, count, dim, indices, ones, "add"));
  BITLAB_TRY(count, with_number(lowering, Op::maximum, count, 1));
  return lowering.lower_to(call, Op::div, {y, count});
}

Status lower_index_add(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", result_type(call)));
  BITLAB_TRY(const ValueId rows, lowering.operand_as(call, "index", at::kLong));
  BITLAB_TRY(ValueId source, lowering.operand_as(call, "source", result_type(call)));
  if (const double alpha = call.argument("alpha").toScalar().toDouble(); alpha != 1) {
    BITLAB_TRY(source, expanded(lowering, source, lowering.shape(source)));
    BITLAB_TRY(source, scaled(lowering, source, alpha));
  }
  BITLAB_TRY(const ValueId y, scattered_to_rows(lowering, x, dim_of(call), rows, source, "add"));
  return lowering.finish(call, y);
}

// index_copy, and index_fill with a number.
Status lower_index_copy(Lowering& lowering, const Call& call) {
  const bool fills = call.op.find("fill") != std::string::npos;
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", result_type(call)));
  BITLAB_TRY(const ValueId rows, lowering.operand_as(call, "index", at::kLong));
  BITLAB_TRY(const ValueId source, lowering.operand_as(call, fills ? "value" : "source", result_type(call)));
  BITLAB_TRY(const ValueId y, scattered_to_rows(lowering, x, dim_of(call), rows, source, "set"));
  return lowering.finish(call, y);
}

Status lower_slice_scatter(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", result_type(call)));
  BITLAB_TRY(const ValueId source, lowering.operand_as(call, "src", result_type(call)));
  const int64_t dim = dim_of(call);
  BITLAB_TRY(const int64_t start, place_of(lowering, call, dim, "start"));
  BITLAB_TRY(const ValueId y, put_slice(lowering, x, source, dim, start, call.argument("step").toInt()));
  return lowering.finish(call, y);
}

Status lower_select_scatter(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", result_type(call)));
  BITLAB_TRY(ValueId source, lowering.operand_as(call, "src", result_type(call)));
  const int64_t dim = dim_of(call);
  BITLAB_TRY(source, with_dim(lowering, source, x, dim));
  BITLAB_TRY(const int64_t index, place_of(lowering, call, dim, "index"));
  BITLAB_TRY(const ValueId y, put_slice(lowering, x, source, dim, index));
  return lowering.finish(call, y);
}

// A number, or zero, everywhere.
Status lower_fill(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Shape shape, lowering.shape_of_output(call));
  const bool is_zero = call.op.starts_with("aten::zero");
  BITLAB_TRY(ValueId value, is_zero ? Result<ValueId>(lowering.number(0, result_type(call)))
                                    : lowering.operand_as(call, "value", result_type(call)));
  BITLAB_TRY(value, lowering.node(Op::expand, {value}, {{"shape", shape}}));
  return lowering.finish(call, value);
}

namespace {

Status put_where(Lowering& lowering, const Call& call, ValueId x, ValueId values, size_t dim) {
  BITLAB_TRY(ValueId condition, index_value(lowering, call, dim));
  Shape aligned = lowering.shape(condition);
  aligned.insert(aligned.end(), lowering.shape(x).size() - dim - aligned.size(), 1);
  BITLAB_TRY(condition, lowering.reshape(condition, aligned));
  return lowering.lower_to(call, Op::where, {condition, values, x});
}

// x[:, mask] = value, of a mask of some dimensions: a choice at each of its places.
Status put_masked(Lowering& lowering, const Call& call, ValueId x, ValueId values, size_t dim) {
  const at::Tensor& mask = index_of(call, dim);
  const Shape shape = lowering.shape(x);
  if (call.argument("accumulate").toBool()) return unsupported(call, "values that are set with a mask", "added ones");
  if (lowering.is_selection(call.tensor("values"))) {
    BITLAB_TRY(values, lowering.reshape(values, shape));
    return put_where(lowering, call, x, values, dim);
  }
  const size_t behind = shape.size() - dim - static_cast<size_t>(mask.dim());
  if (call.tensor("values").numel() != 1 && call.tensor("values").dim() > static_cast<int64_t>(behind))
    return unsupported(call, "values that are the same wherever the mask is true", describe(call.argument("values")));
  if (call.tensor("values").numel() == 1) {
    BITLAB_TRY(values, lowering.reshape(values, {1}));
  }
  return put_where(lowering, call, x, values, dim);
}

// x[arange(batch), index] = values: each sample at indices of its own.
Result<ValueId> put_in_samples(Lowering& lowering, const Call& call, ValueId x, ValueId values, const std::string& mode) {
  BITLAB_TRY(ValueId indices, index_value(lowering, call, 1));
  Shape shape = lowering.shape(x), ones(shape.size(), 1);
  ones[0] = shape[0];
  shape[1] = 1;
  Shape of_values = shape;
  of_values.erase(of_values.begin() + 1);
  BITLAB_TRY(indices, lowering.reshape(indices, ones));
  BITLAB_TRY(indices, expanded(lowering, indices, shape));
  BITLAB_TRY(values, expanded(lowering, values, of_values));
  BITLAB_TRY(values, lowering.reshape(values, shape));
  return scattered(lowering, x, 1, indices, values, mode);
}

// x[..., indices, ...] = values, of indices of any shape.
Result<ValueId> put_at_indices(Lowering& lowering, const Call& call, ValueId x, ValueId values, size_t dim,
                               const std::string& mode) {
  BITLAB_TRY(const ValueId indices, index_value(lowering, call, dim));
  const Shape shape = lowering.shape(x), of_indices = lowering.shape(indices);
  Shape written(shape.begin(), shape.begin() + static_cast<std::ptrdiff_t>(dim));
  written.insert(written.end(), of_indices.begin(), of_indices.end());
  written.insert(written.end(), shape.begin() + static_cast<std::ptrdiff_t>(dim) + 1, shape.end());
  BITLAB_TRY(values, expanded(lowering, values, written));
  Shape joined = shape;
  joined[dim] = program::volume(of_indices);
  BITLAB_TRY(values, lowering.reshape(values, joined));
  return scattered_to_rows(lowering, x, static_cast<int64_t>(dim), indices, values, mode);
}

}  // namespace

// x[...] = values, by a mask, by indices of one dimension, or of each sample.
Status lower_index_put(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", result_type(call)));
  const std::vector<size_t> dims = indexed_dims(call);
  const bool by_mask = dims.size() == 1 && index_of(call, dims[0]).scalar_type() == at::kBool;
  ValueId values = program::kNone;
  if (by_mask && dims[0] == 0 && lowering.is_selection(call.tensor("values"))) {
    BITLAB_TRY(values, lowering.unselected(call, call.tensor("values"), index_of(call, 0), index_of(lowering.twin(), 0)));
    BITLAB_TRY(values, lowering.cast(values, result_type(call)));
  } else {
    BITLAB_TRY(values, lowering.operand_as(call, "values", result_type(call)));
  }
  const std::string mode = call.argument("accumulate").toBool() ? "add" : "set";
  ValueId y = program::kNone;
  if (by_mask) return put_masked(lowering, call, x, values, dims[0]);
  if (indexes_samples(lowering, call)) {
    BITLAB_TRY(y, put_in_samples(lowering, call, x, values, mode));
  } else if (dims.size() == 1 && index_of(call, dims[0]).scalar_type() == at::kLong) {
    BITLAB_TRY(y, put_at_indices(lowering, call, x, values, dims[0], mode));
  } else if (std::all_of(dims.begin(), dims.end(),
                         [&](size_t dim) { return index_of(call, dim).scalar_type() == at::kLong; })) {
    BITLAB_TRY(y, put_at_places(lowering, call, x, values, mode));
  } else {
    return unsupported(call, "a mask, or int64 indices", describe(call.argument("indices")));
  }
  return lowering.finish(call, y);
}

}  // namespace bitlab::deploy
