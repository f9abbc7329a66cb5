// Readers of norms.
#include <algorithm>
#include <cmath>

#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::Op;
using program::Shape;
using program::ValueId;

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
  if (own.size() > sizes.size() || !broadcast_sizes(own, sizes).ok()) return std::optional<ValueId>();
  BITLAB_TRY(const Tensor tensor, r.folding.broadcast(reshaped(*w, own), sizes));
  if (tensor.sizes != sizes) return std::optional<ValueId>();
  BITLAB_TRY(const ValueId id, r.constant(tensor, r.input_name(input)));
  return std::optional(id);
}

// The mean and 1 / the deviation of x from `dim` on.
Status add_statistics(Reader& r, ValueId x, int64_t dim, Operands& results) {
  const Shape shape = r.shape_of(x);
  Shape rows(shape.begin(), shape.begin() + dim), kept = rows;
  if (rows.empty()) rows.emplace_back(1);
  Shape column = rows;
  column.emplace_back(1);
  rows.push_back(program::volume({shape.begin() + dim, shape.end()}));
  kept.resize(shape.size(), 1);
  BITLAB_TRY(const ValueId flat, r.reshape(x, rows));
  BITLAB_TRY(const ValueId mean, r.emit(Op::mean, {flat}));
  BITLAB_TRY(const ValueId beside, r.reshape(mean, column));
  const Term apart = Term(r, flat) - Term(r, beside);
  BITLAB_TRY(const ValueId scale, ((apart * apart).of(Op::mean) + double{r.number("epsilon", 1e-5F)}).of(Op::rsqrt).id());
  BITLAB_TRY(results.emplace_back(), r.reshape(mean, kept));
  BITLAB_TRY(results.emplace_back(), r.reshape(scale, kept));
  return {};
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
  BITLAB_TRY(Operands results, single(y));
  const auto& names = r.node().outputs;
  if (op == Op::layer_norm && names.size() > 1) BITLAB_RETURN_IF_ERROR(add_statistics(r, id, dim, results));
  return results;
}

}  // namespace

Result<Operands> read_layer_norm(Reader& r) { return norm(r, Op::layer_norm); }
Result<Operands> read_rms_norm(Reader& r) { return norm(r, Op::rms_norm); }

namespace {

// Rows less their mean, over their deviation: in one node where their number of values is known.
Result<ValueId> normalized_rows(Reader& r, ValueId x, double eps) {
  const Shape shape = r.shape_of(x);
  if (shape.back().is_number()) return r.emit(Op::layer_norm, {x}, {{"dims", int64_t{1}}, {"eps", eps}});
  Shape column = shape;
  column.back() = 1;
  const auto mean = [&](const Term& of) -> Result<ValueId> {
    BITLAB_TRY(const ValueId id, of.of(Op::mean).id());
    return r.reshape(id, column);
  };
  const Term apart = Term(r, x) - Term(r, mean(Term(r, x)));
  return (apart * (Term(r, mean(apart * apart)) + eps).of(Op::rsqrt)).id();
}

}  // namespace

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
  BITLAB_TRY(id, normalized_rows(r, id, r.number("epsilon", 1e-5F)));
  BITLAB_TRY(id, r.reshape(id, x));
  return single(scaled_channels(r, id, by_channel, added));
}

// x / (sum |x|^p)^(1/p) along an axis; 0 where that is 0.
Result<Operands> read_lp_norm(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const int64_t p = r.integer("p", 2);
  if (p != 1 && p != 2) return r.corrupt("p of 1 or 2, got {}", p);
  const Shape shape = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", -1), shape.size()));
  BITLAB_TRY(ValueId id, r.activation(0));
  BITLAB_TRY(id, r.to_last(id, dim));
  const Shape last = r.shape_of(id);
  BITLAB_TRY(id, r.reshape(id, last.size() == 1 ? Shape{1, last[0]} : last));
  const Term x(r, id);
  BITLAB_TRY(ValueId size, (p == 1 ? x.of(Op::abs).of(Op::sum) : (x * x).of(Op::sum).of(Op::sqrt)).id());
  Shape column = r.shape_of(id);
  column.back() = 1;
  BITLAB_TRY(size, r.reshape(size, column));
  const Term divisor = Term(r, size).with(Op::equal, 0.0).choose(1, Term(r, size));
  BITLAB_TRY(id, (x / divisor).id());
  BITLAB_TRY(id, r.reshape(id, last));
  return single(r.from_last(id, dim));
}

// (x - mean) / deviation over axes.
Result<Operands> read_mean_variance_norm(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const Shape shape = r.shape(0);
  Ints dims, axes{0, 2, 3};
  if (const auto given = r.list("axes")) axes = *given;
  for (int64_t& axis : axes) {
    BITLAB_TRY(axis, r.axis(axis, shape.size()));
  }
  std::sort(axes.begin(), axes.end());
  axes.erase(std::unique(axes.begin(), axes.end()), axes.end());
  Shape rows;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (std::count(axes.begin(), axes.end(), static_cast<int64_t>(d)) > 0) continue;
    dims.push_back(static_cast<int64_t>(d)), rows.push_back(shape[d]);
  }
  Dim count = 1;
  for (const int64_t axis : axes) dims.push_back(axis), count = count * shape[static_cast<size_t>(axis)];
  rows.push_back(count);
  BITLAB_TRY(ValueId id, r.activation(0));
  BITLAB_TRY(id, r.permute(id, dims));
  const Shape sorted = r.shape_of(id);
  BITLAB_TRY(id, r.reshape(id, rows));
  constexpr double kEps = 1e-12;  // ONNX adds 1e-9 to the deviation instead
  BITLAB_TRY(id, r.emit(Op::layer_norm, {id}, {{"dims", int64_t{1}}, {"eps", kEps}}));
  BITLAB_TRY(id, r.reshape(id, sorted));
  Ints back(dims.size());
  for (size_t d = 0; d < dims.size(); ++d) back[static_cast<size_t>(dims[d])] = static_cast<int64_t>(d);
  return single(r.permute(id, back));
}

// x / (bias + alpha mean of x^2 over the channels around)^beta
Result<Operands> read_local_response_norm(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  const Shape shape = r.shape(0);
  const int64_t size = r.integer("size", 0);
  if (shape.size() < 3 || size < 1 || size > program::kMaxElements)
    return r.corrupt("[batch, channels, sizes...] and a size from 1, got {} and {}", r.show(shape), size);
  BITLAB_TRY(const ValueId id, r.activation(0));
  const Term x(r, id);
  BITLAB_TRY(ValueId squares, (x * x).id());
  BITLAB_TRY(squares, r.reshape(squares, {shape[0], 1, shape[1], program::volume({shape.begin() + 2, shape.end()})}));
  BITLAB_TRY(squares, r.padded(squares, {0, 0, (size - 1) / 2, 0}, {0, 0, size / 2, 0}, 0));
  BITLAB_TRY(squares, r.emit(Op::avg_pool, {squares},
                             {{"kernel_size", Ints{size, 1}},
                              {"stride", Ints{1, 1}},
                              {"padding", Ints{0, 0}},
                              {"ceil_mode", int64_t{0}},
                              {"count_include_pad", int64_t{1}},
                              {"divisor", int64_t{0}}}));
  BITLAB_TRY(squares, r.reshape(squares, shape));
  const Term base = Term(r, squares) * double{r.number("alpha", 1e-4F)} + double{r.number("bias", 1)};
  return single(x * (base.of(Op::log) * -double{r.number("beta", 0.75F)}).of(Op::exp));
}

}  // namespace bitlab::format::onnx
