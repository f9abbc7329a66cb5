// Reshaping, reordering, cutting, joining.
#include <algorithm>
#include <array>
#include <numeric>

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// `length` values in front of a place that differs from run to run: the first ones of what is turned around there.
Result<ValueId> part_before(Lowering& lowering, ValueId x, int64_t dim, const program::Dim& end,
                            const program::Dim& length) {
  if (end != lowering.shape(x)[static_cast<size_t>(dim)]) {
    BITLAB_TRY(x, slice_of(lowering, x, dim, 0, end));
  }
  if (length == end) return x;
  if (length.is_number()) return slice_of(lowering, x, dim, -length.factor, length);
  const program::Attributes turned{{"dims", Sizes{dim}}};
  BITLAB_TRY(ValueId y, lowering.node(Op::flip, {x}, turned));
  BITLAB_TRY(y, slice_of(lowering, y, dim, 0, length));
  return lowering.node(Op::flip, {y}, turned);
}

// A part that begins at a place that differs from run to run, as its end may.
Status part_from_anywhere(Lowering& lowering, const Call& call, ValueId x, int64_t dim) {
  const auto size_of = [&](const Call& c) { return c.argument("self").toTensor().size(dim); };
  const auto length_in = [&](const Call& c) { return output_of(c).size(dim); };
  const auto end_of = [&](const Call& c) {
    const int64_t size = size_of(c), start = given(c, "start") ? wrap_dim(c.argument("start").toInt(), size) : 0;
    return std::clamp<int64_t>(start, 0, size) + length_in(c);
  };
  BITLAB_TRY(const program::Dim end, lowering.dim_of(call, end_of));
  BITLAB_TRY(const program::Dim length, lowering.dim_of(call, length_in));
  if (length.is_number()) lowering.at_least(end, length.factor);
  BITLAB_TRY(const ValueId y, part_before(lowering, x, dim, end, length));
  return lowering.finish(call, y);
}

// The values of a dimension from the call's beginning on; its size in the other recording tells what the length is a multiple of.
Status slice(Lowering& lowering, const Call& call, int64_t step = 1) {
  const int64_t dim = dim_of(call);
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const program::Dim whole = lowering.shape(x)[static_cast<size_t>(dim)];
  const auto size = [&](const Call& c) { return output_of(c).size(dim); };
  if (lowering.is_at(whole, call, size)) return lowering.finish(call, x);
  const Result<int64_t> place = start_of(lowering, call, dim);
  if (!place.ok() && step == 1) return part_from_anywhere(lowering, call, x, dim);
  if (!place.ok()) return place.error();
  const int64_t start = *place;
  // Up to the end, or as much as the recordings say.
  std::optional<program::Dim> length;
  if (!whole.is_number() && start >= 0) length = quotient(whole, step - 1 - start, step);
  if (!length || !lowering.is_at(*length, call, size)) {
    BITLAB_TRY(length, lowering.dim_of(call, size));
  }
  if (length->is_number()) lowering.at_least(whole, start < 0 ? -start : start + (length->factor - 1) * step + 1);
  return lowering.lower_to(call, Op::slice, {x},
                           {{"dim", dim}, {"start", start}, {"length", program::Shape{*length}}, {"step", step}});
}

// The parts that a call returns as a list, without their dimension where `drops`.
Status parts(Lowering& lowering, const Call& call, bool drops) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const int64_t dim = dim_of(call);
  const auto tensors = call.outputs.at(0).toTensorVector(), twins = lowering.twin().outputs.at(0).toTensorVector();
  if (tensors.size() != twins.size())
    return unsupported(call, "as many parts for all sizes", fmt::format("{} and {}", tensors.size(), twins.size()));
  program::Shape sizes;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto size_of = [&](const Call& c) { return c.outputs.at(0).toTensorVector().at(i).size(dim); };
    BITLAB_TRY(const program::Dim size, drops ? program::Dim(1) : lowering.dim_of(call, size_of));
    sizes.push_back(size);
  }
  Result<std::vector<ValueId>> split = lowering.nodes(Op::split, {x}, {{"dim", dim}, {"sizes", sizes}});
  std::vector<ValueId> values;
  if (split.ok()) values = *std::move(split);
  // Two parts of an odd size, whose sum is written otherwise than the whole.
  for (size_t i = values.size(); i < tensors.size(); ++i) {
    const auto end_of = [&](const Call& c) {
      int64_t end = 0;
      for (size_t k = 0; k <= i; ++k) end += c.outputs.at(0).toTensorVector().at(k).size(dim);
      return end;
    };
    BITLAB_TRY(const program::Dim end, lowering.dim_of(call, end_of));
    BITLAB_TRY(values.emplace_back(), part_before(lowering, x, dim, end, sizes[i]));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    program::Shape shape = lowering.shape(values[i]);
    if (drops) shape.erase(shape.begin() + dim);
    BITLAB_TRY(const ValueId part, lowering.reshape(values[i], shape));
    BITLAB_RETURN_IF_ERROR(lowering.finish(call, part, tensors[i]));
  }
  return {};
}

enum class Padding { kConstant, kReflect, kReplicate, kCircular };

// Parts of one dimension, cut and joined.
struct Axis {
  Lowering& lowering;
  ValueId x;
  int64_t dim;
  double value = 0;  // of kConstant

  Result<ValueId> part(int64_t start, int64_t length) const { return slice_of(lowering, x, dim, start, length); }
  // From `start` values in front of the end on.
  Result<ValueId> last(int64_t start, int64_t length) const {
    const program::Dim& size = lowering.shape(x)[static_cast<size_t>(dim)];
    return part(size.is_number() ? size.factor - start : -start, length);
  }
  Result<ValueId> join(std::vector<ValueId> list) const {
    std::erase(list, program::kNone);
    return list.size() == 1 ? Result<ValueId>(list[0]) : lowering.node(Op::cat, std::move(list), {{"dim", dim}});
  }
  Result<ValueId> constant(int64_t length) const {
    program::Shape shape = lowering.shape(x);
    shape[static_cast<size_t>(dim)] = length;
    return lowering.node(Op::expand,
                         {lowering.constant(at::full(Sizes(shape.size(), 1), value, scalar_type(lowering.dtype(x))))},
                         {{"shape", shape}});
  }
  // `length` values in front of x, or behind it; kNone for none.
  Result<ValueId> edge(Padding mode, int64_t length, bool front) const {
    if (length == 0) return program::kNone;
    if (mode == Padding::kConstant) return constant(length);
    const bool mirrors = mode == Padding::kReflect;
    lowering.at_least(lowering.shape(x)[static_cast<size_t>(dim)], mirrors                      ? length + 1
                                                                   : mode == Padding::kCircular ? length
                                                                                                : 1);
    if (mode == Padding::kCircular) return front ? last(length, length) : part(0, length);
    std::vector<ValueId> list;
    for (int64_t i = 0; i < length; ++i) {
      BITLAB_TRY(list.emplace_back(), front ? part(mirrors ? length - i : 0, 1) : last(mirrors ? 2 + i : 1, 1));
    }
    return join(std::move(list));
  }
};

// `sides`: in front and behind, of the last dimension first, as LibTorch has them.
Result<ValueId> padded(Lowering& lowering, const Call& call, ValueId x, Padding mode, const Sizes& sides, double value = 0) {
  for (size_t i = 0; i + 1 < sides.size(); i += 2) {
    const size_t dim = lowering.shape(x).size() - 1 - i / 2;
    if (sides[i] == 0 && sides[i + 1] == 0) continue;
    const program::Dim size = lowering.shape(x)[dim];
    if (uses(size, 0)) return unsupported(call, "padding within samples", show(sides));
    // What is below 0 cuts off.
    const int64_t cut = std::max<int64_t>(-sides[i], 0), cut_behind = std::max<int64_t>(-sides[i + 1], 0);
    const std::optional<program::Dim> left = sum(size, -cut - cut_behind);
    if (!left) return unsupported(call, "padding that leaves a size that can be written", show(sides));
    if (*left != size) {
      BITLAB_TRY(x, slice_of(lowering, x, static_cast<int64_t>(dim), cut, *left));
    }
    const Axis axis{lowering, x, static_cast<int64_t>(dim), value};
    BITLAB_TRY(const ValueId front, axis.edge(mode, std::max<int64_t>(sides[i], 0), true));
    BITLAB_TRY(const ValueId behind, axis.edge(mode, std::max<int64_t>(sides[i + 1], 0), false));
    BITLAB_TRY(x, axis.join({front, x, behind}));
  }
  return x;
}

// x with values behind it, or without its last ones, so that there are as many as `size`: as many more as that may ever be, cut off there.
Result<ValueId> padded_to(Lowering& lowering, const Call& call, const Axis& axis, Padding mode, const program::Dim& size) {
  constexpr int64_t kMost = 256;
  const program::Dim now = lowering.shape(axis.x)[static_cast<size_t>(axis.dim)];
  int64_t most = 0;
  while (most <= kMost && !lowering.is_within(size, now, most)) ++most;
  if (most > kMost) return unsupported(call, fmt::format("padding by {} at most", kMost), lowering.show({now, size}));
  BITLAB_TRY(const ValueId behind, axis.edge(mode, most, false));
  BITLAB_TRY(const ValueId all, axis.join({axis.x, behind}));
  return slice_of(lowering, all, axis.dim, 0, size);
}

// A size with padding in front alone; where it has no form of its own, half of all padding.
Result<program::Dim> size_with_front(Lowering& lowering, const Call& call, const program::Dim& size,
                                     const program::Dim& whole, const std::function<int64_t(const Call&)>& with_front) {
  Result<program::Dim> own = lowering.dim_of(call, with_front);
  if (own.ok() || lowering.wants_sizes()) return own;
  const auto both = sum(size, whole);
  for (const int64_t more : {0, 1}) {
    const auto half = both ? quotient(*both, more, 2) : std::nullopt;
    if (half && lowering.is_at(*half, call, with_front)) return *half;
  }
  return own;
}

// Padding of another width at each size, such as to the next multiple: by the sizes that it makes. In front it is behind what is turned around.
Result<ValueId> padded_by_sizes(Lowering& lowering, const Call& call, ValueId x, Padding mode, const char* argument,
                                double value) {
  const auto sides_of = [&](const Call& c) { return c.argument(argument).toIntVector(); };
  if (mode == Padding::kCircular) return unsupported(call, "circular padding of one width", show(sides_of(call)));
  for (size_t i = 0; i + 1 < sides_of(call).size(); i += 2) {
    const int64_t from_end = -1 - static_cast<int64_t>(i / 2);
    const auto dim = static_cast<int64_t>(lowering.shape(x).size()) + from_end;
    const auto side = [&](size_t which) { return [&, which](const Call& c) { return sides_of(c)[i + which]; }; };
    if (lowering.is_same(call, side(0)) && lowering.is_same(call, side(1))) {
      Sizes own(i + 2, 0);
      own[i] = sides_of(call)[i], own[i + 1] = sides_of(call)[i + 1];
      BITLAB_TRY(x, padded(lowering, call, x, mode, own, value));
      continue;
    }
    const auto size_of = [&](const Call& c) { return c.argument("self").toTensor().size(from_end); };
    BITLAB_TRY(const program::Dim whole, lowering.dim_of(call, [&](const Call& c) { return output_of(c).size(from_end); }));
    const program::Dim now = lowering.shape(x)[static_cast<size_t>(dim)];
    // The same at all recorded sizes: a number, or its multiples, of which these sizes need one.
    const auto multiple =
        whole.is_number() && !now.is_number() ? quotient(now, whole.factor - 1, whole.factor) : std::nullopt;
    if (multiple) {
      const program::Dim multiples = with_factor(*multiple, multiple->factor * whole.factor);
      const bool fits = lowering.is_at(multiples, call, [&](const Call& c) { return output_of(c).size(from_end); });
      if (fits && !lowering.is_told({whole, multiples}))
        return unsupported(call, "a recording at a larger size than " + lowering.show({whole}), "none");
    }
    BITLAB_TRY(const program::Dim with_front,
               size_with_front(lowering, call, lowering.shape(x)[static_cast<size_t>(dim)], whole,
                               [&](const Call& c) { return size_of(c) + side(0)(c); }));
    if (with_front != lowering.shape(x)[static_cast<size_t>(dim)]) {
      const program::Attributes turned{{"dims", Sizes{dim}}};
      BITLAB_TRY(x, lowering.node(Op::flip, {x}, turned));
      BITLAB_TRY(x, padded_to(lowering, call, Axis{lowering, x, dim, value}, mode, with_front));
      BITLAB_TRY(x, lowering.node(Op::flip, {x}, turned));
    }
    if (whole == with_front) continue;
    BITLAB_TRY(x, padded_to(lowering, call, Axis{lowering, x, dim, value}, mode, whole));
  }
  return x;
}

Status pad(Lowering& lowering, const Call& call, Padding mode, const char* argument, double value = 0) {
  const Sizes sides = call.argument(argument).toIntVector();
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  bool is_same = true;
  for (size_t i = 0; i < sides.size(); ++i)
    is_same = is_same && lowering.is_same(call, [&](const Call& c) { return c.argument(argument).toIntVector().at(i); });
  if (is_same) {
    BITLAB_TRY(x, padded(lowering, call, x, mode, sides, value));
  } else {
    BITLAB_TRY(x, padded_by_sizes(lowering, call, x, mode, argument, value));
  }
  return lowering.finish(call, x);
}

}  // namespace

Result<ValueId> zeros_around(Lowering& lowering, const Call& call, ValueId x, const Sizes& sides) {
  return padded(lowering, call, x, Padding::kConstant, sides);
}

Status lower_pad(Lowering& lowering, const Call& call) {
  constexpr std::string_view kModes[] = {"reflect", "replicate", "circular",
                                         "constant"};  // in the order of LibTorch's numbers
  const c10::IValue& argument = call.argument("mode");
  const std::string_view mode =
      argument.isString() ? std::string_view(argument.toStringRef()) : kModes[std::clamp<int64_t>(argument.toInt(), 0, 3)];
  return pad(lowering, call,
             mode == "reflect"     ? Padding::kReflect
             : mode == "replicate" ? Padding::kReplicate
             : mode == "circular"  ? Padding::kCircular
                                   : Padding::kConstant,
             "pad", given(call, "value") ? call.argument("value").toScalar().toDouble() : 0);
}

Status lower_constant_pad(Lowering& lowering, const Call& call) {
  return pad(lowering, call, Padding::kConstant, "pad", call.argument("value").toScalar().toDouble());
}

Status lower_reflection_pad(Lowering& lowering, const Call& call) {
  return pad(lowering, call, Padding::kReflect, "padding");
}

Status lower_replication_pad(Lowering& lowering, const Call& call) {
  return pad(lowering, call, Padding::kReplicate, "padding");
}

Status lower_circular_pad(Lowering& lowering, const Call& call) { return pad(lowering, call, Padding::kCircular, "pad"); }

// To another dtype; LibTorch's copies have more arguments, which decide where and how they lie.
Status lower_cast(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const at::ScalarType type = output_of(call).scalar_type();
  if (type == at::kDouble && call.argument("self").toTensor().scalar_type() != at::kDouble)
    return unsupported(call, "float32, in which programs compute: what 53 bits would promise they cannot keep", "Double");
  if (at::isComplexType(type)) return lower_to_complex(lowering, call);
  const at::ScalarType computed = computed_as(type);
  if (type == scalar_type(lowering.dtype(x)) || computed == scalar_type(lowering.dtype(x))) return lowering.finish(call, x);
  return lowering.lower_to(call, Op::cast, {x}, {{"dtype", std::string(name(dtype_of(computed)))}});
}

Status lower_reshape(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  if (lowering.shape(x) == shape) return lowering.finish(call, x);
  return lowering.lower_to(call, Op::reshape, {x}, {{"shape", shape}});
}

Status lower_permute(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  Sizes dims = call.argument("dims").toIntVector();
  for (int64_t& dim : dims) dim = wrap_dim(dim, static_cast<int64_t>(dims.size()));
  if (output_of(call).is_complex()) dims.push_back(static_cast<int64_t>(dims.size()));
  return lowering.lower_to(call, Op::permute, {x}, {{"dims", dims}});
}

Status lower_transpose(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  Sizes dims = counted(lowering.shape(x).size());
  std::swap(dims[static_cast<size_t>(dim_of(call, "dim0"))], dims[static_cast<size_t>(dim_of(call, "dim1"))]);
  return lowering.lower_to(call, Op::permute, {x}, {{"dims", dims}});
}

Result<int64_t> start_of(Lowering& lowering, const Call& call, int64_t dim) {
  const auto size_of = [&](const Call& c) { return c.argument("self").toTensor().size(dim); };
  const auto begin_of = [&](const Call& c) {
    const int64_t size = size_of(c);
    return std::clamp<int64_t>(given(c, "start") ? wrap_dim(c.argument("start").toInt(), size) : 0, 0, size);
  };
  const int64_t start = begin_of(call), twin_start = begin_of(lowering.twin()), size = size_of(call),
                twin_size = size_of(lowering.twin());
  if (start == twin_start) return start;
  if (start - size == twin_start - twin_size) return start - size;
  return unsupported(call, "a part that begins at a fixed place, from the beginning or from the end",
                     fmt::format("{} of {} and {} of {}", start, size, twin_start, twin_size));
}

Status lower_slice(Lowering& lowering, const Call& call) { return slice(lowering, call, call.argument("step").toInt()); }
Status lower_narrow(Lowering& lowering, const Call& call) { return slice(lowering, call); }

int64_t index_of_part(Lowering& lowering, const Call& call, ValueId x) {
  const int64_t dim = dim_of(call), index = call.argument("index").toInt();
  const bool is_fixed = lowering.shape(x)[static_cast<size_t>(dim)].is_number();
  return is_fixed ? wrap_dim(index, call.argument("self").toTensor().size(dim)) : index;
}

Status lower_select(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const int64_t dim = dim_of(call), index = index_of_part(lowering, call, x);
  lowering.at_least(lowering.shape(x)[static_cast<size_t>(dim)], index < 0 ? -index : index + 1);
  BITLAB_TRY(ValueId y, slice_of(lowering, x, dim, index, 1));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

Status lower_split(Lowering& lowering, const Call& call) { return parts(lowering, call, false); }
Status lower_unbind(Lowering& lowering, const Call& call) { return parts(lowering, call, true); }

Status lower_cat(Lowering& lowering, const Call& call) {
  const int64_t dim = wrap_dim(call.argument("dim").toInt(), output_of(call).dim());
  const std::vector<at::Tensor> tensors = call.argument("tensors").toTensorVector();
  const at::ScalarType type = output_of(call).scalar_type();
  std::vector<ValueId> parts;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].numel() == 0) continue;
    if (lowering.is_activation(tensors[i])) {
      BITLAB_TRY(const ValueId part, lowering.operand(call, "tensors", i));
      BITLAB_TRY(parts.emplace_back(), lowering.cast(part, type));
    } else {
      BITLAB_TRY(parts.emplace_back(), lowering.constant_of(call, [&](const Call& c) {
        return c.argument("tensors").toTensorVector().at(i).to(computed_as(type));
      }));
    }
  }
  if (parts.size() == 1) return lowering.finish(call, parts[0]);
  return lowering.lower_to(call, Op::cat, std::move(parts), {{"dim", dim}});
}

// A new dimension, in which the parts follow each other.
Status lower_stack(Lowering& lowering, const Call& call) {
  const int64_t dim = wrap_dim(call.argument("dim").toInt(), output_of(call).dim());
  const size_t count = call.argument("tensors").toTensorVector().size();
  std::vector<ValueId> parts;
  for (size_t i = 0; i < count; ++i) {
    BITLAB_TRY(ValueId part, lowering.operand(call, "tensors", i));
    program::Shape shape = lowering.shape(part);
    shape.insert(shape.begin() + dim, 1);
    BITLAB_TRY(parts.emplace_back(), lowering.reshape(part, shape));
  }
  if (count == 1) return lowering.finish(call, parts[0]);
  return lowering.lower_to(call, Op::cat, std::move(parts), {{"dim", dim}});
}

Status lower_flip(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  Sizes dims = call.argument("dims").toIntVector();
  for (int64_t& dim : dims) dim = wrap_dim(dim, static_cast<int64_t>(lowering.shape(x).size()));
  return lowering.lower_to(call, Op::flip, {x}, {{"dims", dims}});
}

// What leaves a dimension at its end enters at its beginning.
Status lower_roll(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const Sizes shifts = call.argument("shifts").toIntVector(), dims = call.argument("dims").toIntVector();
  if (shifts.size() != dims.size()) return unsupported(call, "a dimension for each shift", show(dims));
  for (size_t i = 0; i < dims.size(); ++i) {
    const int64_t dim = wrap_dim(dims[i], static_cast<int64_t>(lowering.shape(x).size()));
    const program::Dim whole = lowering.shape(x)[static_cast<size_t>(dim)];
    if (uses(whole, 0) || shifts != lowering.twin().argument("shifts").toIntVector())
      return unsupported(call, "the same shift within samples of all sizes", lowering.show(lowering.shape(x)));
    const int64_t shift = whole.is_number() ? ((shifts[i] % whole.factor) + whole.factor) % whole.factor : shifts[i];
    if (shift == 0) continue;
    lowering.at_least(whole, std::abs(shift) + 1);
    const std::optional<program::Dim> most = sum(whole, -std::abs(shift));
    if (!most) return unsupported(call, "a shift that leaves a size that can be written", show(shifts));
    const program::Dim first = shift > 0 ? *most : program::Dim(-shift), second = shift > 0 ? program::Dim(shift) : *most;
    BITLAB_TRY(const ValueId rest, slice_of(lowering, x, dim, 0, first));
    BITLAB_TRY(const ValueId front, slice_of(lowering, x, dim,
                                             shift < 0           ? -shift
                                             : whole.is_number() ? whole.factor - shift
                                                                 : -shift,
                                             second));
    BITLAB_TRY(x, lowering.node(Op::cat, {front, rest}, {{"dim", dim}}));
  }
  return lowering.finish(call, x);
}

// Dimensions one by one, each repeated as a whole; there may be more of them than x has.
Status lower_repeat(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const Sizes repeats = call.argument("repeats").toIntVector();
  program::Shape shape = lowering.shape(x);
  shape.insert(shape.begin(), repeats.size() - shape.size(), 1);
  BITLAB_TRY(x, lowering.reshape(x, shape));
  for (size_t i = 0; i < repeats.size(); ++i) {
    if (repeats[i] == 1) continue;
    program::Shape apart = shape;
    apart.insert(apart.begin() + static_cast<int64_t>(i), 1);
    BITLAB_TRY(x, lowering.reshape(x, apart));
    BITLAB_TRY(apart[i], lowering.dim_of(call, [&](const Call& c) { return c.argument("repeats").toIntVector().at(i); }));
    BITLAB_TRY(x, lowering.node(Op::expand, {x}, {{"shape", apart}}));
    shape[i] = shape[i] * apart[i];
    BITLAB_TRY(x, lowering.reshape(x, shape));
  }
  return lowering.finish(call, x);
}

Status lower_broadcast(Lowering& lowering, const Call& call) {
  const auto tensors = call.outputs.at(0).toTensorVector();
  const auto given = call.argument("tensors").toTensorVector();
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].is_same(given.at(i))) {
      if (lowering.is_activation(given[i])) BITLAB_RETURN_IF_ERROR(lowering.value_of(call, given[i]));
      continue;
    }
    BITLAB_TRY(ValueId x, lowering.operand(call, "tensors", i));
    const auto sizes_of = [&](const Call& c) { return c.outputs.at(0).toTensorVector().at(i).sizes().vec(); };
    BITLAB_TRY(const program::Shape shape, lowering.shape_of(call, sizes_of));
    BITLAB_TRY(x, expanded(lowering, x, shape));
    BITLAB_RETURN_IF_ERROR(lowering.finish(call, x, tensors[i]));
  }
  return {};
}

namespace {

// [n, c, ...] with dimensions taken apart into `parts`, put into `order`, and joined to the call's shape.
Status rearrange(Lowering& lowering, const Call& call, const program::Shape& parts, const Sizes& order) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(x, lowering.reshape(x, parts));
  BITLAB_TRY(x, lowering.node(Op::permute, {x}, {{"dims", order}}));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(x, lowering.reshape(x, shape));
  return lowering.finish(call, x);
}

Result<program::Shape> image_of(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  if (lowering.shape(x).size() == 4) return lowering.shape(x);
  return unsupported(call, "a batch of images", lowering.show(lowering.shape(x)));
}

}  // namespace

// [n, c r r, h, w] to [n, c, h r, w r]
Status lower_pixel_shuffle(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const program::Shape x, image_of(lowering, call));
  const int64_t r = call.argument("upscale_factor").toInt();
  return rearrange(lowering, call, {x[0], x[1].factor / (r * r), r, r, x[2], x[3]}, {0, 1, 4, 2, 5, 3});
}

// [n, c, h r, w r] to [n, c r r, h, w]
Status lower_pixel_unshuffle(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const program::Shape x, image_of(lowering, call));
  const int64_t r = call.argument("downscale_factor").toInt();
  return rearrange(lowering, call,
                   {x[0], x[1], with_factor(x[2], x[2].factor / r), r, with_factor(x[3], x[3].factor / r), r},
                   {0, 1, 3, 5, 2, 4});
}

// [n, g c, ...] to [n, c g, ...]
Status lower_channel_shuffle(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const program::Shape x, image_of(lowering, call));
  const int64_t groups = call.argument("groups").toInt();
  return rearrange(lowering, call, {x[0], groups, x[1].factor / groups, x[2], x[3]}, {0, 2, 1, 3, 4});
}

namespace {

// The windows of an image of fixed size, which lie one after the other.
struct Windows {
  Sizes kernel, dilation, padding, stride;
  int64_t height, width;  // with the padding

  Windows(const Call& call, int64_t image_height, int64_t image_width)
      : kernel(call.argument("kernel_size").toIntVector()),
        dilation(call.argument("dilation").toIntVector()),
        padding(call.argument("padding").toIntVector()),
        stride(call.argument("stride").toIntVector()),
        height(image_height + 2 * padding[0]),
        width(image_width + 2 * padding[1]) {}

  int64_t taps() const { return kernel[0] * kernel[1]; }
  int64_t out(int64_t size, size_t d) const { return (size - dilation[d] * (kernel[d] - 1) - 1) / stride[d] + 1; }
  // The pixel of the padded image that each tap of each window reads: [taps, windows].
  std::vector<int64_t> pixels() const {
    std::vector<int64_t> list;
    for (int64_t tap = 0; tap < taps(); ++tap)
      for (int64_t y = 0; y < out(height, 0); ++y)
        for (int64_t x = 0; x < out(width, 1); ++x)
          list.push_back((y * stride[0] + tap / kernel[1] * dilation[0]) * width + x * stride[1] +
                         tap % kernel[1] * dilation[1]);
    return list;
  }
};

Result<ValueId> taken(Lowering& lowering, const Call& call, ValueId x, const std::vector<int64_t>& places) {
  const at::Tensor indices = at::tensor(places, at::kLong);
  BITLAB_TRY(const ValueId list, lowering.constant_of(call, [&](const Call&) { return indices; }));
  return lowering.node(Op::take, {x, list}, {{"dim", int64_t{2}}});
}

// Of images whose sizes differ from run to run: tap by tap, a pixel of each window.
Status symbolic_im2col(Lowering& lowering, const Call& call, ValueId x) {
  const auto numbers = [&](const char* argument) { return call.argument(argument).toIntVector(); };
  const Sizes kernel = numbers("kernel_size"), stride = numbers("stride"), padding = numbers("padding"),
              dilation = numbers("dilation");
  BITLAB_TRY(x, zeros_around(lowering, call, x, {padding[1], padding[1], padding[0], padding[0]}));
  std::array<program::Dim, 2> counts;
  for (size_t axis = 0; axis < 2; ++axis) {
    const program::Dim size = lowering.shape(x)[axis + 2];
    const auto count = quotient(size, stride[axis] - dilation[axis] * (kernel[axis] - 1) - 1, stride[axis]);
    if (!count) return unsupported(call, "windows whose number can be written", lowering.show(lowering.shape(x)));
    counts[axis] = *count;
  }
  const auto tap_of = [&](ValueId of, size_t axis, int64_t tap) {
    return lowering.node(Op::slice, {of},
                         {{"dim", static_cast<int64_t>(axis + 2)},
                          {"start", tap * dilation[axis]},
                          {"length", program::Shape{counts[axis]}},
                          {"step", stride[axis]}});
  };
  std::vector<ValueId> taps;
  for (int64_t row = 0; row < kernel[0]; ++row) {
    BITLAB_TRY(const ValueId rows, tap_of(x, 0, row));
    for (int64_t column = 0; column < kernel[1]; ++column) {
      BITLAB_TRY(const ValueId pixels, tap_of(rows, 1, column));
      const program::Shape shape = lowering.shape(pixels);
      BITLAB_TRY(taps.emplace_back(), lowering.reshape(pixels, {shape[0], shape[1], 1, shape[2] * shape[3]}));
    }
  }
  BITLAB_TRY(x, taps.size() == 1 ? Result<ValueId>(taps[0]) : lowering.node(Op::cat, taps, {{"dim", int64_t{2}}}));
  const program::Shape shape = lowering.shape(x);
  BITLAB_TRY(x, lowering.reshape(x, {shape[0], shape[1] * shape[2], shape[3]}));
  return lowering.finish(call, x);
}

}  // namespace

// [n, c, h, w] to [n, c taps, windows]: torch.nn.Unfold.
Status lower_im2col(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const program::Shape image, image_of(lowering, call));
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  if (!image[2].is_number() || !image[3].is_number()) return symbolic_im2col(lowering, call, x);
  const Windows windows(call, image[2].factor, image[3].factor);
  const int64_t above = windows.padding[0], left = windows.padding[1];
  BITLAB_TRY(x, zeros_around(lowering, call, x, {left, left, above, above}));
  BITLAB_TRY(x, lowering.reshape(x, {image[0], image[1], windows.height * windows.width}));
  BITLAB_TRY(x, taken(lowering, call, x, windows.pixels()));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(x, lowering.reshape(x, shape));
  return lowering.finish(call, x);
}

// Its transpose, [n, c taps, windows] to [n, c, h, w], torch.nn.Fold: the values that a pixel gets are put side by side, with zeros where others get
// more, and added.
Status lower_col2im(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const program::Shape columns = lowering.shape(x);
  const Sizes size = call.argument("output_size").toIntVector();
  if (columns.size() != 3 || !columns[1].is_number() || !columns[2].is_number() ||
      size != lowering.twin().argument("output_size").toIntVector())
    return unsupported(call, "a batch of windows of images of fixed size", lowering.show(columns));
  const Windows windows(call, size[0], size[1]);
  const std::vector<int64_t> pixels = windows.pixels();
  const auto values = static_cast<int64_t>(pixels.size());
  std::vector<std::vector<int64_t>> of_pixel(static_cast<size_t>(windows.height * windows.width));
  size_t most = 1;
  for (int64_t i = 0; i < values; ++i) {
    auto& list = of_pixel[static_cast<size_t>(pixels[static_cast<size_t>(i)])];
    list.push_back(i);
    most = std::max(most, list.size());
  }
  std::vector<int64_t> places;
  for (int64_t y = 0; y < size[0]; ++y)
    for (int64_t column = 0; column < size[1]; ++column) {
      const auto pixel = (y + windows.padding[0]) * windows.width + column + windows.padding[1];
      const auto& list = of_pixel[static_cast<size_t>(pixel)];
      places.insert(places.end(), list.begin(), list.end());
      places.insert(places.end(), most - list.size(), values);  // the zero behind all values
    }
  const program::Dim channels = columns[1].factor / windows.taps();
  BITLAB_TRY(x, lowering.reshape(x, {columns[0], channels, values}));
  BITLAB_TRY(x, zeros_around(lowering, call, x, {0, 1}));
  BITLAB_TRY(x, taken(lowering, call, x, places));
  BITLAB_TRY(x, lowering.reshape(x, {columns[0], channels, size[0] * size[1], static_cast<int64_t>(most)}));
  BITLAB_TRY(x, lowering.node(Op::sum, {x}));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  BITLAB_TRY(x, lowering.reshape(x, shape));
  return lowering.finish(call, x);
}

Status lower_expand(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const program::Shape shape, lowering.shape_of_output(call));
  if (lowering.shape(x) == shape) return lowering.finish(call, x);
  return lowering.lower_to(call, Op::expand, {x}, {{"shape", shape}});
}

// Each slice along a dimension several times in a row, as grouped-query attention repeats its keys.
Status lower_repeat_interleave(Lowering& lowering, const Call& call) {
  if (!given(call, "dim")) return unsupported(call, "a dimension to repeat along", "none");
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  program::Shape shape = lowering.shape(x);
  const int64_t dim = dim_of(call);
  shape.insert(shape.begin() + dim + 1, 1);
  BITLAB_TRY(ValueId y, lowering.reshape(x, shape));
  shape[static_cast<size_t>(dim) + 1] = call.argument("repeats").toInt();
  BITLAB_TRY(y, lowering.node(Op::expand, {y}, {{"shape", shape}}));
  BITLAB_TRY(const program::Shape target, lowering.shape_of_output(call));
  BITLAB_TRY(y, lowering.reshape(y, target));
  return lowering.finish(call, y);
}

}  // namespace bitlab::deploy
