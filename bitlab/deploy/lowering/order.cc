// What is put in order: sorting, the largest, medians, quantiles.
#include <algorithm>
#include <cmath>
#include <functional>

#include <ATen/ops/full.h>
#include <ATen/ops/result_type.h>

#include "bitlab/deploy/lowering/internal/rows.h"
#include "bitlab/deploy/lowering/internal/terms.h"

namespace bitlab::deploy {
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

// The place of the median among values in order, of each row: [..., 1]. NaN are the last ones.
Result<ValueId> middle(Lowering& lowering, const Call& call, const Rows& rows, bool skips_nan) {
  program::Shape shape = lowering.shape(rows.x);
  shape.back() = 1;
  const auto count = [&]() -> Result<ValueId> {
    if (!skips_nan)
      return lowering.number_in_all(
          call,
          [](const Call& c) {
            const at::Tensor& x = c.argument("self").toTensor();
            return static_cast<double>(c.arguments.size() > 1 ? x.size(dim_of(c)) : x.numel());
          },
          at::kLong);
    BITLAB_TRY(ValueId numbers, lowering.node(Op::equal, {rows.x, rows.x}));
    BITLAB_TRY(numbers, lowering.cast(numbers, at::kLong));
    BITLAB_TRY(numbers, lowering.node(Op::sum, {numbers}));
    return lowering.reshape(numbers, shape);
  };
  BITLAB_TRY(const ValueId place, (Term(lowering, count()) + -1).with(Op::maximum, 0).with(Op::floor_divide, 2).value());
  return expanded(lowering, place, shape);
}

}  // namespace

// The lower of two in the middle. A row with NaN gives NaN, or what the others do.
Status lower_median(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.operand_as(call, "self", type_of(call)));
  BITLAB_TRY(const Rows rows, rows_of(lowering, call, x));
  const bool skips_nan = call.op.starts_with("aten::nan") && lowering.dtype(x) == program::DType::kFloat32;
  BITLAB_TRY(const std::vector<ValueId> parts,
             lowering.nodes(Op::sort, {rows.x}, {{"length", program::Shape{rows.values}}, {"descending", int64_t{0}}}));
  BITLAB_TRY(const ValueId place, middle(lowering, call, rows, skips_nan));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  const auto last = static_cast<int64_t>(lowering.shape(rows.x).size()) - 1;
  const auto finished = [&](size_t part) -> Result<ValueId> {
    BITLAB_TRY(ValueId y, lowering.node(Op::gather, {parts[part], place}, {{"dim", last}}));
    if (!skips_nan && lowering.dtype(x) == program::DType::kFloat32) {
      BITLAB_TRY(const ValueId most, slice_of(lowering, parts[0], last, -1, 1));
      BITLAB_TRY(const ValueId end, slice_of(lowering, parts[part], last, -1, 1));
      BITLAB_TRY(const ValueId nan, lowering.node(Op::not_equal, {most, most}));
      BITLAB_TRY(y, lowering.node(Op::where, {nan, end, y}));
    }
    return lowering.reshape(y, shape);
  };
  BITLAB_TRY(const ValueId y, finished(0));
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, y));
  return finish_second(lowering, call, [&] { return finished(1); });
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
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  const auto finished = [&](size_t part) -> Result<ValueId> {
    BITLAB_TRY(const ValueId y, rows.at(lowering, part, call.argument("k").toInt() - 1));
    return lowering.reshape(y, shape);
  };
  BITLAB_TRY(const ValueId y, finished(0));
  BITLAB_RETURN_IF_ERROR(lowering.finish(call, y));
  return finish_second(lowering, call, [&] { return finished(1); });
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

}  // namespace bitlab::deploy
