// Readers of constants and shapes, and of operators that give values another shape.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

// Axes of an attribute up to some opset, and of an input from there on; nothing where there are none.
Result<std::optional<Ints>> axes_of(const Reader& r, size_t input, size_t rank) {
  std::optional<Ints> axes = r.list("axes");
  if (r.has(input)) {
    BITLAB_TRY(axes, r.integers(input, "axes"));
  }
  if (!axes) return axes;
  for (int64_t& dim : *axes) {
    BITLAB_TRY(dim, r.axis(dim, rank));
  }
  return axes;
}

// The input with another shape, whatever it is.
Result<Operands> in_shape(Reader& r, const Shape& shape) {
  if (const Tensor* x = r.tensor(0)) {
    const Ints sizes = shape_at(shape, program::kOnes);
    if (!program::is_fixed(shape) || elements_of(sizes) != elements_of(x->sizes))
      return r.corrupt("a shape of {} values, got {}", elements_of(x->sizes), r.show(shape));
    return Operands{reshaped(*x, sizes)};
  }
  if (const auto* list = std::get_if<SizeList>(&r.operand(0)); list != nullptr && shape.size() <= 1)
    return Operands{operand_of({list->values, shape.empty()})};
  BITLAB_TRY(const ValueId x, r.activation(0));
  return single(r.reshape(x, shape));
}

}  // namespace

// --- what is known

Result<Operands> read_identity(Reader& r) { return Operands{r.operand(0)}; }

Result<Operands> read_dropout(Reader& r) {
  if (r.has(2)) {
    BITLAB_TRY(const Tensor training, r.known(2, "training or not"));
    if (training.count() != 1 || training.integer(0) != 0) return r.refuse("dropout that is off, got it in training");
  }
  Operands results{r.operand(0)};
  if (r.node().outputs.size() < 2) return results;
  BITLAB_TRY(const ValueId all, r.number(1, DType::kBool));  // the mask of what stays
  BITLAB_TRY(results.emplace_back(), r.expand(all, r.shape(0)));
  return results;
}

Result<Operands> read_constant(Reader& r) {
  const ModelNode& node = r.node();
  if (const ModelAttribute* value = node.find("value"); value != nullptr && value->tensor) return Operands{*value->tensor};
  if (const ModelAttribute* one = node.find("value_int")) return Operands{tensor_of({one->integer}, true)};
  if (const ModelAttribute* list = node.find("value_ints")) return Operands{tensor_of(list->integers)};
  if (const ModelAttribute* one = node.find("value_float"))
    return single(r.folding.of_numbers(ElementType::kFloat, {}, [&](int64_t) { return one->number; }));
  if (const ModelAttribute* list = node.find("value_floats"))
    return single(r.folding.of_numbers(ElementType::kFloat, {static_cast<int64_t>(list->numbers.size())},
                                       [&](int64_t i) { return list->numbers[static_cast<size_t>(i)]; }));
  return r.refuse("a tensor of numbers as a constant, got none");
}

Result<Operands> read_constant_of_shape(Reader& r) {
  const std::optional<SizeList> sizes = r.sizes(0);
  if (!sizes) return r.refuse("sizes that are known, got those of '{}'", r.input_name(0));
  const ModelAttribute* given = r.node().find("value");
  Tensor value = given != nullptr && given->tensor ? *given->tensor : Tensor{};
  if (value.bytes.empty()) {
    BITLAB_TRY(value, r.folding.of_numbers(ElementType::kFloat, {}, [](int64_t) { return 0.0; }));
  }
  value.sizes = {};
  if (program::is_fixed(sizes->values)) return single(r.folding.broadcast(value, shape_at(sizes->values, program::kOnes)));
  BITLAB_TRY(const ValueId scalar, r.constant(value));
  return single(r.expand(scalar, sizes->values));
}

Result<Operands> read_shape(Reader& r) {
  const Shape shape = r.shape(0);
  const auto rank = static_cast<int64_t>(shape.size());
  const auto place = [&](std::string_view key, int64_t otherwise) {
    const int64_t at = r.integer(key, otherwise);
    return std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank);
  };
  const int64_t start = place("start", 0), end = std::max(place("end", rank), start);
  return Operands{operand_of({{shape.begin() + start, shape.begin() + end}})};
}

Result<Operands> read_size(Reader& r) { return Operands{operand_of({{program::volume(r.shape(0))}, true})}; }

namespace {

// From a size to a size: as many places as steps fit between them, times the step.
Result<Operands> range_of_sizes(Reader& r) {
  const bool has_floats = r.type(1) == ElementType::kFloat;
  const auto given = [&](size_t i) { return has_floats ? r.sizes_as_floats(i) : r.sizes(i); };
  const auto start = given(0), limit = given(1), delta = given(2);
  if (!start || !limit || !delta || !delta->values[0].is_number() || delta->values[0] == Dim(0))
    return r.refuse("a range between sizes in steps that are known, got another");
  const int64_t step = delta->values[0].factor;
  if (!counts_places(step)) return r.corrupt("a step up to 2^40, got {}", step);
  const int64_t size = std::abs(step);
  const auto way = step > 0 ? sum(limit->values[0], start->values[0], -1) : sum(start->values[0], limit->values[0], -1);
  const auto count = way ? quotient(*way, size - 1, size) : std::nullopt;
  if (!count) return r.refuse("a range of a size, got one from {} to {}", r.show(start->values), r.show(limit->values));
  BITLAB_TRY(ValueId places, r.positions(*count));
  if (step != 1) {
    BITLAB_TRY(places, r.with(Op::mul, places, static_cast<double>(step)));
  }
  if (start->values[0] != Dim(0)) {
    BITLAB_TRY(const ValueId first, r.computed(operand_of({start->values, true})));
    BITLAB_TRY(places, r.emit(Op::add, {places, first}));
  }
  return single(r.cast(places, has_floats                         ? DType::kFloat32
                               : r.type(1) == ElementType::kInt32 ? DType::kInt32
                                                                  : DType::kInt64));
}

}  // namespace

Result<Operands> read_range(Reader& r) {
  for (size_t i = 0; i < 3; ++i)
    if (!r.has(i) || program::volume(r.shape(i)) != Dim(1))
      return r.corrupt("a start, a limit and a step, got {} inputs", r.node().inputs.size());
  if (r.tensor(0) != nullptr && r.tensor(1) != nullptr && r.tensor(2) != nullptr) {
    const double start = r.tensor(0)->number(0), limit = r.tensor(1)->number(0), delta = r.tensor(2)->number(0);
    const double count = std::max(std::ceil((limit - start) / delta), 0.0);
    if (!(count < static_cast<double>(program::kMaxElements))) return r.corrupt("a step that ends, got {}", delta);
    const auto sizes = Ints{static_cast<int64_t>(count)};
    return single(r.folding.of_numbers(r.type(0), sizes, [&](int64_t i) { return start + static_cast<double>(i) * delta; }));
  }
  return range_of_sizes(r);
}

// --- the same values in another shape

Result<Operands> read_reshape(Reader& r) {
  const std::optional<SizeList> target = r.sizes(1);
  if (!target) return r.refuse("a shape that is known, got '{}', which is computed", r.input_name(1));
  const Shape from = r.shape(0);
  Shape shape = target->values;
  Dim rest = program::volume(from);
  std::optional<size_t> open;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] == Dim(0) && r.integer("allowzero", 0) == 0) {
      if (i >= from.size()) return r.corrupt("a size to keep, got 0 in place {} of {}", i, r.show(shape));
      shape[i] = from[i];
    }
    if (shape[i] != Dim(-1)) continue;
    if (open) return r.corrupt("one size that follows from the others, got {}", r.show(shape));
    open = i;
  }
  if (open) {
    for (size_t i = 0; i < shape.size(); ++i) {
      if (i == *open) continue;
      const auto left = divided(rest, shape[i]);
      if (!left) return r.refuse("a shape of the values of {}, got {}", r.show(from), r.show(shape));
      rest = *left;
    }
    shape[*open] = rest;
  }
  return in_shape(r, shape);
}

Result<Operands> read_flatten(Reader& r) {
  const Shape x = r.shape(0);
  const int64_t at = r.integer("axis", 1), dim = at < 0 ? at + static_cast<int64_t>(x.size()) : at;
  if (dim < 0 || dim > static_cast<int64_t>(x.size())) return r.corrupt("an axis of {} dimensions, got {}", x.size(), at);
  return in_shape(r, {program::volume({x.begin(), x.begin() + dim}), program::volume({x.begin() + dim, x.end()})});
}

Result<Operands> read_squeeze(Reader& r) {
  const Shape x = r.shape(0);
  BITLAB_TRY(const auto axes, axes_of(r, 1, x.size()));
  Shape y;
  for (size_t i = 0; i < x.size(); ++i) {
    const bool drops = axes ? std::count(axes->begin(), axes->end(), static_cast<int64_t>(i)) > 0 : x[i] == Dim(1);
    if (!drops) y.push_back(x[i]);
    if (drops && x[i] != Dim(1)) return r.corrupt("sizes of 1 to drop, got {} of {}", i, r.show(x));
  }
  return in_shape(r, y);
}

Result<Operands> read_unsqueeze(Reader& r) {
  const Shape x = r.shape(0);
  std::optional<Ints> given = r.list("axes");
  if (r.has(1)) {
    BITLAB_TRY(given, r.integers(1, "axes"));
  }
  const size_t rank = x.size() + (given ? given->size() : 0);
  if (rank > static_cast<size_t>(program::kMaxRank)) return r.refuse("at most {} sizes, got {}", program::kMaxRank, rank);
  BITLAB_TRY(const auto axes, axes_of(r, 1, rank));
  if (!axes) return r.corrupt("axes, got none");
  Shape y;
  for (size_t i = 0, from = 0; i < rank; ++i) {
    const bool is_new = std::count(axes->begin(), axes->end(), static_cast<int64_t>(i)) > 0;
    if (!is_new && from == x.size()) return r.corrupt("axes, each once, got {}", program::to_string(*axes));
    y.push_back(is_new ? Dim(1) : x[from++]);
  }
  return in_shape(r, y);
}

Result<Operands> read_transpose(Reader& r) {
  const size_t rank = r.shape(0).size();
  Ints dims(rank);
  std::iota(dims.rbegin(), dims.rend(), int64_t{0});
  if (const auto perm = r.list("perm")) dims = *perm;
  Ints sorted = dims;
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size() || i < rank; ++i)
    if (sorted.size() != rank || sorted[i] != static_cast<int64_t>(i))
      return r.corrupt("each of {} dimensions once, got {}", rank, program::to_string(dims));
  if (const Tensor* x = r.tensor(0)) return single(r.folding.permuted(*x, dims));
  BITLAB_TRY(const ValueId x, r.activation(0));
  return single(r.permute(x, dims));
}

}  // namespace bitlab::format::onnx
