// Sums, means, extremes, softmax: what reduces dimensions.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/result_type.h>

#include "bitlab/deploy/lowering/internal/terms.h"

namespace bitlab::deploy {
namespace {

// The dimensions that a call reduces, in order: those of its argument, all where it has none.
Sizes reduced_dims(const Call& call, int64_t rank) {
  Sizes dims;
  for (const Argument& argument : call.arguments) {
    if (argument.name != "dim" || argument.value.isNone()) continue;
    dims = argument.value.isInt() ? Sizes{argument.value.toInt()} : argument.value.toIntVector();
  }
  if (dims.empty()) {
    dims = counted(static_cast<size_t>(rank));
  }
  for (int64_t& dim : dims) dim = wrap_dim(dim, rank);
  std::sort(dims.begin(), dims.end());
  return dims;
}

// [kept..., values], or [1, values] where nothing is kept.
struct Rows {
  ValueId x;
  program::Dim values;  // that become one
};

// The dimensions that the call reduces are brought to the end and joined.
Result<Rows> rows_of(Lowering& lowering, const Call& call, ValueId x) {
  const program::Shape shape = lowering.shape(x);
  const auto rank = static_cast<int64_t>(shape.size());
  const Sizes dims = reduced_dims(call, rank);
  Rows rows{x, program::Dim(1)};
  Sizes order;
  program::Shape kept;
  for (int64_t dim = 0; dim < rank; ++dim) {
    const program::Dim& size = shape[static_cast<size_t>(dim)];
    if (std::binary_search(dims.begin(), dims.end(), dim)) {
      rows.values = rows.values * size;
    } else {
      order.push_back(dim);
      kept.push_back(size);
    }
  }
  order.insert(order.end(), dims.begin(), dims.end());
  BITLAB_TRY(rows.x, permuted(lowering, x, order));
  if (kept.empty()) kept.emplace_back(1);
  kept.push_back(rows.values);
  BITLAB_TRY(rows.x, lowering.reshape(rows.x, kept));
  return rows;
}

// What a call makes of rows, in its shape.
Result<ValueId> reduced(Lowering& lowering, const Call& call, Op op, const Rows& rows) {
  BITLAB_TRY(const ValueId y, lowering.node(op, {rows.x}));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  return lowering.reshape(y, shape);
}
Result<ValueId> reduced(Lowering& lowering, const Call& call, Op op, ValueId x) {
  BITLAB_TRY(const Rows rows, rows_of(lowering, call, x));
  return reduced(lowering, call, op, rows);
}

// The call's second output, where something reads it.
template <class Make>
Status finish_second(Lowering& lowering, const Call& call, Make make) {
  if (call.outputs.size() < 2 || !lowering.is_read(call.outputs[1].toTensor())) return {};
  BITLAB_TRY(const ValueId y, make());
  return lowering.finish(call, y, call.outputs[1].toTensor());
}

Status lower_reduction(Lowering& lowering, const Call& call, Op op, at::ScalarType type) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type));
  BITLAB_TRY(const ValueId y, reduced(lowering, call, op, x));
  return lowering.finish(call, y);
}

Result<ValueId> negative(Lowering& lowering, ValueId x, at::ScalarType type) {
  return lowering.node(Op::mul, {x, lowering.number(-1, type)});
}

// What is reduced and ordered: there are no forms for int32.
at::ScalarType type_of(const Call& call) {
  const at::ScalarType type = call.argument("self").toTensor().scalar_type();
  return computed_as(type) == at::kInt ? at::kLong : type;
}

// The largest values, or the least, and where something reads them the places of the first of these.
Status lower_extreme(Lowering& lowering, const Call& call, Op op) {
  const at::ScalarType type = type_of(call);
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type));
  BITLAB_TRY(Rows rows, rows_of(lowering, call, x));
  BITLAB_TRY(const ValueId y, reduced(lowering, call, op, rows));
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, y));
  return finish_second(lowering, call, [&]() -> Result<ValueId> {
    if (op == Op::min) {
      BITLAB_TRY(rows.x, negative(lowering, rows.x, type));
    }
    return reduced(lowering, call, Op::argmax, rows);
  });
}

struct Moments {
  ValueId mean, variance;  // of the rows; in the shape of the call
};

// The variance: sum of (x - mean)^2 / (n - correction).
Result<Moments> moments_of(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const Rows rows, rows_of(lowering, call, x));
  const double correction = given(call, "correction") ? call.argument("correction").toScalar().toDouble() : 1;
  const bool is_fixed = rows.values.is_number();
  if (uses(rows.values, 0) || (is_fixed && static_cast<double>(rows.values.factor) <= correction))
    return unsupported(call, "values within samples, more than the correction", lowering.show({rows.values}));
  program::Shape with_1 = lowering.shape(rows.x);
  with_1.back() = 1;
  BITLAB_TRY(const ValueId mean, lowering.node(Op::mean, {rows.x}));
  BITLAB_TRY(const ValueId center, lowering.reshape(mean, with_1));
  BITLAB_TRY(ValueId y, lowering.node(Op::sub, {rows.x, center}));
  BITLAB_TRY(y, lowering.node(Op::mul, {y, y}));
  BITLAB_TRY(y, lowering.node(Op::sum, {y}));
  if (is_fixed) {
    BITLAB_TRY(y, with_number(lowering, Op::div, y, static_cast<double>(rows.values.factor) - correction));
  } else {
    BITLAB_TRY(ValueId count, lowering.size_value(rows.values));
    BITLAB_TRY(count, lowering.cast(count, at::kFloat));
    BITLAB_TRY(count, with_number(lowering, Op::add, count, -correction));
    BITLAB_TRY(count, with_number(lowering, Op::maximum, count, 0));  // as LibTorch has it
    BITLAB_TRY(y, lowering.node(Op::div, {y, count}));
  }
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return Moments{mean, y};
}

// The variance or its root, and behind it the mean where something reads that.
Status lower_moments(Lowering& lowering, const Call& call, bool root) {
  BITLAB_TRY(Moments moments, moments_of(lowering, call));
  if (root) {
    BITLAB_TRY(moments.variance, lowering.node(Op::sqrt, {moments.variance}));
  }
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, moments.variance));
  return finish_second(lowering, call, [&] { return lowering.reshape(moments.mean, lowering.shape(moments.variance)); });
}

// Whether a value of the dimension is true, or all are: the largest, or the least of 0 and 1.
Status lower_truth(Lowering& lowering, const Call& call, Op op) {
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", at::kBool));
  BITLAB_TRY(x, lowering.cast(x, at::kLong));
  BITLAB_TRY(x, reduced(lowering, call, op, x));
  BITLAB_TRY(x, lowering.cast(x, at::kBool));
  return lowering.finish(call, x);
}

// x with the dimension `dim` at the end, and back; of a vector a row, which the call's end makes a vector again.
Result<ValueId> with_dim_last(Lowering& lowering, ValueId x, int64_t dim) {
  if (lowering.shape(x).size() == 1) return with_rank(lowering, x, 2);
  Sizes order = counted(lowering.shape(x).size());
  std::rotate(order.begin() + dim, order.begin() + dim + 1, order.end());
  return permuted(lowering, x, order);
}
Result<ValueId> with_last_dim_at(Lowering& lowering, ValueId x, int64_t dim) {
  Sizes order = counted(lowering.shape(x).size());
  std::rotate(order.begin() + dim, order.end() - 1, order.end());
  return permuted(lowering, x, order);
}

}  // namespace

// Of what is no NaN.
Status lower_nansum(Lowering& lowering, const Call& call) {
  const at::ScalarType type = output_of(call).scalar_type();
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", type));
  BITLAB_TRY(const ValueId is_number, lowering.node(Op::equal, {x, x}));
  BITLAB_TRY(x, lowering.node(Op::where, {is_number, x, lowering.number(0, type)}));
  BITLAB_TRY(x, reduced(lowering, call, Op::sum, x));
  return lowering.finish(call, x);
}
Status lower_count_nonzero(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", type_of(call)));
  BITLAB_TRY(x, lowering.node(Op::not_equal, {x, lowering.number(0, type_of(call))}));
  BITLAB_TRY(x, lowering.cast(x, at::kLong));
  BITLAB_TRY(x, reduced(lowering, call, Op::sum, x));
  return lowering.finish(call, x);
}
// Of the diagonal of a matrix.
Status lower_trace(Lowering& lowering, const Call& call) {
  const at::ScalarType type = output_of(call).scalar_type();
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", type));
  BITLAB_TRY(const ValueId diagonal, lowering.constant_of(call, [](const Call& c) {
    const at::Tensor self = c.argument("self").toTensor();
    return at::eye(self.size(0), self.size(1), at::kBool);
  }));
  BITLAB_TRY(x, lowering.node(Op::where, {diagonal, x, lowering.number(0, type)}));
  BITLAB_TRY(x, reduced(lowering, call, Op::sum, x));
  return lowering.finish(call, x);
}
Status lower_mean(Lowering& lowering, const Call& call) {
  return lower_reduction(lowering, call, Op::mean, output_of(call).scalar_type());
}
Status lower_sum(Lowering& lowering, const Call& call) {
  return lower_reduction(lowering, call, Op::sum, output_of(call).scalar_type());
}
Status lower_prod(Lowering& lowering, const Call& call) {
  return lower_reduction(lowering, call, Op::prod, output_of(call).scalar_type());
}
Status lower_max(Lowering& lowering, const Call& call) { return lower_extreme(lowering, call, Op::max); }
Status lower_min(Lowering& lowering, const Call& call) { return lower_extreme(lowering, call, Op::min); }
Status lower_argmax(Lowering& lowering, const Call& call) {
  return lower_reduction(lowering, call, Op::argmax, type_of(call));
}

Status lower_argmin(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", type_of(call)));
  BITLAB_TRY(x, negative(lowering, x, type_of(call)));
  BITLAB_TRY(x, reduced(lowering, call, Op::argmax, x));
  return lowering.finish(call, x);
}

Status lower_any(Lowering& lowering, const Call& call) { return lower_truth(lowering, call, Op::max); }
Status lower_all(Lowering& lowering, const Call& call) { return lower_truth(lowering, call, Op::min); }

Status lower_var(Lowering& lowering, const Call& call) { return lower_moments(lowering, call, false); }
Status lower_std(Lowering& lowering, const Call& call) { return lower_moments(lowering, call, true); }

Status lower_aminmax(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type_of(call)));
  BITLAB_TRY(const Rows rows, rows_of(lowering, call, x));
  BITLAB_TRY(const ValueId least, reduced(lowering, call, Op::min, rows));
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, least));
  return finish_second(lowering, call, [&] { return reduced(lowering, call, Op::max, rows); });
}

// Distances of each row of one to each of the other, [..., n, d] and [..., m, d] to [..., n, m].
Status lower_cdist(Lowering& lowering, const Call& call) {
  const double p = call.argument("p").toDouble();
  if (p != 1 && p != 2 && p != std::numeric_limits<double>::infinity())
    return unsupported(call, "a distance of order 1, 2 or infinity", fmt::format("{}", p));
  BITLAB_TRY(ValueId a, lowering.operand(call, "x1"));
  BITLAB_TRY(ValueId b, lowering.operand(call, "x2"));
  const auto with_1 = [&](ValueId x, int64_t from_end) {
    program::Shape shape = lowering.shape(x);
    shape.insert(shape.end() - from_end, 1);
    return lowering.reshape(x, shape);
  };
  BITLAB_TRY(a, with_1(a, 1));
  BITLAB_TRY(b, with_1(b, 2));
  BITLAB_TRY(ValueId y, lowering.node(Op::sub, {a, b}));
  if (p != 2) {
    BITLAB_TRY(y, lowering.node(Op::abs, {y}));
    BITLAB_RETURN_IF_ERROR(lowering.lower_to(call, p == 1 ? Op::sum : Op::max, {y}));
    return {};
  }
  BITLAB_TRY(y, lowering.node(Op::mul, {y, y}));
  BITLAB_TRY(y, lowering.node(Op::sum, {y}));
  return lowering.lower_to(call, Op::sqrt, {y});
}

// The p-norm.
Status lower_vector_norm(Lowering& lowering, const Call& call) {
  const double p = call.argument("ord").toScalar().toDouble();
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  if (std::isinf(p)) {
    BITLAB_TRY(x, lowering.node(Op::abs, {x}));
    BITLAB_TRY(x, reduced(lowering, call, p > 0 ? Op::max : Op::min, x));
    return lowering.finish(call, x);
  }
  if (p == 0) {  // how many are not 0
    BITLAB_TRY(x, with_number(lowering, Op::not_equal, x, 0));
    BITLAB_TRY(x, lowering.cast(x, at::kFloat));
    BITLAB_TRY(x, reduced(lowering, call, Op::sum, x));
    return lowering.finish(call, x);
  }
  if (p != 1 && p != 2) {  // the powers as e^(p log |x|)
    const auto to_the = [&](double exponent) -> Status {
      BITLAB_TRY(x, lowering.node(Op::log, {x}));
      BITLAB_TRY(x, with_number(lowering, Op::mul, x, exponent));
      BITLAB_TRY(x, lowering.node(Op::exp, {x}));
      return {};
    };
    BITLAB_TRY(x, lowering.node(Op::abs, {x}));
    BITLAB_RETURN_IF_ERROR(to_the(p));
    BITLAB_TRY(x, reduced(lowering, call, Op::sum, x));
    BITLAB_RETURN_IF_ERROR(to_the(1 / p));
    return lowering.finish(call, x);
  }
  BITLAB_TRY(x, p == 1 ? lowering.node(Op::abs, {x}) : lowering.node(Op::mul, {x, x}));
  BITLAB_TRY(x, reduced(lowering, call, Op::sum, x));
  return p == 1 ? lowering.finish(call, x) : lowering.lower_to(call, Op::sqrt, {x});
}

namespace {

// What a node makes along the last dimension, along any.
Result<std::vector<ValueId>> scanned(Lowering& lowering, const Call& call, Op op, ValueId x) {
  const int64_t dim = dim_of(call);
  BITLAB_TRY(x, with_dim_last(lowering, x, dim));
  BITLAB_TRY(std::vector<ValueId> parts, lowering.nodes(op, {x}));
  for (ValueId& part : parts) {
    BITLAB_TRY(part, with_last_dim_at(lowering, part, dim));
  }
  return parts;
}

Status lower_scan(Lowering& lowering, const Call& call, Op op) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", output_of(call).scalar_type()));
  BITLAB_TRY(const std::vector<ValueId> parts, scanned(lowering, call, op, x));
  return lowering.finish(call, parts[0]);
}

// The extremes so far, and their places; least ones as the largest of what is negated.
Status lower_extremes_so_far(Lowering& lowering, const Call& call, bool least) {
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", type_of(call)));
  if (least) {
    BITLAB_TRY(x, negative(lowering, x, type_of(call)));
  }
  BITLAB_TRY(std::vector<ValueId> parts, scanned(lowering, call, Op::cummax, x));
  if (least) {
    BITLAB_TRY(parts[0], negative(lowering, parts[0], type_of(call)));
  }
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, parts[0]));
  return finish_second(lowering, call, [&] { return Result<ValueId>(parts[1]); });
}

}  // namespace

Status lower_cumsum(Lowering& lowering, const Call& call) { return lower_scan(lowering, call, Op::cumsum); }
Status lower_cumprod(Lowering& lowering, const Call& call) { return lower_scan(lowering, call, Op::cumprod); }
Status lower_cummax(Lowering& lowering, const Call& call) { return lower_extremes_so_far(lowering, call, false); }
Status lower_cummin(Lowering& lowering, const Call& call) { return lower_extremes_so_far(lowering, call, true); }

// In as many rounds as powers of two reach all values: each takes what lies twice as far in front as the one before. One maximum for all would leave nothing of
// values that are much below it.
Status lower_logcumsumexp(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", at::kFloat));
  const int64_t dim = dim_of(call);
  BITLAB_TRY(x, with_dim_last(lowering, x, dim));
  const program::Dim size = lowering.shape(x).back();
  const auto last = static_cast<int64_t>(lowering.shape(x).size()) - 1;
  BITLAB_TRY(const ValueId places, counted_to(lowering, size));
  for (int64_t step = 1; step < program::kMaxElements && !lowering.is_within(size, 1, step - 1); step *= 2) {
    const Term place(lowering, places), now(lowering, x);
    BITLAB_TRY(const ValueId from, (place + static_cast<double>(-step)).with(Op::maximum, 0).value());
    const Term in_front(lowering, lowering.node(Op::take, {x, from}, {{"dim", last}}));
    const Term reached = (place < static_cast<double>(step)).choose(-std::numeric_limits<double>::infinity(), in_front);
    BITLAB_TRY(x, log_add_exp(now, reached).value());
  }
  lowering.set_exactness(program::Exactness::kBounded);
  BITLAB_TRY(x, with_last_dim_at(lowering, x, dim));
  return lowering.finish(call, x);
}

namespace {

// The first `length` of a dimension in order of size. LibTorch's unstable forms promise no order of equal values: this one is theirs, too.
Status lower_order(Lowering& lowering, const Call& call, bool descending, const std::function<int64_t(const Call&)>& length,
                   bool values = true) {
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", type_of(call)));
  const int64_t dim = dim_of(call);
  BITLAB_TRY(const program::Dim kept, lowering.dim_of(call, length));
  if (kept.is_number()) lowering.at_least(lowering.shape(x)[static_cast<size_t>(dim)], kept.factor);
  BITLAB_TRY(x, with_dim_last(lowering, x, dim));
  BITLAB_TRY(std::vector<ValueId> y,
             lowering.nodes(Op::sort, {x}, {{"length", program::Shape{kept}}, {"descending", int64_t{descending}}}));
  for (ValueId& part : y) {
    BITLAB_TRY(part, with_last_dim_at(lowering, part, dim));
  }
  if (values) BITLAB_RETURN_IF_ERROR(lowering.finish(call, y[0]));
  return lowering.finish(call, y[1], call.outputs.back().toTensor());
}

int64_t size_along_dim(const Call& call) { return call.argument("self").toTensor().size(dim_of(call)); }

}  // namespace

Status lower_sort(Lowering& lowering, const Call& call) {
  return lower_order(lowering, call, call.argument("descending").toBool(), size_along_dim);
}
Status lower_argsort(Lowering& lowering, const Call& call) {
  return lower_order(lowering, call, call.argument("descending").toBool(), size_along_dim, false);
}
Status lower_topk(Lowering& lowering, const Call& call) {
  return lower_order(lowering, call, call.argument("largest").toBool(),
                     [](const Call& c) { return c.argument("k").toInt(); });
}

namespace {

// Rows in order of size, and their places; where `keeps_nan`, a row with NaN gives NaN alone.
struct Ordered {
  std::vector<ValueId> parts;  // values and places
  int64_t count, last;
  bool keeps_nan;

  // The k-th least.
  Result<ValueId> at(Lowering& lowering, size_t part, int64_t k) const {
    BITLAB_TRY(const ValueId y, slice_of(lowering, parts[part], last, k, 1));
    if (!keeps_nan) return y;
    BITLAB_TRY(const ValueId most, slice_of(lowering, parts[0], last, count - 1, 1));
    BITLAB_TRY(const ValueId is_nan, lowering.node(Op::not_equal, {most, most}));
    BITLAB_TRY(const ValueId end, slice_of(lowering, parts[part], last, count - 1, 1));
    return lowering.node(Op::where, {is_nan, end, y});
  }
};

Result<Ordered> ordered(Lowering& lowering, const Call& call, bool keeps_nan) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type_of(call)));
  BITLAB_TRY(const Rows rows, rows_of(lowering, call, x));
  if (!rows.values.is_number()) return unsupported(call, "a fixed number of values", lowering.show({rows.values}));
  BITLAB_TRY(std::vector<ValueId> parts,
             lowering.nodes(Op::sort, {rows.x}, {{"length", program::Shape{rows.values}}, {"descending", int64_t{0}}}));
  const auto last = static_cast<int64_t>(lowering.shape(rows.x).size()) - 1;
  return Ordered{std::move(parts), rows.values.factor, last, keeps_nan && lowering.dtype(x) == program::DType::kFloat32};
}

Status lower_kth(Lowering& lowering, const Call& call, const Ordered& rows, int64_t k) {
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  const auto finished = [&](size_t part) -> Result<ValueId> {
    BITLAB_TRY(const ValueId y, rows.at(lowering, part, k));
    return lowering.reshape(y, shape);
  };
  BITLAB_TRY(const ValueId y, finished(0));
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, y));
  return finish_second(lowering, call, [&] { return finished(1); });
}

}  // namespace

Status lower_median(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Ordered rows, ordered(lowering, call, true));
  return lower_kth(lowering, call, rows, (rows.count - 1) / 2);
}

// The value that stands there most often, of several the least one, and its last place: in order, the one with as many as it in front of it and behind.
Status lower_mode(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Ordered rows, ordered(lowering, call, false));
  program::Shape shape = lowering.shape(rows.parts[0]), of_each = shape, against = shape;
  of_each.emplace_back(1);
  against.insert(against.end() - 1, 1);
  BITLAB_TRY(const ValueId each, lowering.reshape(rows.parts[0], of_each));
  BITLAB_TRY(const ValueId all, lowering.reshape(rows.parts[0], against));
  BITLAB_TRY(ValueId count, lowering.node(Op::equal, {each, all}));
  BITLAB_TRY(count, lowering.cast(count, at::kLong));
  BITLAB_TRY(count, lowering.node(Op::sum, {count}));
  BITLAB_TRY(ValueId first, lowering.node(Op::argmax, {count}));
  BITLAB_TRY(const ValueId most, lowering.node(Op::max, {count}));
  BITLAB_TRY(ValueId place, lowering.node(Op::add, {first, most}));
  BITLAB_TRY(place, with_number(lowering, Op::add, place, -1));
  shape.back() = 1;
  BITLAB_TRY(place, lowering.reshape(place, shape));
  BITLAB_TRY(const program::Shape result, lowering.shape_of_output(call));
  const auto finished = [&](size_t part) -> Result<ValueId> {
    BITLAB_TRY(const ValueId y, lowering.node(Op::gather, {rows.parts[part], place}, {{"dim", rows.last}}));
    return lowering.reshape(y, result);
  };
  BITLAB_TRY(const ValueId y, finished(0));
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, y));
  return finish_second(lowering, call, [&] { return finished(1); });
}

Status lower_kthvalue(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const Ordered rows, ordered(lowering, call, false));
  return lower_kth(lowering, call, rows, call.argument("k").toInt() - 1);
}

namespace {

// A quantile of rows in order, between the two values around its place.
Result<ValueId> quantile_of(Lowering& lowering, const Ordered& rows, double q) {
  const float place = static_cast<float>(q) * static_cast<float>(rows.count - 1), whole = std::floor(place);
  const auto k = static_cast<int64_t>(whole);
  BITLAB_TRY(ValueId y, rows.at(lowering, 0, k));
  if (place <= whole) return y;
  BITLAB_TRY(ValueId more, rows.at(lowering, 0, k + 1));
  BITLAB_TRY(more, lowering.node(Op::sub, {more, y}));
  BITLAB_TRY(more, with_number(lowering, Op::mul, more, double{place - whole}));
  BITLAB_TRY(y, lowering.node(Op::add, {y, more}));
  lowering.set_exactness(program::Exactness::kBounded);  // LibTorch goes from the nearer of both
  return y;
}

}  // namespace

// One quantile, or those of a constant list, which become the first dimension.
Status lower_quantile(Lowering& lowering, const Call& call) {
  if (const std::string mode = call.argument("interpolation").toStringRef(); mode != "linear")
    return unsupported(call, "a linear quantile", mode);
  const c10::IValue& q = call.argument("q");
  if (q.isTensor() && lowering.is_activation(q.toTensor())) return unsupported(call, "a constant as 'q'", "an activation");
  const at::Tensor list = q.isTensor() ? q.toTensor().reshape({-1}) : at::full({1}, q.toDouble(), at::kDouble);
  BITLAB_TRY(const Ordered rows, ordered(lowering, call, true));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  program::Shape of_one = shape;
  if (q.isTensor() && q.toTensor().dim() == 1) of_one[0] = 1;
  std::vector<ValueId> all;
  for (int64_t i = 0; i < list.numel(); ++i) {
    BITLAB_TRY(const ValueId y, quantile_of(lowering, rows, list[i].item<double>()));
    BITLAB_TRY(all.emplace_back(), lowering.reshape(y, of_one));
  }
  if (all.size() == 1) return lowering.finish(call, all[0]);
  return lowering.lower_to(call, Op::cat, all, {{"dim", int64_t{0}}});
}

// max + log(sum of e^(x - max)); what is infinite is not taken away.
Status lower_logsumexp(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", at::kFloat));
  BITLAB_TRY(const Rows rows, rows_of(lowering, call, x));
  program::Shape with_1 = lowering.shape(rows.x);
  with_1.back() = 1;
  BITLAB_TRY(ValueId most, lowering.node(Op::max, {rows.x}));
  BITLAB_TRY(const ValueId size, lowering.node(Op::abs, {most}));
  BITLAB_TRY(const ValueId is_finite,
             with_number(lowering, Op::less_equal, size, double{std::numeric_limits<float>::max()}));
  BITLAB_TRY(most, lowering.node(Op::where, {is_finite, most, lowering.number(0, at::kFloat)}));
  BITLAB_TRY(const ValueId center, lowering.reshape(most, with_1));
  BITLAB_TRY(ValueId y, lowering.node(Op::sub, {rows.x, center}));
  BITLAB_TRY(y, lowering.node(Op::exp, {y}));
  BITLAB_TRY(y, lowering.node(Op::sum, {y}));
  BITLAB_TRY(y, lowering.node(Op::log, {y}));
  BITLAB_TRY(y, lowering.node(Op::add, {y, most}));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

// For each value the number of those in order that it is behind: of one list, or of one for each row.
Status lower_searchsorted(Lowering& lowering, const Call& call) {
  const bool is_bucketize = call.op.starts_with("aten::bucketize");
  const char* list = is_bucketize ? "boundaries" : "sorted_sequence";
  if (!is_bucketize && (given(call, "sorter") || call.argument("self").toTensor().dim() == 0))
    return unsupported(call, "a list in order and a tensor of values", "a sorter, or a number");
  const bool is_right = call.argument("right").toBool() ||
                        (!is_bucketize && given(call, "side") && call.argument("side").toStringRef() == "right");
  const at::ScalarType type = at::result_type(call.argument("self").toTensor(), call.argument(list).toTensor());
  BITLAB_TRY(ValueId x, lowering.operand_as(call, "self", type));
  BITLAB_TRY(ValueId in_order, lowering.operand_as(call, list, type));
  program::Shape shape = lowering.shape(x), of_list = lowering.shape(in_order);
  shape.emplace_back(1);
  BITLAB_TRY(x, lowering.reshape(x, shape));
  if (of_list.size() > 1) {
    of_list.insert(of_list.end() - 1, 1);
    BITLAB_TRY(in_order, lowering.reshape(in_order, of_list));
  }
  BITLAB_TRY(ValueId y,
             lowering.node(is_right ? Op::less : Op::less_equal, {x, in_order}));  // false for NaN, which is behind all
  BITLAB_TRY(y, lowering.node(Op::equal, {y, lowering.number(false, at::kBool)}));
  BITLAB_TRY(y, lowering.cast(y, at::kLong));
  BITLAB_TRY(y, lowering.node(Op::sum, {y}));
  BITLAB_TRY(y, lowering.cast(y, output_of(call).scalar_type()));
  return lowering.finish(call, y);
}

Status lower_softmax(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const int64_t dim = dim_of(call), last = static_cast<int64_t>(lowering.shape(x).size()) - 1;
  if (dim == last) return lowering.lower_to(call, Op::softmax, {x}, {{"dim", dim}});
  BITLAB_TRY(x, with_dim_last(lowering, x, dim));
  BITLAB_TRY(x, lowering.node(Op::softmax, {x}, {{"dim", last}}));
  BITLAB_TRY(x, with_last_dim_at(lowering, x, dim));
  return lowering.finish(call, x);
}

// x - max - log(sum of e^(x - max))
Status lower_log_softmax(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const int64_t dim = dim_of(call);
  BITLAB_TRY(x, with_dim_last(lowering, x, dim));
  program::Shape with_1 = lowering.shape(x);
  with_1.back() = 1;
  const auto minus = [&](ValueId of, ValueId rows) -> Result<ValueId> {
    BITLAB_TRY(rows, lowering.reshape(rows, with_1));
    return lowering.node(Op::sub, {of, rows});
  };
  BITLAB_TRY(ValueId most, lowering.node(Op::max, {x}));
  BITLAB_TRY(x, minus(x, most));
  BITLAB_TRY(ValueId total, lowering.node(Op::exp, {x}));
  BITLAB_TRY(total, lowering.node(Op::sum, {total}));
  BITLAB_TRY(total, lowering.node(Op::log, {total}));
  BITLAB_TRY(x, minus(x, total));
  BITLAB_TRY(x, with_last_dim_at(lowering, x, dim));
  return lowering.finish(call, x);
}

}  // namespace bitlab::deploy
