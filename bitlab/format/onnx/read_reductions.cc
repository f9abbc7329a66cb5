// Readers of operators that reduce dimensions, and of norms.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
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
  BITLAB_TRY(id, rows(r, id, reduction));
  if (r.node().type == "ReduceLogSumExp") {
    BITLAB_TRY(const Lowered below, lowered(r, id));
    BITLAB_TRY(id, (log_sum_exp(below.x) + below.most).id());
  } else {
    BITLAB_TRY(id, reduced(r, Term(r, id)).id());
  }
  return single(r.reshape(id, reduction.result));
}

Result<Operands> read_arg_most(Reader& r) {
  if (r.integer("select_last_index", 0) != 0) return r.refuse("the first of equal ones, got the last");
  const Shape x = r.shape(0);
  BITLAB_TRY(const Reduction reduction, reduction_of(r, x, {r.integer("axis", 0)}));
  BITLAB_TRY(ValueId id, r.activation(0));
  if (r.node().type == "ArgMin") {
    BITLAB_TRY(id, r.with(Op::mul, id, -1));
  }
  BITLAB_TRY(id, rows(r, id, reduction));
  BITLAB_TRY(id, r.emit(Op::argmax, {id}));
  return single(r.reshape(id, reduction.result));
}

Result<Operands> read_cumsum(Reader& r) {
  BITLAB_TRY(const Ints axes, r.integers(1, "an axis"));
  if (axes.size() != 1) return r.corrupt("one axis, got {}", axes.size());
  const Shape shape = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(axes[0], shape.size()));
  const bool is_reverse = r.integer("reverse", 0) != 0;
  if (r.integer("exclusive", 0) != 0) return r.refuse("sums with the element itself, got exclusive ones");
  BITLAB_TRY(ValueId x, r.activation(0));
  const auto turned = [&](ValueId id) {
    return is_reverse ? r.emit(Op::flip, {id}, {{"dims", Ints{dim}}}) : Result<ValueId>(id);
  };
  BITLAB_TRY(x, turned(x));
  BITLAB_TRY(x, r.to_last(x, dim));
  const Shape last = r.shape_of(x);
  if (last.size() == 1) {
    BITLAB_TRY(x, r.reshape(x, {1, last[0]}));
  }
  BITLAB_TRY(x, r.emit(Op::cumsum, {x}));
  BITLAB_TRY(x, r.reshape(x, last));
  BITLAB_TRY(x, r.from_last(x, dim));
  return single(turned(x));
}

Result<Operands> read_top_k(Reader& r) {
  const Shape shape = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", -1), shape.size()));
  const auto k = r.sizes(1);
  if (!k || k->values.size() != 1) return r.refuse("a number of values that is known, got none");
  BITLAB_TRY(ValueId x, r.activation(0));
  BITLAB_TRY(x, r.to_last(x, dim));
  const Shape last = r.shape_of(x);
  if (last.size() == 1) {
    BITLAB_TRY(x, r.reshape(x, {1, last[0]}));
  }
  BITLAB_TRY(const auto sorted, r.emit_all(Op::sort, {x}, {{"length", k->values}, {"descending", r.integer("largest", 1)}}));
  Operands results;
  for (ValueId id : sorted) {
    Shape y = last;
    y.back() = k->values[0];
    BITLAB_TRY(id, r.reshape(id, y));
    BITLAB_TRY(results.emplace_back(), r.from_last(id, dim));
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

// --- norms

namespace {

// x scale[c] + shift[c] of [batch, c, ...].
Result<ValueId> scaled_channels(Reader& r, ValueId x, const std::vector<double>& scale, const std::vector<double>& shift) {
  const auto channels = static_cast<int64_t>(scale.size());
  const auto constant = [&](const std::vector<double>& values, std::string_view name) -> Result<ValueId> {
    BITLAB_TRY(const Tensor tensor, r.folding.of_numbers(ElementType::kFloat, {channels},
                                                         [&](int64_t i) { return values[static_cast<size_t>(i)]; }));
    return r.constant(tensor, name);
  };
  const std::string name(r.node().outputs[0]);
  BITLAB_TRY(const ValueId a, constant(scale, name + ".scale"));
  BITLAB_TRY(const ValueId b, constant(shift, name + ".shift"));
  return r.emit(Op::batch_norm, {x, a, b});
}

std::vector<double> numbers_of(const Tensor& tensor) {
  std::vector<double> values;
  for (int64_t i = 0; i < tensor.count(); ++i) values.push_back(tensor.number(i));
  return values;
}

}  // namespace

Result<Operands> read_batch_norm(Reader& r) {
  if (r.integer("training_mode", 0) != 0) return r.refuse("statistics that are known, got those of the batch");
  const Shape x = r.shape(0);
  if (x.size() < 2) return r.corrupt("[batch, channels, ...], got {}", r.show(x));
  std::vector<std::vector<double>> parts;
  for (size_t i = 1; i < 5; ++i) {
    BITLAB_TRY(const Tensor tensor, r.known(i, "a norm's numbers"));
    parts.push_back(numbers_of(tensor));
    if (Dim(tensor.count()) != x[1]) return r.corrupt("{} channels, got {}", r.show({x[1]}), tensor.count());
  }
  const double eps = r.number("epsilon", 1e-5F);
  std::vector<double> scale, shift;
  for (size_t c = 0; c < parts[0].size(); ++c) {
    scale.push_back(parts[0][c] / std::sqrt(parts[3][c] + eps));
    shift.push_back(parts[1][c] - parts[2][c] * scale.back());
  }
  BITLAB_TRY(const ValueId id, r.activation(0));
  return single(scaled_channels(r, id, scale, shift));
}

namespace {

// A weight of a norm: a constant of the normalized sizes, or what is multiplied behind it.
Result<std::optional<ValueId>> norm_weight(Reader& r, size_t input, const Shape& normalized) {
  const Tensor* w = r.tensor(input);
  if (w == nullptr || w->type != ElementType::kFloat || !program::is_fixed(normalized)) return std::optional<ValueId>();
  const Ints sizes = shape_at(normalized, program::kOnes);
  Ints own = w->sizes;
  while (own.size() > sizes.size() && own.front() == 1) own.erase(own.begin());
  if (own.size() > sizes.size() || broadcast_sizes(own, sizes).ok() == false) return std::optional<ValueId>();
  BITLAB_TRY(const Tensor tensor, r.folding.broadcast(reshaped(*w, own), sizes));
  if (tensor.sizes != sizes) return std::optional<ValueId>();
  BITLAB_TRY(const ValueId id, r.constant(tensor, r.node().inputs[input]));
  return std::optional(id);
}

Result<Operands> norm(Reader& r, Op op) {
  const Shape x = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", -1), x.size()));
  const Shape normalized(x.begin() + dim, x.end());
  BITLAB_TRY(const ValueId id, r.activation(0));
  std::vector<ValueId> inputs{id};
  bool has_weight = r.has(1), has_bias = op == Op::layer_norm && r.has(2);
  if (has_weight) {
    BITLAB_TRY(const auto weight, norm_weight(r, 1, normalized));
    if (weight) {
      inputs.push_back(*weight);
      has_weight = false;
    }
  }
  if (has_bias && !has_weight && inputs.size() == 2) {
    BITLAB_TRY(const auto bias, norm_weight(r, 2, normalized));
    if (bias) {
      inputs.push_back(*bias);
      has_bias = false;
    }
  }
  Term y(r, r.emit(op, inputs,
                   {{"dims", static_cast<int64_t>(normalized.size())}, {"eps", double{r.number("epsilon", 1e-5F)}}}));
  if (has_weight) y = y * Term(r, r.value(1));
  if (has_bias) y = y + Term(r, r.value(2));
  return single(y);
}

}  // namespace

Result<Operands> read_layer_norm(Reader& r) { return norm(r, Op::layer_norm); }
Result<Operands> read_rms_norm(Reader& r) { return norm(r, Op::rms_norm); }

// Groups of channels, normalized; an instance is a group of one. Scale and shift are of channels, up to opset 20 of groups.
Result<Operands> read_group_norm(Reader& r) {
  const Shape x = r.shape(0);
  if (x.size() < 3 || !x[1].is_number()) return r.refuse("[batch, channels, sizes...], got {}", r.show(x));
  const int64_t channels = x[1].factor;
  const int64_t groups = r.node().type == "InstanceNormalization" ? channels : r.integer("num_groups", 0);
  if (groups < 1 || channels % groups != 0) return r.corrupt("groups of {} channels, got {}", channels, groups);
  BITLAB_TRY(const Tensor scale, r.known(1, "a norm's numbers"));
  BITLAB_TRY(const Tensor shift, r.known(2, "a norm's numbers"));
  std::vector<double> by_channel, added;
  for (const auto& [from, to] : {std::pair{&scale, &by_channel}, std::pair{&shift, &added}}) {
    if (from->count() != channels && from->count() != groups)
      return r.corrupt("{} numbers, got {}", channels, from->count());
    for (int64_t c = 0; c < channels; ++c)
      to->push_back(from->number(from->count() == channels ? c : c / (channels / groups)));
  }
  const Dim size = program::volume({x.begin() + 2, x.end()});
  BITLAB_TRY(ValueId id, r.activation(0));
  BITLAB_TRY(id, r.reshape(id, {x[0], groups, size * Dim(channels / groups)}));
  BITLAB_TRY(id, r.emit(Op::layer_norm, {id}, {{"dims", int64_t{1}}, {"eps", double{r.number("epsilon", 1e-5F)}}}));
  BITLAB_TRY(id, r.reshape(id, x));
  return single(scaled_channels(r, id, by_channel, added));
}

}  // namespace bitlab::format::onnx
