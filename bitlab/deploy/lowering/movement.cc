// Reshaping, reordering, cutting, joining.
#include <algorithm>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

// `length` values in front of a place that differs from run to run: the first ones of what is turned around there.
Result<ValueId> part_before(Lowering& lowering, ValueId x, int64_t dim, const program::Dim& end,
                            const program::Dim& length) {
  if (const program::Dim whole = lowering.shape(x)[static_cast<size_t>(dim)]; end != whole) {
    if (!end.is_number()) lowering.keep_within(end, whole);
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
  const Result<int64_t> place = place_of(lowering, call, dim, "start");
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
  if (!length->is_number() && start == 0 && step == 1) lowering.keep_within(*length, whole);
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

}  // namespace

// To another dtype; LibTorch's copies have more arguments, which decide where and how they lie.
Status lower_cast(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const at::ScalarType type = output_of(call).scalar_type();
  if (at::isComplexType(type)) return lower_to_complex(lowering, call);
  const at::ScalarType computed = computed_as(type);
  if (type == scalar_type(lowering.dtype(x)) || computed == scalar_type(lowering.dtype(x))) return lowering.finish(call, x);
  return lowering.lower_to(call, Op::cast, {x}, {{"dtype", std::string(name(dtype_of(computed)))}});
}

namespace {

// The shape of what has as many values as x: a size that recordings tell otherwise, or not at all, follows from the others.
Result<program::Shape> shape_of_same(Lowering& lowering, const Call& call, ValueId x) {
  Result<program::Shape> told = lowering.shape_of_output(call);
  const program::Dim all = program::volume(lowering.shape(x));
  if (output_of(call).is_complex() || (told.ok() && program::volume(*told) == all)) return told;
  const size_t rank = call.shape_of(output_of(call)).size();
  std::vector<std::optional<program::Dim>> sizes;
  const auto size_in = [](const Call& c, size_t i) { return c.shapes.at(0).at(i); };
  for (size_t i = 0; i < rank; ++i) {
    const Result<program::Dim> size = lowering.dim_of(call, [&](const Call& c) { return size_in(c, i); });
    sizes.push_back(size.ok() ? std::optional(*size) : std::nullopt);
  }
  for (size_t i = 0; i < rank; ++i) {
    program::Shape shape;
    std::optional<program::Dim> rest = all;
    for (size_t k = 0; k < rank && rest; ++k) {
      shape.push_back(sizes[k].value_or(1));
      if (k != i) rest = sizes[k] ? divided(*rest, *sizes[k]) : std::nullopt;
    }
    if (!rest || !lowering.is_at(*rest, call, [&](const Call& c) { return size_in(c, i); })) continue;
    shape[i] = *rest;
    return shape;
  }
  return told;
}

}  // namespace

Status lower_reshape(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const program::Shape shape, shape_of_same(lowering, call, x));
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

Result<int64_t> place_of(Lowering& lowering, const Call& call, int64_t dim, const char* argument) {
  const auto size_of = [&](const Call& c) { return c.argument("self").toTensor().size(dim); };
  const auto begin_of = [&](const Call& c) {
    const int64_t size = size_of(c);
    return std::clamp<int64_t>(given(c, argument) ? wrap_dim(c.argument(argument).toInt(), size) : 0, 0, size);
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

Status lower_select(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const int64_t dim = dim_of(call);
  const auto part = [&]() -> Result<ValueId> {
    if (const Result<int64_t> index = place_of(lowering, call, dim, "index"); index.ok()) {
      lowering.at_least(lowering.shape(x)[static_cast<size_t>(dim)], *index < 0 ? -*index : *index + 1);
      return slice_of(lowering, x, dim, *index, 1);
    }
    BITLAB_TRY(const program::Dim end, lowering.dim_of(call, [&](const Call& c) {
      return wrap_dim(c.argument("index").toInt(), c.argument("self").toTensor().size(dim)) + 1;
    }));
    return part_before(lowering, x, dim, end, 1);
  };
  BITLAB_TRY(ValueId y, part());
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

namespace {

// A shift of another width at each size, as by half of it: what lies as many values in front of the end of two copies.
Result<ValueId> rolled_by_sizes(Lowering& lowering, const Call& call, ValueId x, int64_t dim,
                                const std::function<int64_t(const Call&)>& shift_in) {
  const program::Dim whole = lowering.shape(x)[static_cast<size_t>(dim)];
  const auto end_in = [&](const Call& c) {
    const int64_t size = c.argument("self").toTensor().size(dim);
    return 2 * size - (shift_in(c) % size + size) % size;
  };
  BITLAB_TRY(const program::Dim end, lowering.dim_of(call, end_in));
  BITLAB_TRY(x, lowering.node(Op::cat, {x, x}, {{"dim", dim}}));
  return part_before(lowering, x, dim, end, whole);
}

}  // namespace

// What leaves a dimension at its end enters at its beginning.
Status lower_roll(Lowering& lowering, const Call& call) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  const Sizes shifts = call.argument("shifts").toIntVector(), dims = call.argument("dims").toIntVector();
  if (shifts.size() != dims.size()) return unsupported(call, "a dimension for each shift", show(dims));
  for (size_t i = 0; i < dims.size(); ++i) {
    const int64_t dim = wrap_dim(dims[i], static_cast<int64_t>(lowering.shape(x).size()));
    const program::Dim whole = lowering.shape(x)[static_cast<size_t>(dim)];
    const auto shift_in = [&](const Call& c) { return c.argument("shifts").toIntVector().at(i); };
    if (uses(whole, 0)) return unsupported(call, "a shift within samples", lowering.show(lowering.shape(x)));
    if (!lowering.is_same(call, shift_in)) {
      BITLAB_TRY(x, rolled_by_sizes(lowering, call, x, dim, shift_in));
      continue;
    }
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
