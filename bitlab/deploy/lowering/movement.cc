// Reshaping, reordering, cutting, joining.
#include <algorithm>
#include <numeric>

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "bitlab/deploy/lowering/lowerings.h"

namespace bitlab::deploy {
namespace {

Result<program::Shape> output_shape(Lowering& lowering, const Call& call) {
  return lowering.shape_of(call, output_of(call), lowering.twin().outputs.at(0).toTensor());
}

int64_t dim_of(const Call& call, const std::string& argument = "dim") {
  return wrap_dim(call.argument(argument).toInt(), call.argument("self").toTensor().dim());
}

Status slice(Lowering& lowering, const Call& call, int64_t dim, int64_t start, int64_t length) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  if (start == 0 && length == call.argument("self").toTensor().size(dim)) return lowering.finish(call, x);
  return lowering.lower_to(call, Op::slice, {x}, {{"dim", dim}, {"start", start}, {"length", length}});
}

// The parts that a call returns as a list: each a slice, without its dimension where `drops`.
Status parts(Lowering& lowering, const Call& call, bool drops) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const int64_t dim = dim_of(call);
  int64_t start = 0;
  for (const at::Tensor& part : call.outputs.at(0).toTensorVector()) {
    const int64_t length = drops ? 1 : part.size(dim);
    BITLAB_TRY(ValueId y, lowering.node(Op::slice, {x}, {{"dim", dim}, {"start", start}, {"length", length}}));
    if (drops) {
      program::Shape shape = lowering.shape(y);
      shape.erase(shape.begin() + dim);
      BITLAB_TRY(y, lowering.reshape(y, shape));
    }
    BITLAB_RETURN_IF_ERROR(lowering.finish(call, y, part));
    start += length;
  }
  return {};
}

// x repeated to `shape`: times ones, which changes nothing.
Result<ValueId> repeated(Lowering& lowering, ValueId x, const program::Shape& shape) {
  Sizes sizes;
  for (const program::Dim& dim : shape) sizes.push_back(dim.symbolic ? 1 : dim.size);
  return lowering.node(Op::mul, {x, lowering.constant(at::ones(sizes))});
}

enum class Padding { kZeros, kReflect, kReplicate, kCircular };

// Parts of one dimension, cut and joined.
struct Axis {
  Lowering& lowering;
  ValueId x;
  int64_t dim, size;

  Result<ValueId> part(int64_t start, int64_t length) const {
    return lowering.node(Op::slice, {x}, {{"dim", dim}, {"start", start}, {"length", length}});
  }
  Result<ValueId> join(ValueId a, ValueId b) const {
    if (a == program::kNone) return b;
    return lowering.node(Op::cat, {a, b}, {{"dim", dim}});
  }
  Result<ValueId> zeros(int64_t length) const {
    Sizes shape;
    for (const program::Dim& d : lowering.shape(x)) shape.push_back(d.symbolic ? 1 : d.size);
    shape[static_cast<size_t>(dim)] = length;
    return lowering.node(Op::expand, {lowering.constant(at::zeros(shape))});
  }
  // `length` values in front of x, or behind it; kNone for none.
  Result<ValueId> edge(Padding mode, int64_t length, bool front) const {
    if (length == 0) return program::kNone;
    if (mode == Padding::kZeros) return zeros(length);
    if (mode == Padding::kCircular) return part(front ? size - length : 0, length);
    ValueId joined = program::kNone;
    for (int64_t i = 0; i < length; ++i) {
      const int64_t mirrored = front ? length - i : size - 2 - i, last = front ? 0 : size - 1;
      BITLAB_TRY(const ValueId one, part(mode == Padding::kReflect ? mirrored : last, 1));
      BITLAB_TRY(joined, join(joined, one));
    }
    return joined;
  }
};

// `sides`: in front and behind, of the last dimension first, as LibTorch has them.
Result<ValueId> padded(Lowering& lowering, const Call& call, ValueId x, Padding mode, const Sizes& sides) {
  if (!lowering.shape(x)[0].symbolic) return unsupported(call, "the batch in front", to_string(lowering.shape(x)));
  for (size_t i = 0; i + 1 < sides.size(); i += 2) {
    const size_t dim = lowering.shape(x).size() - 1 - i / 2;
    if (sides[i] < 0 || sides[i + 1] < 0 || lowering.shape(x)[dim].symbolic)
      return unsupported(call, "padding from 0 within samples", show(sides));
    const Axis axis{lowering, x, static_cast<int64_t>(dim), lowering.shape(x)[dim].size};
    BITLAB_TRY(const ValueId front, axis.edge(mode, sides[i], true));
    BITLAB_TRY(const ValueId behind, axis.edge(mode, sides[i + 1], false));
    BITLAB_TRY(x, axis.join(front, x));
    if (behind != program::kNone) {
      BITLAB_TRY(x, axis.join(x, behind));
    }
  }
  return x;
}

Status pad(Lowering& lowering, const Call& call, Padding mode, const Sizes& sides) {
  BITLAB_TRY(ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(x, padded(lowering, call, x, mode, sides));
  return lowering.finish(call, x);
}

}  // namespace

Result<ValueId> zeros_around(Lowering& lowering, const Call& call, ValueId x, const Sizes& sides) {
  return padded(lowering, call, x, Padding::kZeros, sides);
}

Status lower_pad(Lowering& lowering, const Call& call) {
  constexpr std::string_view kModes[] = {"reflect", "replicate", "circular",
                                         "constant"};  // in the order of LibTorch's numbers
  const c10::IValue& argument = call.argument("mode");
  const std::string_view mode =
      argument.isString() ? std::string_view(argument.toStringRef()) : kModes[std::clamp<int64_t>(argument.toInt(), 0, 3)];
  if (mode == "constant" && given(call, "value") && call.argument("value").toScalar().toDouble() != 0)
    return unsupported(call, "zeros", describe(call.argument("value")));
  return pad(lowering, call,
             mode == "reflect"     ? Padding::kReflect
             : mode == "replicate" ? Padding::kReplicate
             : mode == "circular"  ? Padding::kCircular
                                   : Padding::kZeros,
             call.argument("pad").toIntVector());
}

Status lower_constant_pad(Lowering& lowering, const Call& call) {
  if (call.argument("value").toScalar().toDouble() != 0) return unsupported(call, "zeros", describe(call.argument("value")));
  return pad(lowering, call, Padding::kZeros, call.argument("pad").toIntVector());
}

Status lower_reflection_pad(Lowering& lowering, const Call& call) {
  return pad(lowering, call, Padding::kReflect, call.argument("padding").toIntVector());
}

Status lower_replication_pad(Lowering& lowering, const Call& call) {
  return pad(lowering, call, Padding::kReplicate, call.argument("padding").toIntVector());
}

Status lower_circular_pad(Lowering& lowering, const Call& call) {
  return pad(lowering, call, Padding::kCircular, call.argument("pad").toIntVector());
}

Status lower_reshape(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const program::Shape shape, output_shape(lowering, call));
  if (lowering.shape(x) == shape) return lowering.finish(call, x);
  Sizes sizes;
  for (const program::Dim& dim : shape) sizes.push_back(dim.symbolic ? -dim.size : dim.size);
  return lowering.lower_to(call, Op::reshape, {x}, {{"shape", sizes}});
}

Status lower_permute(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  Sizes dims = call.argument("dims").toIntVector();
  for (int64_t& dim : dims) dim = wrap_dim(dim, static_cast<int64_t>(dims.size()));
  return lowering.lower_to(call, Op::permute, {x}, {{"dims", dims}});
}

Status lower_transpose(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  Sizes dims(lowering.shape(x).size());
  std::iota(dims.begin(), dims.end(), int64_t{0});
  std::swap(dims[static_cast<size_t>(dim_of(call, "dim0"))], dims[static_cast<size_t>(dim_of(call, "dim1"))]);
  return lowering.lower_to(call, Op::permute, {x}, {{"dims", dims}});
}

Status lower_slice(Lowering& lowering, const Call& call) {
  const int64_t dim = dim_of(call), size = call.argument("self").toTensor().size(dim);
  if (call.argument("step").toInt() != 1) return unsupported(call, "a step of 1", describe(call.argument("step")));
  const int64_t start = given(call, "start") ? wrap_dim(call.argument("start").toInt(), size) : 0;
  return slice(lowering, call, dim, std::clamp<int64_t>(start, 0, size), output_of(call).size(dim));
}

Status lower_narrow(Lowering& lowering, const Call& call) {
  const int64_t dim = dim_of(call), size = call.argument("self").toTensor().size(dim);
  return slice(lowering, call, dim, wrap_dim(call.argument("start").toInt(), size), call.argument("length").toInt());
}

Status lower_select(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  const int64_t dim = dim_of(call), size = call.argument("self").toTensor().size(dim);
  const int64_t index = wrap_dim(call.argument("index").toInt(), size);
  BITLAB_TRY(ValueId y, lowering.node(Op::slice, {x}, {{"dim", dim}, {"start", index}, {"length", int64_t{1}}}));
  BITLAB_TRY(const program::Shape shape, output_shape(lowering, call));
  BITLAB_TRY(y, lowering.reshape(y, shape));
  return lowering.finish(call, y);
}

Status lower_split(Lowering& lowering, const Call& call) { return parts(lowering, call, false); }
Status lower_unbind(Lowering& lowering, const Call& call) { return parts(lowering, call, true); }

Status lower_cat(Lowering& lowering, const Call& call) {
  const auto tensors = call.argument("tensors").toTensorVector(),
             twins = lowering.twin().argument("tensors").toTensorVector();
  const int64_t dim = wrap_dim(call.argument("dim").toInt(), output_of(call).dim());
  ValueId joined = program::kNone;
  for (size_t i = 0; i < tensors.size(); ++i) {
    BITLAB_TRY(const ValueId part, lowering.operand(call, tensors[i], twins[i]));
    if (joined == program::kNone) {
      joined = part;
      continue;
    }
    BITLAB_TRY(joined, lowering.node(Op::cat, {joined, part}, {{"dim", dim}}));
  }
  return lowering.finish(call, joined);
}

Status lower_expand(Lowering& lowering, const Call& call) {
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  BITLAB_TRY(const program::Shape shape, output_shape(lowering, call));
  if (lowering.shape(x) == shape) return lowering.finish(call, x);
  BITLAB_TRY(const ValueId y, repeated(lowering, x, shape));
  return lowering.finish(call, y);
}

// Each slice along a dimension several times in a row, as grouped-query attention repeats its keys.
Status lower_repeat_interleave(Lowering& lowering, const Call& call) {
  if (!given(call, "dim")) return unsupported(call, "a dimension to repeat along", "none");
  BITLAB_TRY(const ValueId x, lowering.activation(call, "self"));
  program::Shape shape = lowering.shape(x);
  const int64_t dim = dim_of(call);
  shape.insert(shape.begin() + dim + 1, {1, false});
  BITLAB_TRY(ValueId y, lowering.reshape(x, shape));
  shape[static_cast<size_t>(dim) + 1].size = call.argument("repeats").toInt();
  BITLAB_TRY(y, repeated(lowering, y, shape));
  BITLAB_TRY(const program::Shape target, output_shape(lowering, call));
  BITLAB_TRY(y, lowering.reshape(y, target));
  return lowering.finish(call, y);
}

}  // namespace bitlab::deploy
