// Sums, means, extremes, softmax: what reduces dimensions.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/result_type.h>

#include "bitlab/deploy/lowering/internal/rows.h"
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

}  // namespace

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

at::ScalarType type_of(const Call& call) {
  const at::ScalarType type = call.argument("self").toTensor().scalar_type();
  return computed_as(type) == at::kInt ? at::kLong : type;
}

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

namespace {

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

Status lower_reduction(Lowering& lowering, const Call& call, Op op, at::ScalarType type) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type));
  BITLAB_TRY(const ValueId y, reduced(lowering, call, op, x));
  return lowering.finish(call, y);
}

Result<ValueId> negative(Lowering& lowering, ValueId x, at::ScalarType type) {
  return lowering.node(Op::mul, {x, lowering.number(-1, type)});
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
