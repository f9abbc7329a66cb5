// Padding: of one width, and to sizes that differ from run to run.
#include <algorithm>

#include "bitlab/deploy/lowering/internal/lowerings.h"

namespace bitlab::deploy {
namespace {

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
  Result<ValueId> constant(const program::Dim& length) const {
    program::Shape shape = lowering.shape(x);
    shape[static_cast<size_t>(dim)] = length;
    return lowering.node(Op::expand, {lowering.number(value, scalar_type(lowering.dtype(x)))}, {{"shape", shape}});
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
    // What is below 0 cuts off: of constants behind them, since nothing may be left in between (a shift by one, of one token).
    const int64_t cut = std::max<int64_t>(-sides[i], 0), cut_behind = std::max<int64_t>(-sides[i + 1], 0);
    const bool cuts_last = mode == Padding::kConstant && !size.is_number();
    const auto cut_off = [&]() -> Status {
      if (cut + cut_behind == 0) return {};
      const std::optional<program::Dim> left = sum(lowering.shape(x)[dim], -cut - cut_behind);
      if (!left) return unsupported(call, "padding that leaves a size that can be written", show(sides));
      BITLAB_TRY(x, slice_of(lowering, x, static_cast<int64_t>(dim), cut, *left));
      return {};
    };
    if (!cuts_last) BITLAB_RETURN_IF_ERROR(cut_off());
    const Axis axis{lowering, x, static_cast<int64_t>(dim), value};
    BITLAB_TRY(const ValueId front, axis.edge(mode, std::max<int64_t>(sides[i], 0), true));
    BITLAB_TRY(const ValueId behind, axis.edge(mode, std::max<int64_t>(sides[i + 1], 0), false));
    BITLAB_TRY(x, axis.join({front, x, behind}));
    if (cuts_last) BITLAB_RETURN_IF_ERROR(cut_off());
  }
  return x;
}

// x with values behind it, or without its last ones, so that there are as many as `size`: as many more as that may ever be, cut off there.
Result<ValueId> padded_to(Lowering& lowering, const Call& call, const Axis& axis, Padding mode, const program::Dim& size) {
  constexpr int64_t kMost = 256;
  const program::Dim now = lowering.shape(axis.x)[static_cast<size_t>(axis.dim)];
  const auto more = sum(size, now, -1);
  if (mode == Padding::kConstant && more && lowering.is_within(1, *more, 0)) {
    BITLAB_TRY(const ValueId values, axis.constant(*more));
    return axis.join({axis.x, values});
  }
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

Result<ValueId> repeated_to(Lowering& lowering, const Call& call, ValueId x, int64_t dim, const program::Dim& size) {
  if (lowering.shape(x)[static_cast<size_t>(dim)] == size) return x;
  return padded_to(lowering, call, Axis{lowering, x, dim}, Padding::kReplicate, size);
}

Result<ValueId> zeros_to(Lowering& lowering, const Call& call, ValueId x, int64_t dim, const program::Dim& size) {
  if (lowering.shape(x)[static_cast<size_t>(dim)] == size) return x;
  return padded_to(lowering, call, Axis{lowering, x, dim}, Padding::kConstant, size);
}

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

}  // namespace bitlab::deploy
