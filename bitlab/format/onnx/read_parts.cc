// Readers of operators that take parts of values, join them and put others around them.
#include <algorithm>
#include <limits>
#include <numeric>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

constexpr int64_t kFar = std::numeric_limits<int32_t>::max();  // exporters' word for the end
constexpr int64_t kLong = 1 << 24;                             // meant as the end, too: sizes are smaller

// Part of a dimension: a step may be negative, from the last value to the first.
struct Part {
  int64_t start = 0;
  Dim length;
  int64_t step = 1;
  bool is_whole = false;
};

Result<Part> part_of_number(const Reader& r, int64_t n, int64_t start, int64_t end, int64_t step) {
  if (step == 0) return r.corrupt("a step, got 0");
  const auto placed = [&](int64_t at) { return at < 0 ? std::max(at, -n - 1) + n : at; };
  Part part{0, 0, step};
  int64_t count = 0;
  if (step > 0) {
    part.start = std::clamp<int64_t>(start < 0 ? start + n : start, 0, n);
    const int64_t stop = std::clamp<int64_t>(end < 0 ? std::max(end, -n) + n : end, 0, n);
    count = stop > part.start ? (stop - part.start - 1) / step + 1 : 0;
  } else {
    part.start = std::clamp<int64_t>(placed(start), 0, std::max<int64_t>(n - 1, 0));
    const int64_t stop = end < -n ? -1 : std::clamp<int64_t>(placed(end), -1, n - 1);
    count = n > 0 && part.start > stop ? (part.start - stop - 1) / -step + 1 : 0;
  }
  part.length = count;
  part.is_whole = step == 1 && count == n;
  return part;
}

// Of a size that differs from run to run: a part that has the same place in every one.
Result<Part> part_of_symbol(Reader& r, const Dim& size, int64_t start, const Dim& end, int64_t step) {
  const bool is_long = end.is_number() && end.factor >= kLong;
  if (is_long && end.factor < kFar) r.bound(size, end.factor);
  const bool to_end = end == size || is_long;
  const bool from_first = start == 0 || start <= -kFar;
  if (step == 1 && from_first && to_end) return Part{0, size, 1, true};
  if (step == -1 && end.is_number() && end.factor <= -kFar && (start == -1 || start >= kFar)) return Part{-1, size, -1};
  const bool is_before_end = end.is_number() && end.factor < 0 && end.factor > -kFar;
  if (step > 0 && (from_first || start > 0) && (to_end || is_before_end || (!end.is_number() && end.factor > 0))) {
    const int64_t first = std::max<int64_t>(start, 0);
    const std::optional<Dim> stop = to_end ? size : is_before_end ? sum(size, end) : end;
    const std::optional<Dim> length = stop && first < kFar ? quotient(*stop, step - 1 - first, step) : std::nullopt;
    if (length) return Part{first, *length, step};
  }
  if (step > 0 && start < 0 && start > -kFar && to_end) {
    r.at_least(size, -start);
    return Part{start, (-start - 1) / step + 1, step};
  }
  const int64_t last = end.factor;
  if (step > 0 && end.is_number() && (start < 0) == (last < 0) && last > start) {
    r.at_least(size, start < 0 ? -start : last);
    return Part{start, (last - start - 1) / step + 1, step};
  }
  return r.refuse("a part of {} that is a size again, got {} to {} in steps of {}", r.show({size}), start, r.show({end}),
                  step);
}

// What counts from the end by as many places as a size has.
Dim from_front(const Dim& place, const Dim& size) {
  if (place.is_number() || place.factor > 0) return place;
  const auto counted = sum(size, with_factor(place, -place.factor), -1);
  return counted ? *counted : place;
}

// A start that is the same in every run, from the front or from the end; nothing for another.
std::optional<int64_t> fixed_start(const Dim& start, const Dim& size) {
  if (start.is_number()) return start.factor;
  const auto left = sum(size, start, -1);
  return left && left->is_number() && left->factor > 0 ? std::optional(-left->factor) : std::nullopt;
}

// From a size on: what lies at as many places behind it.
Result<ValueId> moving_part(Reader& r, ValueId x, int64_t dim, const Dim& start, const Dim& end, int64_t step) {
  const Dim& size = r.shape_of(x)[static_cast<size_t>(dim)];
  const bool is_before_end = end.is_number() && end.factor < 0;
  const auto stop = end.is_number() && end.factor >= kFar ? std::optional(size) : is_before_end ? sum(size, end) : end;
  const auto way = stop ? sum(*stop, start, -1) : std::nullopt;
  const auto length = way && step > 0 ? quotient(*way, step - 1, step) : std::nullopt;
  if (!length || !program::is_valid({*length}))
    return r.refuse("a part of {} that is a size again, got {} to {} in steps of {}", r.show({size}), r.show({start}),
                    r.show({end}), step);
  BITLAB_TRY(ValueId places, r.positions(*length));
  if (step != 1) {
    BITLAB_TRY(places, r.with(Op::mul, places, static_cast<double>(step)));
  }
  BITLAB_TRY(const ValueId first, r.computed(operand_of({{start}, true})));
  BITLAB_TRY(places, r.emit(Op::add, {places, first}));
  return r.emit(Op::take, {x, places}, {{"dim", dim}});
}

// A part without values: known, since it is the same in every run. Where it is put beside others its other sizes do not matter.
Result<Tensor> nothing(Reader& r, ValueId x, int64_t dim) {
  Shape shape = r.shape_of(x);
  shape[static_cast<size_t>(dim)] = 0;
  if (!program::is_fixed(shape) && !r.is_only_joined()) return r.refuse("parts with values, got an empty one");
  return r.folding.of_numbers(element_type(r.of(x).dtype), shape_at(shape, program::kOnes), [](int64_t) { return 0.0; });
}

Result<ValueId> emitted(Reader& r, ValueId x, int64_t dim, const Part& part) {
  if (part.is_whole) return x;
  if (part.step > 0) return r.slice(x, dim, part.start, part.length, part.step);
  const Dim& size = r.shape_of(x)[static_cast<size_t>(dim)];
  const int64_t start = part.start < 0 ? 0 : size.factor - 1 - part.start;
  BITLAB_TRY(x, r.emit(Op::flip, {x}, {{"dims", Ints{dim}}}));
  return r.slice(x, dim, start, part.length, -part.step);
}

Result<Tensor> picked(Reader& r, const Tensor& x, int64_t dim, const Part& part) {
  const auto at = static_cast<size_t>(dim);
  Ints sizes = x.sizes;
  sizes[at] = part.length.factor;
  if (x.count() == 0) return reshaped(x, sizes);                                 // whose other sizes may be any
  const int64_t length = part.length.factor, step = length > 1 ? part.step : 1;  // a step beyond the tensor would overflow
  return r.folding.strided(x, program::StridedView(x.sizes).part(at, part.start, length, step));
}

}  // namespace

Result<Operands> read_slice(Reader& r) {
  const auto given = [&](size_t input, std::string_view attribute) -> std::optional<SizeList> {
    const auto list = r.list(attribute);  // before opset 10
    return list ? SizeList{{list->begin(), list->end()}} : r.sizes(input);
  };
  const auto starts = given(1, "starts"), ends = given(2, "ends");
  const Shape shape = r.shape(0);
  if (!starts || !ends) return r.refuse("starts and ends that are known, got others");
  Ints axes(starts->values.size()), steps(axes.size(), 1);
  std::iota(axes.begin(), axes.end(), int64_t{0});
  if (const auto list = r.list("axes")) axes = *list;
  if (r.has(3)) {
    BITLAB_TRY(axes, r.integers(3, "axes"));
  }
  if (r.has(4)) {
    BITLAB_TRY(steps, r.integers(4, "steps"));
  }
  if (ends->values.size() != axes.size() || steps.size() != axes.size() || starts->values.size() != axes.size())
    return r.corrupt("a start, an end and a step for each axis, got {}, {}, {}", starts->values.size(), ends->values.size(),
                     steps.size());
  Operand x = r.operand(0);
  for (size_t i = 0; i < axes.size(); ++i) {
    BITLAB_TRY(const int64_t dim, r.axis(axes[i], shape.size()));
    const Dim& size = shape[static_cast<size_t>(dim)];
    const Dim start = from_front(starts->values[i], size), end = from_front(ends->values[i], size);
    if (!counts_places(steps[i])) return r.corrupt("a step up to 2^40, got {}", steps[i]);
    const bool has_numbers = size.is_number() && end.is_number() && start.is_number();
    if (size.is_number() && !end.is_number()) r.bound(end, size.factor);
    const std::optional<int64_t> first = fixed_start(start, size);
    if (!first) {
      BITLAB_TRY(const ValueId id, r.computed(x, r.input_name(0)));
      BITLAB_TRY(x, moving_part(r, id, dim, start, end, steps[i]));
      continue;
    }
    BITLAB_TRY(const Part part, has_numbers ? part_of_number(r, size.factor, *first, end.factor, steps[i])
                                            : part_of_symbol(r, size, *first, end, steps[i]));
    if (const auto* list = std::get_if<SizeList>(&x)) {
      SizeList kept;
      for (int64_t k = 0; k < part.length.factor; ++k)
        kept.values.push_back(list->values[static_cast<size_t>(part.start + k * part.step)]);
      x = operand_of(std::move(kept));
    } else if (const auto* known = std::get_if<Tensor>(&x); known != nullptr && has_numbers) {
      BITLAB_TRY(x, picked(r, *known, dim, part));
    } else {
      BITLAB_TRY(ValueId id, r.computed(x, r.input_name(0)));
      if (part.length == Dim(0)) {
        BITLAB_TRY(x, nothing(r, id, dim));
        continue;
      }
      BITLAB_TRY(x, emitted(r, id, dim, part));
    }
  }
  return Operands{x};
}

Result<Operands> read_split(Reader& r) {
  const Shape shape = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", 0), shape.size()));
  const Dim& size = shape[static_cast<size_t>(dim)];
  const auto parts = static_cast<int64_t>(r.node().outputs.size());
  Shape sizes;
  const auto parted = r.sizes(1);
  if (r.has(1) && !parted) return r.refuse("sizes that are known, got '{}'", r.input_name(1));
  if (parted) sizes = parted->values;
  if (const auto given = r.list("split")) sizes.assign(given->begin(), given->end());
  if (sizes.empty()) {
    const int64_t each = ceil_div(size.factor, parts);
    for (int64_t i = 0; i < parts; ++i)
      sizes.push_back(with_factor(size, std::min(each, size.factor - std::min(i * each, size.factor))));
  }
  Operands results;
  if (const Tensor* x = r.tensor(0)) {
    int64_t start = 0;
    for (const Dim& length : sizes) {
      if (!length.is_number() || length.factor < 0 || length.factor > size.factor - start)
        return r.corrupt("sizes that add up to {}, got {}", size.factor, r.show(sizes));
      BITLAB_TRY(results.emplace_back(), picked(r, *x, dim, {start, length}));
      start += length.factor;
    }
    return results;
  }
  BITLAB_TRY(const ValueId x, r.activation(0));
  Shape some = sizes;
  std::erase(some, Dim(0));
  BITLAB_TRY(const auto ids, r.emit_all(Op::split, {x}, {{"dim", dim}, {"sizes", some}}));
  for (auto id = ids.begin(); const Dim& part : sizes) {
    if (part != Dim(0)) {
      results.emplace_back(*id++);
      continue;
    }
    BITLAB_TRY(results.emplace_back(), nothing(r, x, dim));
  }
  return results;
}

// --- more of the same

namespace {

Result<Operands> joined(Reader& r, std::vector<Tensor> parts, int64_t dim) {
  if (std::any_of(parts.begin(), parts.end(), [&](const Tensor& part) { return part.stored != parts[0].stored; }))
    for (Tensor& part : parts) {
      BITLAB_TRY(part, r.folding.unpacked(part));
    }
  Ints sizes = parts[0].sizes;
  const auto at = static_cast<size_t>(dim);
  sizes[at] = 0;
  Ints ends;
  for (const Tensor& part : parts) {
    Ints others = part.sizes;
    if (others.size() == sizes.size()) others[at] = sizes[at];
    if (others != sizes || part.type != parts[0].type)
      return r.corrupt("parts of one type that differ in dimension {} alone, got {}{} and {}{}", dim, name_of(parts[0].type),
                       program::to_string(parts[0].sizes), name_of(part.type), program::to_string(part.sizes));
    sizes[at] += part.sizes[at];
  }
  BITLAB_TRY(Folding::Filled filled, r.folding.make(parts[0].stored, sizes));
  const int64_t outer = filled.tensor.bytes.empty() ? 0 : elements_of({sizes.begin(), sizes.begin() + dim});
  uint8_t* to = filled.bytes;
  for (int64_t i = 0; i < outer; ++i)
    for (const Tensor& part : parts) {
      const size_t block = part.bytes.size() / static_cast<size_t>(outer);
      to = std::copy_n(part.bytes.data() + static_cast<size_t>(i) * block, block, to);
    }
  filled.tensor.type = parts[0].type;
  return Operands{filled.tensor};
}

}  // namespace

Result<Operands> read_concat(Reader& r) {
  SizeList sizes;
  bool has_sizes = false, all_sizes = true, all_known = true;
  std::vector<Tensor> known;
  std::vector<size_t> parts;
  for (size_t i = 0; i < r.node().inputs.size(); ++i) {
    const auto list = r.sizes(i);
    has_sizes |= std::holds_alternative<SizeList>(r.operand(i));
    all_sizes = all_sizes && list && !list->is_scalar;
    if (list) sizes.values.insert(sizes.values.end(), list->values.begin(), list->values.end());
    if (const Tensor* tensor = r.tensor(i)) {
      if (tensor->count() == 0) continue;
      known.push_back(*tensor);
    }
    all_known = all_known && r.tensor(i) != nullptr;
    parts.push_back(i);
  }
  if (has_sizes && all_sizes) return Operands{operand_of(std::move(sizes))};
  if (parts.empty()) return Operands{r.operand(0)};
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", 0), r.shape(parts[0]).size()));
  if (all_known) return joined(r, known, dim);
  std::vector<ValueId> ids;
  for (const size_t i : parts) {
    BITLAB_TRY(ids.emplace_back(), r.value(i));
  }
  if (ids.size() == 2) return single(r.continued(ids[0], ids[1], static_cast<size_t>(dim)));
  return single(ids.size() == 1 ? r.as_activation(ids[0]) : r.emit(Op::cat, ids, {{"dim", dim}}));
}

Result<Operands> read_expand(Reader& r) {
  const auto target = r.sizes(1);
  if (!target) return r.refuse("a shape that is known, got '{}', which is computed", r.input_name(1));
  const Shape x = r.shape(0);
  Shape y(std::max(x.size(), target->values.size()), 1);
  for (size_t i = 0; i < y.size(); ++i) {
    const Dim a = i < x.size() ? x[x.size() - 1 - i] : Dim(1);
    const Dim b = i < target->values.size() ? target->values[target->values.size() - 1 - i] : Dim(1);
    if (a != b && a != Dim(1) && b != Dim(1))
      return r.refuse("shapes that broadcast, got {} and {}", r.show(x), r.show(target->values));
    y[y.size() - 1 - i] = a == Dim(1) ? b : a;
  }
  constexpr int64_t kMost = 1 << 20;
  const Ints sizes = shape_at(y, program::kOnes);
  if (r.tensor(0) != nullptr && program::is_fixed(y) && elements_of(sizes) <= kMost)
    return single(r.folding.broadcast(*r.tensor(0), sizes));
  BITLAB_TRY(const ValueId id, r.value(0));
  return single(r.emit(Op::expand, {id}, {{"shape", y}}));
}

Result<Operands> read_tile(Reader& r) {
  const auto given = r.sizes(1);
  if (!given) return r.refuse("repeats that are known, got '{}'", r.input_name(1));
  const Shape shape = r.shape(0), repeats = given->values;
  if (repeats.size() != shape.size())
    return r.corrupt("a number for each size of {}, got {}", r.show(shape), repeats.size());
  if (!program::is_valid(repeats)) return r.refuse("repeats from 1 to 2^40, got {}", r.show(repeats));
  if (const Tensor* x = r.tensor(0); x != nullptr && program::is_fixed(repeats)) {
    Ints sizes = x->sizes;
    for (size_t i = 0; i < sizes.size(); ++i) sizes[i] = program::saturated_product(sizes[i], repeats[i].factor);
    const Ints strides = program::StridedView(x->sizes).strides;
    return single(r.folding.picked(*x, sizes, [&](int64_t i) {
      int64_t from = 0;
      for (size_t d = sizes.size(); d-- > 0; i /= sizes[d]) from += i % sizes[d] % x->sizes[d] * strides[d];
      return from;
    }));
  }
  BITLAB_TRY(ValueId x, r.activation(0));
  for (size_t i = 0; i < repeats.size(); ++i) {
    if (repeats[i] == Dim(1)) continue;
    Shape apart = r.shape_of(x), together = apart;
    apart.insert(apart.begin() + static_cast<int64_t>(i), 1);
    BITLAB_TRY(x, r.reshape(x, apart));
    apart[i] = repeats[i];
    BITLAB_TRY(x, r.expand(x, apart));
    if (program::saturated_product(together[i].factor, repeats[i].factor) > program::kMaxElements)
      return r.refuse("sizes up to 2^40, got {} times {}", r.show({together[i]}), r.show({repeats[i]}));
    together[i] = together[i] * repeats[i];
    BITLAB_TRY(x, r.reshape(x, together));
  }
  return Operands{x};
}

namespace {

// `count` values beside a dimension of x, in front or behind.
Result<ValueId> margin(Reader& r, ValueId x, int64_t dim, int64_t count, bool is_front, const std::string& mode) {
  const Dim size = r.shape_of(x)[static_cast<size_t>(dim)];
  const int64_t n = size.is_number() ? size.factor : 0;  // places count from the end where that is not known
  if (mode == "reflect" || mode == "wrap") r.at_least(size, mode == "wrap" ? count : count + 1);
  if (mode == "edge") {
    BITLAB_TRY(const ValueId edge, r.slice(x, dim, is_front ? 0 : n - 1, 1));
    Shape shape = r.shape_of(edge);
    shape[static_cast<size_t>(dim)] = count;
    return r.expand(edge, shape);
  }
  if (mode == "wrap") return r.slice(x, dim, is_front ? n - count : 0, count);
  BITLAB_TRY(const ValueId part, r.slice(x, dim, is_front ? 1 : n - 1 - count, count));
  return r.emit(Op::flip, {part}, {{"dims", Ints{dim}}});
}

Result<ValueId> mirrored(Reader& r, ValueId x, const Ints& before, const Ints& behind, const std::string& mode) {
  for (size_t i = 0; i < before.size(); ++i) {
    const auto dim = static_cast<int64_t>(i);
    std::vector<ValueId> parts;
    if (before[i] > 0) {
      BITLAB_TRY(parts.emplace_back(), margin(r, x, dim, before[i], true, mode));
    }
    parts.push_back(x);
    if (behind[i] > 0) {
      BITLAB_TRY(parts.emplace_back(), margin(r, x, dim, behind[i], false, mode));
    }
    if (parts.size() == 1) continue;
    BITLAB_TRY(x, r.emit(Op::cat, parts, {{"dim", dim}}));
  }
  return x;
}

}  // namespace

Result<Operands> read_pad(Reader& r) {
  const size_t rank = r.shape(0).size();
  Ints pads;
  if (const auto given = r.list("pads")) {  // before opset 11
    pads = *given;
  } else {
    BITLAB_TRY(pads, r.integers(1, "pads"));
  }
  Ints axes(rank);
  std::iota(axes.begin(), axes.end(), int64_t{0});
  if (r.has(3)) {
    BITLAB_TRY(axes, r.integers(3, "axes"));
  }
  if (pads.size() != 2 * axes.size()) return r.corrupt("{} pads, got {}", 2 * axes.size(), pads.size());
  BITLAB_TRY(ValueId x, r.activation(0));
  Ints before(rank, 0), behind(rank, 0);
  for (size_t i = 0; i < axes.size(); ++i) {
    BITLAB_TRY(const int64_t dim, r.axis(axes[i], rank));
    const int64_t front = pads[i], back = pads[i + axes.size()];
    if (!counts_places(front) || !counts_places(back)) return r.corrupt("pads up to 2^40, got {}, {}", front, back);
    before[static_cast<size_t>(dim)] = std::max<int64_t>(front, 0);
    behind[static_cast<size_t>(dim)] = std::max<int64_t>(back, 0);
    if (front >= 0 && back >= 0) continue;
    const Dim& size = r.shape_of(x)[static_cast<size_t>(dim)];
    const int64_t cut = std::max<int64_t>(-front, 0), cut_behind = std::max<int64_t>(-back, 0);
    const auto left = sum(size, -cut - cut_behind);
    if (!left || !program::is_valid({*left}))
      return r.refuse("padding that leaves values of {}, got {}, {}", r.show({size}), front, back);
    BITLAB_TRY(x, r.slice(x, dim, cut, *left));
  }
  const std::string mode = r.text("mode", "constant");
  if (mode != "constant") return single(mirrored(r, x, before, behind, mode));
  float value = r.number("value", 0);
  if (r.has(2)) {
    BITLAB_TRY(const Tensor given, r.known(2, "values of padding"));
    if (given.count() != 1) return r.corrupt("one value of padding, got {}", given.count());
    value = static_cast<float>(given.number(0));
  }
  return single(r.padded(x, before, behind, value));
}

Result<Operands> read_trilu(Reader& r) {
  const Shape shape = r.shape(0);
  if (shape.size() < 2) return r.corrupt("a matrix, got {}", r.show(shape));
  int64_t k = 0;
  if (r.has(1)) {
    BITLAB_TRY(const Ints given, r.integers(1, "a diagonal"));
    if (given.size() != 1) return r.corrupt("one diagonal, got {}", given.size());
    k = given[0];
  }
  const bool is_upper = r.integer("upper", 1) != 0;
  const Dim &rows = shape[shape.size() - 2], &columns = shape.back();
  if (!program::is_fixed({rows, columns})) {
    BITLAB_TRY(const ValueId row, r.positions(rows, {rows, 1}));
    BITLAB_TRY(const ValueId column, r.positions(columns, {1, columns}));
    const Term x(r, r.value(0)), edge = Term(r, row) + static_cast<double>(k), at(r, column);
    return single((is_upper ? edge.with(Op::less_equal, at) : at.with(Op::less_equal, edge)).choose(x, x.like(0)));
  }
  const auto keeps = [&](int64_t i) {
    const int64_t row = i / columns.factor % rows.factor, column = i % columns.factor;
    return is_upper ? column - row >= k : column - row <= k;
  };
  if (const Tensor* x = r.tensor(0))
    return single(r.folding.of_numbers(x->type, x->sizes, [&](int64_t i) { return keeps(i) ? x->number(i) : 0; }));
  BITLAB_TRY(const Tensor mask, r.folding.of_integers(ElementType::kBool, {rows.factor, columns.factor},
                                                      [&](int64_t i) { return keeps(i) ? 1 : 0; }));
  const Term x(r, r.value(0)), kept(r, r.constant(mask));
  return single(kept.choose(x, x.like(0)));
}

namespace {

// [n, c, h, w] with blocks of b x b apart or together.
Result<Operands> blocks(Reader& r, bool to_space) {
  const Shape x = r.shape(0);
  const int64_t b = r.integer("blocksize", 0);
  if (x.size() != 4 || b < 1 || b > program::kMaxRank * 1024)
    return r.corrupt("4 sizes and a block, got {} and {}", r.show(x), b);
  const auto over = [&](const Dim& dim, int64_t by) { return divided(dim, by); };
  const auto channels = over(x[1], b * b), height = over(x[2], b), width = over(x[3], b);
  BITLAB_TRY(ValueId id, r.activation(0));
  if (to_space) {
    if (!channels) return r.corrupt("channels in multiples of {}, got {}", b * b, r.show(x));
    const bool is_crd = r.text("mode", "DCR") == "CRD";
    BITLAB_TRY(id,
               r.reshape(id, is_crd ? Shape{x[0], *channels, b, b, x[2], x[3]} : Shape{x[0], b, b, *channels, x[2], x[3]}));
    BITLAB_TRY(id, r.permute(id, is_crd ? Ints{0, 1, 4, 2, 5, 3} : Ints{0, 3, 4, 1, 5, 2}));
    return single(r.reshape(id, {x[0], *channels, x[2] * Dim(b), x[3] * Dim(b)}));
  }
  if (!height || !width) return r.corrupt("sizes in multiples of {}, got {}", b, r.show(x));
  BITLAB_TRY(id, r.reshape(id, {x[0], x[1], *height, b, *width, b}));
  BITLAB_TRY(id, r.permute(id, r.text("mode", "DCR") == "CRD" ? Ints{0, 1, 3, 5, 2, 4} : Ints{0, 3, 5, 1, 2, 4}));
  return single(r.reshape(id, {x[0], x[1] * Dim(b * b), *height, *width}));
}

}  // namespace

Result<Operands> read_depth_to_space(Reader& r) { return blocks(r, true); }
Result<Operands> read_space_to_depth(Reader& r) { return blocks(r, false); }

}  // namespace bitlab::format::onnx
