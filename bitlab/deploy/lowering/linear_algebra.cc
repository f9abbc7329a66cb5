// Small systems of linear equations, step by step: elimination for matrices [..., n, n] of a fixed n, whatever stands in front.
#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

using program::Shape;

constexpr int64_t kMostRows = 32;  // each of which is some ten nodes

int64_t rows_dim(Lowering& lowering, ValueId x) { return static_cast<int64_t>(lowering.shape(x).size()) - 2; }

// A matrix argument, and its number of rows.
struct SquareMatrix {
  ValueId value;
  int64_t rows;
};
Result<SquareMatrix> square_of(Lowering& lowering, const Call& call, const char* name) {
  BITLAB_TRY(const ValueId a, lowering.operand_as(call, name, at::kFloat));
  const Shape& shape = lowering.shape(a);
  if (!shape.back().is_number() || shape.back() != shape[shape.size() - 2] || shape.back().factor > kMostRows)
    return unsupported(call, fmt::format("matrices of a fixed number of rows, at most {}", kMostRows), lowering.show(shape));
  return SquareMatrix{a, shape.back().factor};
}

// [..., count, width] of [..., rows, width] from a row on, or of columns.
Result<ValueId> rows_from(Lowering& lowering, ValueId x, int64_t first, int64_t count) {
  return slice_of(lowering, x, rows_dim(lowering, x), first, count);
}
Result<ValueId> columns_from(Lowering& lowering, ValueId x, int64_t first, program::Dim count) {
  return slice_of(lowering, x, rows_dim(lowering, x) + 1, first, count);
}
Result<ValueId> with_row(Lowering& lowering, ValueId x, ValueId row, int64_t k) {
  return lowering.node(Op::slice_scatter, {x, row}, {{"dim", rows_dim(lowering, x)}, {"start", k}, {"step", int64_t{1}}});
}

// The sizes in front of two matrices, of which one may have fewer, or ones.
Result<ValueId> beside(Lowering& lowering, ValueId a, ValueId b) {
  Shape front = lowering.shape(a), of_b = lowering.shape(b);
  front.resize(front.size() - 2);
  for (size_t i = 0; i + 2 < of_b.size(); ++i) {
    const size_t behind = of_b.size() - 2 - i;
    if (behind > front.size())
      front.insert(front.begin(), of_b[i]);
    else if (program::Dim& size = front[front.size() - behind]; size == program::Dim(1))
      size = of_b[i];
  }
  const auto with_front = [&](ValueId x) {
    Shape shape = front;
    shape.insert(shape.end(), lowering.shape(x).end() - 2, lowering.shape(x).end());
    return expanded(lowering, x, shape);
  };
  BITLAB_TRY(a, with_front(a));
  BITLAB_TRY(b, with_front(b));
  return lowering.node(Op::cat, {a, b}, {{"dim", static_cast<int64_t>(front.size()) + 1}});
}

// What elimination by Gauss and Jordan leaves of [A | B]: A^-1 B in the place of B, and the pivots, each [..., 1, 1], negative where rows changed places.
struct Eliminated {
  ValueId result;
  std::vector<ValueId> pivots;
};
Result<Eliminated> eliminated(Lowering& lowering, ValueId x, int64_t n) {
  Eliminated done{x, {}};
  const int64_t dim = rows_dim(lowering, x);
  const auto number = [&](float value) { return lowering.number(value, at::kFloat); };
  for (int64_t k = 0; k < n; ++k) {
    // The row with the largest element of the column takes the place of the k-th.
    BITLAB_TRY(ValueId column, columns_from(lowering, x, k, 1));
    BITLAB_TRY(column, rows_from(lowering, column, k, n - k));
    Shape shape = lowering.shape(column);
    shape.pop_back();
    BITLAB_TRY(column, lowering.reshape(column, shape));
    BITLAB_TRY(column, lowering.node(Op::abs, {column}));
    BITLAB_TRY(ValueId place, lowering.node(Op::argmax, {column}));
    BITLAB_TRY(place, lowering.node(Op::add, {place, lowering.number(k, at::kLong)}));
    shape.back() = 1;
    shape.emplace_back(1);
    BITLAB_TRY(place, lowering.reshape(place, shape));
    BITLAB_TRY(const ValueId is_moved, lowering.node(Op::not_equal, {place, lowering.number(k, at::kLong)}));
    Shape of_row = lowering.shape(x);
    of_row[static_cast<size_t>(dim)] = 1;
    BITLAB_TRY(place, expanded(lowering, place, of_row));
    BITLAB_TRY(ValueId row, lowering.node(Op::gather, {x, place}, {{"dim", dim}}));
    BITLAB_TRY(const ValueId moved, rows_from(lowering, x, k, 1));
    BITLAB_TRY(x, lowering.node(Op::scatter, {x, place, moved}, {{"dim", dim}, {"mode", std::string("set")}}));
    // All other rows lose their element of the column.
    BITLAB_TRY(const ValueId pivot, columns_from(lowering, row, k, 1));
    BITLAB_TRY(const ValueId is_zero, lowering.node(Op::equal, {pivot, number(0)}));
    BITLAB_TRY(const ValueId divisor, lowering.node(Op::where, {is_zero, number(1), pivot}));
    BITLAB_TRY(row, lowering.node(Op::div, {row, divisor}));
    BITLAB_TRY(const ValueId factors, columns_from(lowering, x, k, 1));
    BITLAB_TRY(const ValueId product, lowering.node(Op::mul, {factors, row}));
    BITLAB_TRY(x, lowering.node(Op::sub, {x, product}));
    lowering.set_exactness(program::Exactness::kBounded);
    BITLAB_TRY(x, with_row(lowering, x, row, k));
    BITLAB_TRY(const ValueId sign, lowering.node(Op::where, {is_moved, number(-1), number(1)}));
    BITLAB_TRY(done.pivots.emplace_back(), lowering.node(Op::mul, {pivot, sign}));
  }
  done.result = x;
  return done;
}

// A^-1 B
Result<ValueId> solved(Lowering& lowering, ValueId a, ValueId b, int64_t n) {
  BITLAB_TRY(const ValueId both, beside(lowering, a, b));
  BITLAB_TRY(const Eliminated done, eliminated(lowering, both, n));
  return columns_from(lowering, done.result, n, lowering.shape(b).back());
}

Result<ValueId> transpose_of(Lowering& lowering, ValueId x) {
  Sizes order = counted(lowering.shape(x).size());
  std::swap(order[order.size() - 1], order[order.size() - 2]);
  return permuted(lowering, x, order);
}

// The triangle of a matrix on one side of its diagonal; zeros, or for the diagonal ones, elsewhere.
Result<ValueId> triangle_of(Lowering& lowering, ValueId a, int64_t n, bool upper, bool ones) {
  const at::Tensor all = at::full({n, n}, true, at::kBool), kept = upper ? all.triu(ones ? 1 : 0) : all.tril(ones ? -1 : 0);
  const at::Tensor otherwise = ones ? at::eye(n) : at::full({n, n}, 0, at::kFloat);
  return lowering.node(Op::where, {lowering.constant(kept), a, lowering.constant(otherwise)});
}

// The product of the pivots as [...]; with `logarithm` the sum of the logarithms of their sizes, and the product of their signs as the second value.
Result<std::pair<ValueId, ValueId>> determinant(Lowering& lowering, const Call& call, const char* name, bool logarithm) {
  BITLAB_TRY(const SquareMatrix a, square_of(lowering, call, name));
  BITLAB_TRY(const Eliminated done, eliminated(lowering, a.value, a.rows));
  Shape front = lowering.shape(a.value), flat = front;
  front.resize(front.size() - 2);
  flat.pop_back();
  BITLAB_TRY(ValueId pivots, lowering.node(Op::cat, done.pivots, {{"dim", static_cast<int64_t>(front.size())}}));
  BITLAB_TRY(pivots, lowering.reshape(pivots, flat));
  const auto over = [&](Op op, ValueId x) -> Result<ValueId> {
    const bool is_vector = lowering.shape(x).size() == 1;
    BITLAB_TRY(x, with_rank(lowering, x, 2));
    BITLAB_TRY(x, lowering.node(op, {x}));
    return is_vector ? lowering.reshape(x, {}) : Result<ValueId>(x);
  };
  if (!logarithm) {
    BITLAB_TRY(const ValueId y, over(Op::prod, pivots));
    return std::pair(y, program::kNone);
  }
  const auto number = [&](float value) { return lowering.number(value, at::kFloat); };
  BITLAB_TRY(ValueId size, lowering.node(Op::abs, {pivots}));
  BITLAB_TRY(size, lowering.node(Op::log, {size}));
  BITLAB_TRY(size, over(Op::sum, size));
  BITLAB_TRY(const ValueId is_zero, lowering.node(Op::equal, {pivots, number(0)}));
  BITLAB_TRY(const ValueId is_below, lowering.node(Op::less, {pivots, number(0)}));
  BITLAB_TRY(ValueId sign, lowering.node(Op::where, {is_below, number(-1), number(1)}));
  BITLAB_TRY(sign, lowering.node(Op::where, {is_zero, number(0), sign}));
  BITLAB_TRY(sign, over(Op::prod, sign));
  return std::pair(size, sign);
}

}  // namespace

Status lower_inverse(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const SquareMatrix a, square_of(lowering, call, "A"));
  BITLAB_TRY(const ValueId y, solved(lowering, a.value, lowering.constant(at::eye(a.rows)), a.rows));
  lose_from(lowering, call, 1);
  return lowering.finish(call, y);
}

// A X = B, X A = B where not `left`; B may be a vector for each A.
Status lower_solve(Lowering& lowering, const Call& call) {
  BITLAB_TRY(SquareMatrix a, square_of(lowering, call, "A"));
  BITLAB_TRY(ValueId b, lowering.operand_as(call, "B", at::kFloat));
  const bool left = call.argument("left").toBool();
  const bool is_vector = output_of(call).dim() + 1 == call.tensor("A").dim() || call.tensor("B").dim() == 1;
  if (is_vector) {
    Shape shape = lowering.shape(b);
    shape.emplace_back(1);
    BITLAB_TRY(b, lowering.reshape(b, shape));
  } else if (!left) {
    BITLAB_TRY(a.value, transpose_of(lowering, a.value));
    BITLAB_TRY(b, transpose_of(lowering, b));
  }
  BITLAB_TRY(ValueId y, solved(lowering, a.value, b, a.rows));
  if (is_vector) {
    BITLAB_TRY(const Shape shape, lowering.shape_of_output(call));
    BITLAB_TRY(y, lowering.reshape(y, shape));
  } else if (!left) {
    BITLAB_TRY(y, transpose_of(lowering, y));
  }
  lose_from(lowering, call, 1);
  return lowering.finish(call, y);
}

Status lower_solve_triangular(Lowering& lowering, const Call& call) {
  BITLAB_TRY(SquareMatrix a, square_of(lowering, call, "self"));
  BITLAB_TRY(ValueId b, lowering.operand_as(call, "B", at::kFloat));
  const bool left = call.argument("left").toBool();
  BITLAB_TRY(a.value, triangle_of(lowering, a.value, a.rows, call.argument("upper").toBool(),
                                  call.argument("unitriangular").toBool()));
  if (!left) {
    BITLAB_TRY(a.value, transpose_of(lowering, a.value));
    BITLAB_TRY(b, transpose_of(lowering, b));
  }
  BITLAB_TRY(ValueId y, solved(lowering, a.value, b, a.rows));
  if (!left) {
    BITLAB_TRY(y, transpose_of(lowering, y));
  }
  return lowering.finish(call, y);
}

Status lower_det(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const auto both, determinant(lowering, call, "A", false));
  lose_from(lowering, call, 1);
  return lowering.finish(call, both.first);
}

Status lower_slogdet(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const auto both, determinant(lowering, call, "A", true));
  lose_from(lowering, call, 2);
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, both.second));
  return lowering.finish(call, both.first, call.outputs[1].toTensor());
}

// L of A = L L^T, column by column; U = L^T where `upper`.
Status lower_cholesky(Lowering& lowering, const Call& call) {
  BITLAB_TRY(SquareMatrix a, square_of(lowering, call, "self"));
  const bool upper = call.argument("upper").toBool();
  if (upper) {  // that triangle alone is read
    BITLAB_TRY(a.value, transpose_of(lowering, a.value));
  }
  ValueId left = a.value;  // of A, without the columns so far
  std::vector<ValueId> columns;
  for (int64_t k = 0; k < a.rows; ++k) {
    BITLAB_TRY(ValueId column, columns_from(lowering, left, k, 1));
    BITLAB_TRY(ValueId pivot, rows_from(lowering, column, k, 1));
    BITLAB_TRY(pivot, lowering.node(Op::sqrt, {pivot}));
    BITLAB_TRY(column, lowering.node(Op::div, {column, pivot}));
    const at::Tensor kept = at::arange(a.rows).ge(k).unsqueeze(1);
    BITLAB_TRY(column, lowering.node(Op::where, {lowering.constant(kept), column, lowering.number(0, at::kFloat)}));
    columns.push_back(column);
    BITLAB_TRY(const ValueId row, transpose_of(lowering, column));
    BITLAB_TRY(const ValueId product, lowering.node(Op::mul, {column, row}));
    BITLAB_TRY(left, lowering.node(Op::sub, {left, product}));
    lowering.set_exactness(program::Exactness::kBounded);
  }
  BITLAB_TRY(ValueId y, lowering.node(Op::cat, columns, {{"dim", rows_dim(lowering, a.value) + 1}}));
  if (upper) {
    BITLAB_TRY(y, transpose_of(lowering, y));
  }
  lose_from(lowering, call, 1);
  return lowering.finish(call, y);
}

// (L L^T)^-1 B
Status lower_cholesky_solve(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const SquareMatrix a, square_of(lowering, call, "input2"));
  BITLAB_TRY(const ValueId b, lowering.operand_as(call, "self", at::kFloat));
  const bool upper = call.argument("upper").toBool();
  BITLAB_TRY(const ValueId triangle, triangle_of(lowering, a.value, a.rows, upper, false));
  BITLAB_TRY(const ValueId other, transpose_of(lowering, triangle));
  BITLAB_TRY(ValueId y, solved(lowering, upper ? other : triangle, b, a.rows));
  BITLAB_TRY(y, solved(lowering, upper ? triangle : other, y, a.rows));
  return lowering.finish(call, y);
}

// A program computes on, where LibTorch throws for a singular matrix.
Status lower_check_errors(Lowering&, const Call&) { return {}; }

}  // namespace bitlab::deploy
