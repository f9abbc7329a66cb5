// Readers of operators that reduce dimensions, and of those along one.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

// Dimensions as [those that stay..., those that are reduced...].
struct Reduction {
  Ints dims;
  Shape kept, result;  // without the reduced ones, and what the operator says
  Dim reduced = 1;
};

Result<Reduction> reduction_of(const Reader& r, const Shape& x, Ints axes) {
  const bool keeps = r.integer("keepdims", 1) != 0;
  for (int64_t& dim : axes) {
    BITLAB_TRY(dim, r.axis(dim, x.size()));
  }
  Reduction result;
  for (size_t i = 0; i < x.size(); ++i) {
    const auto dim = static_cast<int64_t>(i);
    if (std::count(axes.begin(), axes.end(), dim) > 0) {
      if (keeps) result.result.emplace_back(1);
      result.reduced = result.reduced * x[i];
      continue;
    }
    result.dims.push_back(dim);
    result.kept.push_back(x[i]);
    result.result.push_back(x[i]);
  }
  std::sort(axes.begin(), axes.end());
  axes.erase(std::unique(axes.begin(), axes.end()), axes.end());
  result.dims.insert(result.dims.end(), axes.begin(), axes.end());
  return result;
}

// x as rows [..., n]: operations over the last dimension have another one.
Result<ValueId> rows(Reader& r, ValueId x, const Reduction& reduction) {
  BITLAB_TRY(x, r.permute(x, reduction.dims));
  Shape shape = reduction.kept;
  if (shape.empty()) shape.emplace_back(1);
  shape.push_back(reduction.reduced);
  return r.reshape(x, shape);
}

// x in a type that operations along a dimension take: bool and int32 as int64, in which results are the same.
Result<ValueId> widened(Reader& r, ValueId x) {
  const DType dtype = r.of(x).dtype;
  return dtype == DType::kBool || dtype == DType::kInt32 ? r.cast(x, DType::kInt64) : Result<ValueId>(x);
}

double folded(std::string_view type, const std::vector<double>& values) {
  const auto total = [&](double start, auto f) { return std::accumulate(values.begin(), values.end(), start, f); };
  const auto sum = [&](auto of) { return total(0, [&](double a, double b) { return a + of(b); }); };
  if (type == "ReduceProd") return total(1, std::multiplies<>());
  if (type == "ReduceMax") return *std::max_element(values.begin(), values.end());
  if (type == "ReduceMin") return *std::min_element(values.begin(), values.end());
  if (type == "ReduceL1") return sum([](double v) { return std::fabs(v); });
  if (type == "ReduceL2") return std::sqrt(sum([](double v) { return v * v; }));
  if (type == "ReduceSumSquare") return sum([](double v) { return v * v; });
  if (type == "ReduceLogSumExp") return std::log(sum([](double v) { return std::exp(v); }));
  const double plain = sum([](double v) { return v; });
  if (type == "ReduceMean") return plain / static_cast<double>(values.size());
  return type == "ReduceLogSum" ? std::log(plain) : plain;
}

Result<Operands> fold(Reader& r, const Tensor& x, const Reduction& reduction) {
  BITLAB_TRY(const Tensor sorted, r.folding.permuted(x, reduction.dims));
  const int64_t n = reduction.reduced.factor;
  if (n == 0) return r.refuse("values to reduce, got none");
  return single(r.folding.of_numbers(x.type, shape_at(reduction.result, program::kOnes), [&](int64_t i) {
    std::vector<double> values;
    for (int64_t k = 0; k < n; ++k) values.push_back(sorted.number(i * n + k));
    return folded(r.node().type, values);
  }));
}

// What the operator makes of rows.
Term reduced(const Reader& r, const Term& x) {
  const std::string_view type = r.node().type;
  if (type == "ReduceMean") return x.of(Op::mean);
  if (type == "ReduceMax") return x.of(Op::max);
  if (type == "ReduceMin") return x.of(Op::min);
  if (type == "ReduceProd") return x.of(Op::prod);
  if (type == "ReduceL1") return x.of(Op::abs).of(Op::sum);
  if (type == "ReduceL2") return (x * x).of(Op::sum).of(Op::sqrt);
  if (type == "ReduceSumSquare") return (x * x).of(Op::sum);
  if (type == "ReduceLogSum") return x.of(Op::sum).of(Op::log);
  return x.of(Op::sum);
}

// x of rows, less the largest of each, and that one: e^x of what is left does not overflow.
struct Lowered {
  Term x, most;
};
Result<Lowered> lowered(Reader& r, ValueId x) {
  const Term all(r, x), most = all.of(Op::max);
  BITLAB_TRY(const ValueId m, most.id());
  Shape column = r.shape_of(m);
  column.emplace_back(1);
  return Lowered{all - Term(r, r.reshape(m, column)), most};
}

Term log_sum_exp(const Term& x) { return x.of(Op::exp).of(Op::sum).of(Op::log); }

}  // namespace

Result<Operands> read_reduce(Reader& r) {
  const Shape x = r.shape(0);
  Ints axes;
  if (const auto given = r.list("axes")) axes = *given;
  if (r.has(1)) {
    BITLAB_TRY(axes, r.integers(1, "axes"));
  }
  if (axes.empty() && r.integer("noop_with_empty_axes", 0) != 0) return Operands{r.operand(0)};
  if (axes.empty()) {
    axes.resize(x.size());
    std::iota(axes.begin(), axes.end(), int64_t{0});
  }
  if (const auto list = r.sizes(0); r.node().type == "ReduceProd" && list && !r.tensor(0)) {
    if (r.integer("keepdims", 1) != 0) return Operands{operand_of({{program::volume(list->values)}})};
    return Operands{operand_of({{program::volume(list->values)}, true})};
  }
  BITLAB_TRY(const Reduction reduction, reduction_of(r, x, axes));
  if (const Tensor* known = r.tensor(0)) return fold(r, *known, reduction);
  BITLAB_TRY(ValueId id, r.activation(0));
  const DType dtype = r.of(id).dtype;
  BITLAB_TRY(id, widened(r, id));
  BITLAB_TRY(id, rows(r, id, reduction));
  if (r.node().type == "ReduceLogSumExp") {
    BITLAB_TRY(const Lowered below, lowered(r, id));
    BITLAB_TRY(id, (log_sum_exp(below.x) + below.most).id());
  } else {
    BITLAB_TRY(id, reduced(r, Term(r, id)).id());
  }
  BITLAB_TRY(id, r.cast(id, dtype));
  return single(r.reshape(id, reduction.result));
}

Result<Operands> read_arg_most(Reader& r) {
  const bool is_last = r.integer("select_last_index", 0) != 0;  // of equal ones
  const Shape x = r.shape(0);
  BITLAB_TRY(const Reduction reduction, reduction_of(r, x, {r.integer("axis", 0)}));
  BITLAB_TRY(ValueId id, r.activation(0));
  BITLAB_TRY(id, widened(r, id));
  if (r.node().type == "ArgMin") {
    BITLAB_TRY(id, r.with(Op::mul, id, -1));
  }
  BITLAB_TRY(id, rows(r, id, reduction));
  if (is_last) {
    if (!reduction.reduced.is_number()) return r.refuse("the last of a number of values that is known, got {}", r.show(x));
    BITLAB_TRY(id, r.emit(Op::flip, {id}, {{"dims", Ints{static_cast<int64_t>(r.shape_of(id).size()) - 1}}}));
  }
  BITLAB_TRY(id, r.emit(Op::argmax, {id}));
  if (is_last) {
    BITLAB_TRY(id, Term(r, id).behind(Op::sub, static_cast<double>(reduction.reduced.factor - 1)).id());
  }
  return single(r.reshape(id, reduction.result));
}

// Sums and products of what is in front of each element along an axis, and of the element itself, where they are not exclusive.
Result<Operands> read_cumulative(Reader& r) {
  const bool is_sum = r.node().type == "CumSum";
  BITLAB_TRY(const Ints axes, r.integers(1, "an axis"));
  if (axes.size() != 1) return r.corrupt("one axis, got {}", axes.size());
  const Shape shape = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(axes[0], shape.size()));
  const bool is_reverse = r.integer("reverse", 0) != 0, is_exclusive = r.integer("exclusive", 0) != 0;
  BITLAB_TRY(ValueId x, r.activation(0));
  const DType dtype = r.of(x).dtype;
  BITLAB_TRY(x, widened(r, x));
  const auto turned = [&](ValueId id) {
    return is_reverse ? r.emit(Op::flip, {id}, {{"dims", Ints{dim}}}) : Result<ValueId>(id);
  };
  BITLAB_TRY(x, turned(x));
  BITLAB_TRY(x, r.to_last(x, dim));
  const Shape last = r.shape_of(x);
  BITLAB_TRY(x, r.reshape(x, last.size() == 1 ? Shape{1, last[0]} : last));
  if (is_exclusive) {
    const Dim& size = last.back();
    const auto at = static_cast<int64_t>(r.shape_of(x).size()) - 1;
    Ints none(static_cast<size_t>(at) + 1, 0), before = none;
    before.back() = 1;
    BITLAB_TRY(x, r.padded(x, before, none, is_sum ? 0 : 1));
    BITLAB_TRY(x, r.slice(x, at, 0, size));
  }
  BITLAB_TRY(x, r.emit(is_sum ? Op::cumsum : Op::cumprod, {x}));
  BITLAB_TRY(x, r.reshape(x, last));
  BITLAB_TRY(x, r.from_last(x, dim));
  BITLAB_TRY(x, r.cast(x, dtype));
  return single(turned(x));
}

Result<Operands> read_top_k(Reader& r) {
  const Shape shape = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", -1), shape.size()));
  auto k = r.sizes(1);
  if (r.node().find("k") != nullptr) k = SizeList{{r.integer("k", 0)}, true};  // before opset 10
  if (!k || k->values.size() != 1) return r.refuse("a number of values that is known, got none");
  BITLAB_TRY(ValueId x, r.activation(0));
  const DType dtype = r.of(x).dtype;
  BITLAB_TRY(x, widened(r, x));
  BITLAB_TRY(x, r.to_last(x, dim));
  const Shape last = r.shape_of(x);
  if (k->values[0].is_number()) r.at_least(last.back(), k->values[0].factor);
  if (last.size() == 1) {
    BITLAB_TRY(x, r.reshape(x, {1, last[0]}));
  }
  BITLAB_TRY(const auto sorted, r.emit_all(Op::sort, {x}, {{"length", k->values}, {"descending", r.integer("largest", 1)}}));
  Operands results;
  for (ValueId id : sorted) {
    Shape y = last;
    y.back() = k->values[0];
    BITLAB_TRY(id, r.reshape(id, y));
    BITLAB_TRY(id, r.from_last(id, dim));
    BITLAB_TRY(results.emplace_back(), results.empty() ? r.cast(id, dtype) : Result<ValueId>(id));
  }
  return results;
}

// --- softmax

Result<Operands> read_softmax(Reader& r) {
  constexpr int64_t kOneAxis = 13;  // before, all dimensions from the axis on are one
  const Shape shape = r.shape(0);
  const bool is_flat = r.opset() < kOneAxis;
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", is_flat ? 1 : -1), shape.size()));
  BITLAB_TRY(ValueId x, r.activation(0));
  if (is_flat) {
    BITLAB_TRY(x, r.reshape(x, {program::volume({shape.begin(), shape.begin() + dim}),
                                program::volume({shape.begin() + dim, shape.end()})}));
  } else {
    BITLAB_TRY(x, r.to_last(x, dim));
  }
  const Shape last = r.shape_of(x);
  if (r.node().type == "LogSoftmax") {
    Shape column = last.size() == 1 ? Shape{1, 1} : last;
    column.back() = 1;
    Reduction all{{}, {last.begin(), last.end() - 1}, {}, last.back()};
    for (size_t i = 0; i < last.size(); ++i) all.dims.push_back(static_cast<int64_t>(i));
    BITLAB_TRY(const ValueId flat, rows(r, x, all));
    BITLAB_TRY(const Lowered below, lowered(r, flat));
    BITLAB_TRY(const ValueId total, log_sum_exp(below.x).id());
    BITLAB_TRY(x, (below.x - Term(r, r.reshape(total, column))).id());
    BITLAB_TRY(x, r.reshape(x, last));
  } else {
    BITLAB_TRY(x, r.emit(Op::softmax, {x}, {{"dim", static_cast<int64_t>(last.size()) - 1}}));
  }
  return single(is_flat ? r.reshape(x, shape) : r.from_last(x, dim));
}

}  // namespace bitlab::format::onnx
