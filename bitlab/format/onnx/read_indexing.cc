// Readers of operators that read and write by indices.
#include <algorithm>
#include <numeric>

#include "bitlab/format/onnx/internal/places.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

// Indices as int64 values of the program.
Result<ValueId> indices_of(Reader& r, size_t input) {
  BITLAB_TRY(const ValueId id, r.value(input));
  if (r.of(id).dtype == DType::kInt64) return id;
  BITLAB_TRY(const ValueId computed, r.as_activation(id));
  return r.cast(computed, DType::kInt64);
}

// ONNX's word of a reduction as scatter's mode.
Result<std::string> mode_of(const Reader& r) {
  const std::string reduction = r.text("reduction", "none");
  for (const auto& [word, mode] : {std::pair{"none", "set"}, std::pair{"add", "add"}, std::pair{"mul", "mul"},
                                   std::pair{"min", "minimum"}, std::pair{"max", "maximum"}})
    if (reduction == word) return std::string(mode);
  return r.corrupt("a reduction of none, add, mul, min, max, got {}", reduction);
}

Result<Operands> gathered(Reader& r, const Tensor& x, const Tensor& indices, int64_t dim) {
  const auto at = static_cast<size_t>(dim);
  const int64_t size = x.sizes[at];
  Ints sizes(x.sizes.begin(), x.sizes.begin() + dim);
  sizes.insert(sizes.end(), indices.sizes.begin(), indices.sizes.end());
  sizes.insert(sizes.end(), x.sizes.begin() + dim + 1, x.sizes.end());
  const int64_t inner = elements_of({x.sizes.begin() + dim + 1, x.sizes.end()}), count = indices.count();
  for (int64_t i = 0; i < count; ++i)
    if (indices.integer(i) < -size || indices.integer(i) >= size)
      return r.corrupt("indices below {}, got {}", size, indices.integer(i));
  return single(r.folding.picked(x, sizes, [&](int64_t i) {
    const int64_t index = indices.integer(i / inner % count);
    return (i / inner / count * size + (index < 0 ? index + size : index)) * inner + i % inner;
  }));
}

// x [batch n] at places that lie in each sample, as a view with strides has them; nothing for other places.
Result<std::optional<ValueId>> of_own_sample(Reader& r, ValueId x, ValueId places) {
  const std::optional<ValueId> none;
  const auto n = divided(r.shape_of(x)[0], program::kBatch);
  if (!n || !n->is_number()) return none;
  BITLAB_TRY(const auto own, within_samples(r, places, program::kBatch, n->factor));
  if (!own) return none;
  const Shape y = r.shape_of(places);
  bool is_whole = own->count() == n->factor;
  for (int64_t i = 0; is_whole && i < own->count(); ++i) is_whole = own->integer(i) == i;
  if (!is_whole) {
    BITLAB_TRY(x, r.reshape(x, {program::kBatch, *n}));
    BITLAB_TRY(const ValueId indices, r.constant(*own, "places"));
    BITLAB_TRY(x, r.emit(Op::take, {x, indices}, {{"dim", int64_t{1}}}));
  }
  BITLAB_TRY(x, r.reshape(x, y));
  return std::optional(x);
}

}  // namespace

Result<Operands> read_gather(Reader& r) {
  const Shape shape = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", 0), shape.size()));
  const Tensor* indices = r.tensor(1);
  if (const auto* list = std::get_if<SizeList>(&r.operand(0)); list != nullptr && indices != nullptr) {
    SizeList chosen{{}, indices->sizes.empty()};
    const auto size = static_cast<int64_t>(list->values.size());
    for (const int64_t index : indices->integers()) {
      if (index < -size || index >= size) return r.corrupt("indices below {}, got {}", size, index);
      chosen.values.push_back(list->values[static_cast<size_t>(index < 0 ? index + size : index)]);
    }
    if (indices->sizes.size() <= 1) return Operands{operand_of(std::move(chosen))};
  }
  if (r.tensor(0) != nullptr && indices != nullptr) return gathered(r, *r.tensor(0), *indices, dim);
  BITLAB_TRY(ValueId x, r.value(0));
  if (indices != nullptr && indices->sizes.empty()) {  // one part
    BITLAB_TRY(x, r.slice(x, dim, indices->integer(0), 1));
    Shape y = shape;
    y.erase(y.begin() + dim);
    return single(r.reshape(x, y));
  }
  BITLAB_TRY(const ValueId places, indices_of(r, 1));
  if (shape.size() == 1 && uses(shape[0], 0)) {
    BITLAB_TRY(const auto own, of_own_sample(r, x, places));
    if (own) return Operands{*own};
  }
  const bool is_table =
      r.of(x).kind == program::ValueKind::kConstant && shape.size() == 2 && dim == 0 && r.of(x).dtype == DType::kFloat32;
  if (is_table) return single(r.emit(Op::embedding, {places, x}));
  return single(r.emit(Op::take, {x, places}, {{"dim", dim}}));
}

Result<Operands> read_gather_elements(Reader& r) {
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", 0), r.shape(0).size()));
  BITLAB_TRY(const ValueId x, r.activation(0));
  BITLAB_TRY(const ValueId indices, indices_of(r, 1));
  return single(r.emit(Op::gather, {x, indices}, {{"dim", dim}}));
}

Result<Operands> read_scatter_elements(Reader& r) {
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", 0), r.shape(0).size()));
  BITLAB_TRY(const ValueId x, r.activation(0));
  BITLAB_TRY(const ValueId indices, indices_of(r, 1));
  BITLAB_TRY(const ValueId source, r.value(2));
  BITLAB_TRY(const std::string mode, mode_of(r));
  return single(r.emit(Op::scatter, {x, indices, source}, {{"dim", dim}, {"mode", mode}}));
}

// --- indices of several dimensions

namespace {

// The number of a size, as a value.
Result<ValueId> size_value(Reader& r, const Dim& dim) { return r.computed(operand_of({{dim}, true})); }

// Indices of one dimension, from 0 on.
Result<Term> counted(Reader& r, ValueId index, const Dim& size) {
  BITLAB_TRY(const ValueId count, size_value(r, size));
  const Term i(r, index);
  return i.with(Op::less, 0.0).choose(i + Term(r, count), i);
}

// Indices [..., k] of x's dimensions behind `batches` that both have: the columns, each [..., 1], in front and behind.
struct Places {
  std::vector<ValueId> columns;
  Shape x, front, rest;
  size_t batches = 0;

  Shape with_rest(Shape shape) const {
    shape.insert(shape.end(), rest.begin(), rest.end());
    return shape;
  }
};

// The parts that indices were joined of, or parts of them.
Result<std::vector<ValueId>> columns_of(Reader& r, ValueId indices, size_t k) {
  const auto last = static_cast<int64_t>(r.shape_of(indices).size()) - 1;
  if (const program::Node* node = r.maker(indices); node != nullptr && node->op == Op::cat) {
    const bool is_joined = node->attribute<int64_t>("dim") == last && node->inputs.size() == k;
    if (is_joined) return node->inputs;
  }
  std::vector<ValueId> columns;
  for (size_t d = 0; d < k; ++d) {
    BITLAB_TRY(columns.emplace_back(), r.slice(indices, last, static_cast<int64_t>(d), 1));
  }
  return columns;
}

Result<Places> places_of(Reader& r, size_t batches) {
  const Shape x = r.shape(0), shape = r.shape(1);
  if (shape.empty() || !shape.back().is_number()) return r.corrupt("indices [..., k], got {}", r.show(shape));
  const auto k = static_cast<size_t>(shape.back().factor);
  if (k < 1 || batches + k > x.size() || batches + 1 > shape.size())
    return r.corrupt("indices of at most {} dimensions, got {} behind {}", x.size(), k, batches);
  for (size_t d = 0; d < batches; ++d)
    if (x[d] != shape[d]) return r.corrupt("the same batches, got {} and {}", r.show(x), r.show(shape));
  BITLAB_TRY(const ValueId id, indices_of(r, 1));
  BITLAB_TRY(const ValueId indices, r.as_activation(id));
  Places places{{}, x, {shape.begin(), shape.end() - 1}, {x.begin() + static_cast<int64_t>(batches + k), x.end()}, batches};
  BITLAB_TRY(places.columns, columns_of(r, indices, k));
  return places;
}

// Which row of the indexed dimensions, as one dimension: int64, without the column.
Result<ValueId> rows_of(Reader& r, const Places& places) {
  std::optional<Term> row;
  for (size_t d = 0; d < places.columns.size(); ++d) {
    const Dim& size = places.x[places.batches + d];
    BITLAB_TRY(const Term index, counted(r, places.columns[d], size));
    if (row) {
      BITLAB_TRY(const ValueId count, size_value(r, size));
      row = *row * Term(r, count) + index;
    } else {
      row = index;
    }
  }
  BITLAB_TRY(const ValueId id, row->id());
  return r.reshape(id, places.front);
}

// Dimensions that are indexed by their own places, as by `x[torch.arange(batch), tokens]`, are batches: nothing moves between samples.
void join_batches(const Reader& r, Places& places) {
  while (!places.columns.empty() && places.batches < places.front.size()) {
    const Dim& size = places.x[places.batches];
    if (size != places.front[places.batches] || counted_along(r, places.columns[0]) != places.batches) return;
    places.columns.erase(places.columns.begin());
    ++places.batches;
  }
}

// Where all others are indexed by places, too, x in another shape: that of the results, with 1 where they do not depend on it.
std::optional<Shape> as_shape(const Reader& r, const Places& places) {
  Shape shape(places.front.size(), 1);
  std::copy_n(places.x.begin(), places.batches, shape.begin());
  size_t next = places.batches;
  for (size_t d = 0; d < places.columns.size(); ++d) {
    const auto at = counted_along(r, places.columns[d]);
    const Dim& size = places.x[places.batches + d];
    if (!at || *at < next || *at >= shape.size() || places.front[*at] != size) return std::nullopt;
    shape[*at] = size, next = *at + 1;
  }
  return places.with_rest(shape);
}

// Whether all of x is indexed, in its order.
bool are_whole(const Reader& r, const Places& places) {
  if (places.columns.size() != places.front.size() || places.batches != 0) return false;
  for (size_t d = 0; d < places.columns.size(); ++d) {
    if (places.front[d] != places.x[d]) return false;
    if (places.x[d] != Dim(1) && counted_along(r, places.columns[d]) != d) return false;
  }
  return true;
}

}  // namespace

Result<Operands> read_gather_nd(Reader& r) {
  const int64_t batches = r.integer("batch_dims", 0);
  if (batches < 0 || batches > program::kMaxRank)
    return r.corrupt("batch_dims up to {}, got {}", program::kMaxRank, batches);
  BITLAB_TRY(Places places, places_of(r, static_cast<size_t>(batches)));
  BITLAB_TRY(ValueId x, r.activation(0));
  const Shape result = places.with_rest(places.front);
  join_batches(r, places);
  if (const auto shape = as_shape(r, places)) {
    BITLAB_TRY(x, r.reshape(x, *shape));
    return single(r.expand(x, result));
  }
  BITLAB_TRY(ValueId rows, rows_of(r, places));
  const auto own = static_cast<int64_t>(places.batches);
  const Dim each = program::volume(places.rest);
  Shape apart(places.x.begin(), places.x.begin() + own), indices = apart;
  apart.push_back(program::volume({places.x.begin() + own, places.x.end() - static_cast<int64_t>(places.rest.size())}));
  apart.push_back(each);
  BITLAB_TRY(x, r.reshape(x, apart));
  indices.push_back(program::volume({places.front.begin() + own, places.front.end()}));
  if (own == 0) {
    BITLAB_TRY(rows, r.reshape(rows, indices));
    BITLAB_TRY(x, r.emit(Op::take, {x, rows}, {{"dim", own}}));
    return single(r.reshape(x, result));
  }
  indices.emplace_back(1);
  BITLAB_TRY(rows, r.reshape(rows, indices));
  indices.back() = each;
  BITLAB_TRY(rows, r.expand(rows, indices));
  BITLAB_TRY(x, r.emit(Op::gather, {x, rows}, {{"dim", own}}));
  return single(r.reshape(x, result));
}

Result<Operands> read_scatter_nd(Reader& r) {
  BITLAB_TRY(const Places indexed, places_of(r, 0));
  BITLAB_TRY(const std::string mode, mode_of(r));
  if (mode == "set" && are_whole(r, indexed) && r.shape(2) == r.shape(0)) return Operands{r.operand(2)};
  const Dim count = program::volume(indexed.front), each = program::volume(indexed.rest);
  BITLAB_TRY(ValueId places, rows_of(r, indexed));
  BITLAB_TRY(places, r.reshape(places, {count, 1}));
  BITLAB_TRY(places, r.expand(places, {count, each}));
  const auto indices = static_cast<int64_t>(indexed.columns.size());
  BITLAB_TRY(ValueId x, r.activation(0));
  BITLAB_TRY(x, r.reshape(x, {program::volume({indexed.x.begin(), indexed.x.begin() + indices}), each}));
  BITLAB_TRY(ValueId source, r.activation(2));
  BITLAB_TRY(source, r.reshape(source, {count, each}));
  BITLAB_TRY(const ValueId y, r.emit(Op::scatter, {x, places, source}, {{"dim", int64_t{0}}, {"mode", mode}}));
  return single(r.reshape(y, r.shape(0)));
}

// A cache with new values from a place of each sample on; circular: behind the end they go on at the beginning.
Result<Operands> read_tensor_scatter(Reader& r) {
  const Shape cache = r.shape(0), update = r.shape(1);
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", -2), cache.size()));
  if (update.size() != cache.size() || dim == 0) return r.corrupt("a part of {}, got {}", r.show(cache), r.show(update));
  const auto at = static_cast<size_t>(dim);
  Shape by_token(cache.size(), 1), by_sample = by_token;
  by_token[at] = update[at], by_sample[0] = cache[0];
  BITLAB_TRY(ValueId places, r.positions(update[at], by_token));
  if (r.has(2)) {
    BITLAB_TRY(ValueId starts, indices_of(r, 2));
    BITLAB_TRY(starts, r.as_activation(starts));
    BITLAB_TRY(starts, r.reshape(starts, by_sample));
    BITLAB_TRY(places, r.emit(Op::add, {starts, places}));
  }
  if (r.text("mode", "linear") == "circular") {
    BITLAB_TRY(const ValueId size, size_value(r, cache[at]));
    const Term place(r, places), count(r, size);
    BITLAB_TRY(places, (place - place.with(Op::floor_divide, count) * count).id());
  }
  BITLAB_TRY(places, r.expand(places, update));
  BITLAB_TRY(const ValueId x, r.activation(0));
  BITLAB_TRY(const ValueId source, r.value(1));
  return single(r.emit(Op::scatter, {x, places, source}, {{"dim", dim}, {"mode", std::string("set")}}));
}

// --- where values are equal to places

namespace {

// x [...] beside 0, 1, ... along a new dimension: bool, true where they are equal.
Result<Term> at_places(Reader& r, ValueId x, int64_t dim, const Dim& count) {
  Shape apart = r.shape_of(x);
  apart.insert(apart.begin() + dim, 1);
  BITLAB_TRY(x, r.reshape(x, apart));
  Shape steps(apart.size(), 1);
  steps[static_cast<size_t>(dim)] = count;
  BITLAB_TRY(const ValueId places, r.positions(count, steps));
  return Term(r, x).with(Op::equal, Term(r, places));
}

}  // namespace

Result<Operands> read_one_hot(Reader& r) {
  const Shape indices = r.shape(0);
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", -1), indices.size() + 1));
  BITLAB_TRY(const Tensor depth, r.known(1, "a depth"));
  const int64_t count = depth.count() == 1 ? depth.integer(0) : 0;
  if (count < 1 || count > program::kMaxElements) return r.corrupt("a depth from 1, got {}", count);
  BITLAB_TRY(ValueId x, indices_of(r, 0));
  BITLAB_TRY(x, r.as_activation(x));
  BITLAB_TRY(x, Term(r, x).with(Op::less, 0.0).choose(Term(r, x) + static_cast<double>(count), Term(r, x)).id());
  BITLAB_TRY(const Term is_hot, at_places(r, x, dim, count));
  if (r.shape(2) != Shape{2}) return r.corrupt("two values, got {}", r.show(r.shape(2)));
  BITLAB_TRY(const ValueId values, r.activation(2));
  const auto value = [&](int64_t i) -> Term {
    const auto one = r.slice(values, 0, i, 1);
    return {r, one.ok() ? r.reshape(*one, {}) : one};
  };
  return single(is_hot.choose(value(1), value(0)));
}

// 1 where a row has its largest value first, else 0.
Result<Operands> read_hardmax(Reader& r) {
  BITLAB_RETURN_IF_ERROR(check_floats(r));
  constexpr int64_t kOneAxis = 13;  // before, all dimensions from the axis on are one
  const Shape shape = r.shape(0);
  const bool is_flat = r.opset() < kOneAxis;
  BITLAB_TRY(const int64_t dim, r.axis(r.integer("axis", is_flat ? 1 : -1), shape.size()));
  BITLAB_TRY(ValueId x, r.activation(0));
  BITLAB_TRY(x, is_flat ? r.reshape(x, {program::volume({shape.begin(), shape.begin() + dim}),
                                        program::volume({shape.begin() + dim, shape.end()})})
                        : r.to_last(x, dim));
  const Shape last = r.shape_of(x);
  if (last.size() == 1) {
    BITLAB_TRY(x, r.reshape(x, {1, last[0]}));
  }
  BITLAB_TRY(x, r.emit(Op::argmax, {x}));
  BITLAB_TRY(const Term is_most, at_places(r, x, static_cast<int64_t>(r.shape_of(x).size()), last.back()));
  BITLAB_TRY(ValueId y, is_most.cast(DType::kFloat32).id());
  BITLAB_TRY(y, r.reshape(y, last));
  return single(is_flat ? r.reshape(y, shape) : r.from_last(y, dim));
}

Result<Operands> read_eye_like(Reader& r) {
  const Shape shape = r.shape(0);
  const int64_t k = r.integer("k", 0);
  if (shape.size() != 2) return r.corrupt("a matrix, got {}", r.show(shape));
  const int64_t type = r.integer("dtype", static_cast<int64_t>(r.type(0)));
  if (!program::is_fixed(shape)) {
    const auto dtype = dtype_of(static_cast<ElementType>(type));
    if (!dtype) return r.refuse("a matrix of float32, int64, int32, bool, got {}", name_of(static_cast<ElementType>(type)));
    const Term row(r, r.positions(shape[0], {shape[0], 1})), column(r, r.positions(shape[1], {1, shape[1]}));
    return single((row + static_cast<double>(k)).with(Op::equal, column).cast(*dtype));
  }
  return single(r.folding.of_integers(static_cast<ElementType>(type), shape_at(shape, program::kOnes),
                                      [&](int64_t i) { return i % shape[1].factor - i / shape[1].factor == k ? 1 : 0; }));
}

// The first values of each sample in turned order, and the others as they are.
Result<Operands> read_reverse_sequence(Reader& r) {
  const Shape shape = r.shape(0);
  if (shape.size() < 2) return r.corrupt("a batch of sequences, got {}", r.show(shape));
  BITLAB_TRY(const int64_t tokens, r.axis(r.integer("time_axis", 0), shape.size()));
  BITLAB_TRY(const int64_t batch, r.axis(r.integer("batch_axis", 1), shape.size()));
  if (tokens == batch) return r.corrupt("two axes, got {} twice", batch);
  Shape by_sample(shape.size(), 1), by_token = by_sample;
  by_sample[static_cast<size_t>(batch)] = shape[static_cast<size_t>(batch)];
  by_token[static_cast<size_t>(tokens)] = shape[static_cast<size_t>(tokens)];
  BITLAB_TRY(ValueId lengths, indices_of(r, 1));
  BITLAB_TRY(lengths, r.as_activation(lengths));
  BITLAB_TRY(lengths, r.reshape(lengths, by_sample));
  BITLAB_TRY(const ValueId steps, r.positions(shape[static_cast<size_t>(tokens)], by_token));
  const Term t(r, steps), n(r, lengths);
  BITLAB_TRY(ValueId places, t.with(Op::less, n).choose(n - t + -1.0, t).id());
  BITLAB_TRY(places, r.expand(places, shape));
  BITLAB_TRY(const ValueId x, r.activation(0));
  return single(r.emit(Op::gather, {x, places}, {{"dim", tokens}}));
}

}  // namespace bitlab::format::onnx
