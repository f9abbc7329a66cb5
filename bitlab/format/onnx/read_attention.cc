// Readers of attention: of ONNX, and of ONNX Runtime (com.microsoft).
#include <algorithm>
#include <cmath>
#include <limits>

#include "bitlab/format/onnx/internal/pointwise.h"
#include "bitlab/format/onnx/internal/read_products.h"
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Shape;
using program::ValueId;

Result<ValueId> in_heads(Reader& r, ValueId x, int64_t heads) {
  const Shape shape = r.shape_of(x);
  if (shape.size() == 4) return x;
  const auto size = shape.size() == 3 && heads > 0 ? divided(shape[2], heads) : std::nullopt;
  if (!size) return r.corrupt("[batch, tokens, {} heads], got {}", heads, r.show(shape));
  BITLAB_TRY(x, r.reshape(x, {shape[0], shape[1], heads, *size}));
  return r.permute(x, {0, 2, 1, 3});
}

Result<ValueId> out_of_heads(Reader& r, ValueId y) {
  BITLAB_TRY(y, r.permute(y, {0, 2, 1, 3}));
  const Shape shape = r.shape_of(y);
  return r.reshape(y, {shape[0], shape[1], shape[2] * shape[3]});
}

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Heads {
  ValueId q = program::kNone, k = program::kNone, v = program::kNone;  // [batch, heads, tokens, size]
  std::optional<ValueId>
      mask;             // bool, true where a query looks, or what is added: broadcast to [batch, heads, queries, keys]
  bool causal = false;  // of as many keys as queries
  double scale = 1, softcap = 0;
};

// Every head with keys or values of its own: head i has those of group i groups / heads.
Result<ValueId> repeated(Reader& r, ValueId x, const Dim& heads) {
  const Shape shape = r.shape_of(x);
  if (shape[1] == heads) return x;
  const auto each = divided(heads, shape[1]);
  if (!each) return r.corrupt("groups of heads that divide {}, got {}", r.show({heads}), r.show(shape));
  BITLAB_TRY(x, r.reshape(x, {shape[0], shape[1], 1, shape[2], shape[3]}));
  BITLAB_TRY(x, r.expand(x, {shape[0], shape[1], *each, shape[2], shape[3]}));
  return r.reshape(x, {shape[0], heads, shape[2], shape[3]});
}

Term positions(Reader& r, const Dim& size, const Shape& shape) { return {r, r.positions(size, shape)}; }

// Whether a key is no later than a query: bool [queries, keys].
Term not_behind(Reader& r, const Dim& queries, const Dim& keys) {
  return positions(r, keys, {1, keys}).with(Op::less_equal, positions(r, queries, {queries, 1}));
}

Term both(const std::optional<Term>& a, const Term& b) { return a ? a->with(Op::minimum, b) : b; }

// A mask of what must be seen (bool) and one that may be added, together.
Result<ValueId> joined(Reader& r, ValueId mask, const Term& seen) {
  const Term own(r, mask);
  if (r.of(mask).dtype == DType::kBool) return own.with(Op::minimum, seen).id();
  return seen.choose(own, own.like(-kInfinity)).id();
}

// What is added for a mask.
Term bias_of(Reader& r, ValueId mask) {
  const Term own(r, mask);
  if (r.of(mask).dtype != DType::kBool) return own;
  const auto zero = r.number(0, DType::kFloat32), least = r.number(-kInfinity, DType::kFloat32);
  return own.choose(Term(r, zero), Term(r, least));
}

Result<Term> scores_of(Reader& r, const Heads& heads) {
  BITLAB_TRY(ValueId k, repeated(r, heads.k, r.shape_of(heads.q)[1]));
  BITLAB_TRY(k, r.permute(k, {0, 1, 3, 2}));
  Term scores = Term(r, product(r, heads.q, k)) * heads.scale;
  if (heads.softcap > 0) scores = (scores / heads.softcap).of(Op::tanh) * heads.softcap;
  return scores;
}

struct Attended {
  ValueId y = program::kNone;                                                          // [batch, heads, queries, size]
  ValueId scores = program::kNone, masked = program::kNone, weights = program::kNone;  // where they are wanted
};

// Product by product. Rows of a mask that let nothing through are 0.
Result<Attended> attend_in_steps(Reader& r, Heads heads) {
  Attended result;
  BITLAB_TRY(const Term scores, scores_of(r, heads));
  BITLAB_TRY(result.scores, scores.id());
  const Shape shape = r.shape_of(result.scores);
  if (heads.causal) {
    const Term seen = not_behind(r, shape[2], shape[3]);
    BITLAB_TRY(heads.mask, seen.id());
  }
  Term masked = scores;
  std::optional<Term> is_empty;
  if (heads.mask) {
    BITLAB_TRY(ValueId bias, bias_of(r, *heads.mask).id());
    BITLAB_TRY(bias, r.expand(bias, shape));
    masked = masked + Term(r, bias);
    const Term most = Term(r, bias).of(Op::max);
    BITLAB_TRY(const ValueId row, most.with(Op::less, -std::numeric_limits<float>::max()).id());
    is_empty = Term(r, r.reshape(row, {shape[0], shape[1], shape[2], 1}));
  }
  BITLAB_TRY(result.masked, masked.id());
  Term weights(r, r.emit(Op::softmax, {result.masked}, {{"dim", int64_t{3}}}));
  if (is_empty) weights = is_empty->choose(0, weights);
  BITLAB_TRY(result.weights, weights.id());
  BITLAB_TRY(const ValueId v, repeated(r, heads.v, shape[1]));
  BITLAB_TRY(result.y, product(r, result.weights, v));
  return result;
}

Result<Attended> attend(Reader& r, const Heads& heads, bool wants_steps) {
  if (wants_steps || heads.softcap > 0) return attend_in_steps(r, heads);
  std::vector<ValueId> inputs{heads.q, heads.k, heads.v};
  if (heads.mask) {
    BITLAB_TRY(inputs.emplace_back(), r.as_activation(*heads.mask));
  }
  Attended result;
  BITLAB_TRY(result.y, r.emit(Op::attention, inputs, {{"causal", int64_t{heads.causal ? 1 : 0}}, {"scale", heads.scale}}));
  return result;
}

// --- ONNX

enum AttentionInput : size_t { kQueries, kKeys, kValues, kMask, kPastKeys, kPastValues, kKeyCounts };

Result<ValueId> with_past(Reader& r, ValueId x, size_t past) {
  if (!r.has(past)) return x;
  BITLAB_TRY(const ValueId before, r.value(past));
  return r.continued(before, x, 2);
}

// How far behind the first key the first query is: int64, one number or [batch, 1, 1, 1].
Result<Term> offset_of(Reader& r, const Dim& queries) {
  if (r.has(kKeyCounts)) {
    BITLAB_TRY(const ValueId lengths, r.activation(kKeyCounts));
    BITLAB_TRY(const ValueId column, r.reshape(lengths, {r.shape_of(lengths)[0], 1, 1, 1}));
    BITLAB_TRY(const ValueId own, r.computed(SizeList{{queries}, true}));
    return Term(r, column) - Term(r, own);
  }
  if (!r.has(kPastKeys)) return Term(r, r.number(0, DType::kInt64));
  return Term(r, r.computed(operand_of({{r.shape(kPastKeys)[2]}, true})));
}

// Which keys each query sees, by their places alone; nothing where it sees all.
Result<std::optional<Term>> seen_keys(Reader& r, const Heads& heads, bool causal) {
  const Dim queries = r.shape_of(heads.q)[2], keys = r.shape_of(heads.k)[2];
  const int64_t left = r.integer("left_window_size", -1), right = r.integer("right_window_size", -1);
  std::optional<Term> seen;
  if (r.has(kKeyCounts)) {
    BITLAB_TRY(const ValueId lengths, r.activation(kKeyCounts));
    if (r.shape_of(lengths).size() != 1 || r.of(lengths).dtype != DType::kInt64)
      return r.corrupt("int64 lengths [batch], got {}", r.show(r.shape_of(lengths)));
    const Term column(r, r.reshape(lengths, {r.shape_of(lengths)[0], 1, 1, 1}));
    seen = positions(r, keys, {1, 1, 1, keys}).with(Op::less, column);
  }
  if (!causal && left < 0 && right < 0) return seen;
  BITLAB_TRY(const Term offset, offset_of(r, queries));
  const Term query = positions(r, queries, {queries, 1}) + offset, key = positions(r, keys, {1, keys});
  if (causal) seen = both(seen, key.with(Op::less_equal, query));
  if (left >= 0) seen = both(seen, (query - key).with(Op::less_equal, static_cast<double>(left)));
  if (right >= 0) seen = both(seen, (key - query).with(Op::less_equal, static_cast<double>(right)));
  return seen;
}

// A mask of fewer keys hides the others.
Result<ValueId> full_mask(Reader& r, const Dim& keys) {
  BITLAB_TRY(ValueId mask, r.activation(kMask));
  const Shape shape = r.shape_of(mask);
  if (r.of(mask).dtype != DType::kBool && r.of(mask).dtype != DType::kFloat32)
    return r.refuse("a mask of bool or floats, got {}", program::name(r.of(mask).dtype));
  if (shape.empty() || shape.size() > 4) return r.corrupt("a mask of 1 to 4 sizes, got {}", r.show(shape));
  if (shape.back() == keys || shape.back() == Dim(1)) return mask;
  if (!shape.back().is_number() || !keys.is_number() || shape.back().factor > keys.factor)
    return r.refuse("a mask of {} keys, got {}", r.show({keys}), r.show(shape));
  Shape rest = shape;
  rest.back() = keys.factor - shape.back().factor;
  BITLAB_TRY(ValueId hidden, r.number(r.of(mask).dtype == DType::kBool ? 0 : -kInfinity, r.of(mask).dtype));
  BITLAB_TRY(hidden, r.expand(hidden, rest));
  return r.emit(Op::cat, {mask, hidden}, {{"dim", static_cast<int64_t>(shape.size()) - 1}});
}

Status add_masks(Reader& r, Heads& heads, bool wants_steps) {
  const Dim queries = r.shape_of(heads.q)[2], keys = r.shape_of(heads.k)[2];
  BITLAB_TRY(const bool causal, r.flag("is_causal"));
  const bool has_window = r.integer("left_window_size", -1) >= 0 || r.integer("right_window_size", -1) >= 0;
  const bool is_plain = causal && queries == keys && !r.has(kMask) && !r.has(kPastKeys) && !r.has(kKeyCounts) && !has_window;
  if (is_plain && !wants_steps) {
    heads.causal = true;
    return {};
  }
  BITLAB_TRY(const std::optional<Term> seen, seen_keys(r, heads, causal));
  if (r.has(kMask)) {
    BITLAB_TRY(heads.mask, full_mask(r, keys));
  }
  if (!seen) return {};
  BITLAB_TRY(heads.mask, heads.mask ? joined(r, *heads.mask, *seen) : seen->id());
  return {};
}

}  // namespace

Result<Operands> read_attention(Reader& r) {
  const Shape q = r.shape(kQueries);
  if ((q.size() != 3 && q.size() != 4) || r.shape(kKeys).size() != q.size() || r.shape(kValues).size() != q.size())
    return r.corrupt("three inputs of 3 or of 4 sizes, got {}, {}, {}", r.show(q), r.show(r.shape(kKeys)),
                     r.show(r.shape(kValues)));
  const int64_t heads = r.integer("q_num_heads", 0), groups = r.integer("kv_num_heads", 0);
  Heads a;
  for (const auto& [to, from, count] :
       {std::tuple{&a.q, kQueries, heads}, std::tuple{&a.k, kKeys, groups}, std::tuple{&a.v, kValues, groups}}) {
    BITLAB_TRY(*to, r.activation(from));
    BITLAB_TRY(*to, in_heads(r, *to, count));
  }
  BITLAB_TRY(a.k, with_past(r, a.k, kPastKeys));
  BITLAB_TRY(a.v, with_past(r, a.v, kPastValues));
  const Dim size = r.shape_of(a.q)[3];
  if (!size.is_number()) return r.refuse("heads of a size that is a number, got {}", r.show(q));
  a.scale =
      r.node().find("scale") != nullptr ? double{r.number("scale", 1)} : 1 / std::sqrt(static_cast<double>(size.factor));
  a.softcap = r.number("softcap", 0);
  const int64_t mode = r.integer("qk_matmul_output_mode", 0);
  const bool wants_scores = r.node().outputs.size() > 3 && !r.node().outputs[3].empty();
  BITLAB_RETURN_IF_ERROR(add_masks(r, a, wants_scores || a.softcap > 0));
  BITLAB_TRY(const Attended result, attend(r, a, wants_scores));
  BITLAB_TRY(const ValueId y, q.size() == 3 ? out_of_heads(r, result.y) : Result<ValueId>(result.y));
  Operands results{y, a.k, a.v};
  if (wants_scores) results.emplace_back(mode == 3 ? result.weights : mode == 2 ? result.masked : result.scores);
  return results;
}

// --- ONNX Runtime

namespace {

// Hidden keys have a number added, which ONNX Runtime's mask_filter_value is.
Result<std::optional<ValueId>> padding_mask(Reader& r, size_t input, const Dim& keys) {
  if (!r.has(input)) return std::optional<ValueId>();
  BITLAB_TRY(ValueId mask, r.activation(input));
  const Shape shape = r.shape_of(mask);
  Term seen(r, mask);
  if (shape.size() == 1) {  // how many keys a sample has
    const Term lengths = Term(r, r.reshape(mask, {shape[0], 1, 1, 1})).cast(DType::kInt64);
    seen = positions(r, keys, {1, 1, 1, keys}).with(Op::less, lengths);
  } else if ((shape.size() == 2 || shape.size() == 3) && shape.back() == keys) {
    const Shape apart = shape.size() == 2 ? Shape{shape[0], 1, 1, keys} : Shape{shape[0], 1, shape[1], keys};
    seen = Term(r, r.reshape(mask, apart)).behind(Op::less, 0.0);
  } else {
    return r.refuse("a mask [batch], [batch, keys] or [batch, queries, keys], got {}", r.show(shape));
  }
  const Term zero(r, r.number(0, DType::kFloat32));
  BITLAB_TRY(const ValueId bias, seen.choose(zero, zero.like(double{r.number("mask_filter_value", -10000)})).id());
  return std::optional(bias);
}

Status add_biases(Reader& r, Heads& heads, size_t padding, size_t added) {
  BITLAB_TRY(heads.mask, padding_mask(r, padding, r.shape_of(heads.k)[2]));
  if (r.has(added)) {
    const Term bias = computed_input(r, added);
    BITLAB_TRY(heads.mask, (heads.mask ? Term(r, *heads.mask) + bias : bias).id());
  }
  if (r.integer("unidirectional", 0) == 0) return {};
  if (!heads.mask) {
    heads.causal = true;
    return {};
  }
  const Dim queries = r.shape_of(heads.q)[2], keys = r.shape_of(heads.k)[2];
  const Term seen = not_behind(r, queries, keys);
  BITLAB_TRY(heads.mask, joined(r, *heads.mask, seen));
  return {};
}

Result<Operands> fused(Reader& r, Heads& heads) {
  const Dim size = r.shape_of(heads.q)[3];
  if (!size.is_number()) return r.refuse("heads of a size that is a number, got {}", r.show(r.shape_of(heads.q)));
  const double scale = r.number("scale", 0);
  heads.scale = scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(size.factor));
  BITLAB_TRY(const Attended result, attend(r, heads, false));
  BITLAB_TRY(const ValueId y, out_of_heads(r, result.y));
  return Operands{y};
}

}  // namespace

Result<Operands> read_multi_head_attention(Reader& r) {
  enum : size_t { kQuery, kKey, kValue, kBias, kPadding, kAdded, kOwnPastKeys, kOwnPastValues, kPastLength };
  for (size_t i = kPastLength; i < r.node().inputs.size(); ++i)
    if (r.has(i)) return r.refuse("a cache of one length, got '{}'", r.input_name(i));
  const bool has_past = r.has(kOwnPastKeys) || r.has(kOwnPastValues);
  if (!r.has(kKey) || !r.has(kValue) || r.shape(kQuery).size() != 3)
    return r.refuse("queries, keys and values apart, got packed ones");
  Heads heads;
  Dim start = 0;
  for (const auto& [to, from] :
       {std::pair{&heads.q, size_t{kQuery}}, std::pair{&heads.k, size_t{kKey}}, std::pair{&heads.v, size_t{kValue}}}) {
    BITLAB_TRY(*to, r.activation(from));
    const Shape shape = r.shape_of(*to);
    if (r.has(kBias) && shape.size() == 3) {
      BITLAB_TRY(ValueId bias, r.activation(kBias));
      if (r.shape_of(bias).size() != 1 || !program::is_fixed({r.shape_of(bias)[0], shape[2]}))
        return r.corrupt("a bias of one size, got {}", r.show(r.shape_of(bias)));
      BITLAB_TRY(bias, r.slice(bias, 0, start.factor, shape[2]));
      start = start.factor + shape[2].factor;
      BITLAB_TRY(*to, r.emit(Op::add, {*to, bias}));
    }
    BITLAB_TRY(*to, in_heads(r, *to, r.integer("num_heads", 0)));
  }
  BITLAB_TRY(heads.k, with_past(r, heads.k, kOwnPastKeys));
  BITLAB_TRY(heads.v, with_past(r, heads.v, kOwnPastValues));
  if (has_past && r.integer("unidirectional", 0) != 0)
    return r.refuse("a mask that a bias is where there is a past, got unidirectional");
  BITLAB_RETURN_IF_ERROR(add_biases(r, heads, kPadding, kAdded));
  BITLAB_TRY(const Operands y, fused(r, heads));
  return Operands{y[0], heads.k, heads.v};
}

// The products of queries, keys and values in one: weights [inputs, 3 hidden].
Result<Operands> read_fused_attention(Reader& r) {
  enum : size_t { kX, kWeights, kBias, kPadding, kPast, kAdded, kPastLength };
  if (r.has(kPast) || r.has(kPastLength)) return r.refuse("attention without a cache, got '{}'", r.input_name(kPast));
  if (r.integer("do_rotary", 0) != 0) return r.refuse("attention without a rotation, got do_rotary");
  BITLAB_TRY(const Tensor weights, r.known(kWeights, "weights"));
  if (weights.type != ElementType::kFloat || weights.sizes.size() != 2)
    return r.refuse("float32 weights [inputs, hidden sizes], got {}", program::to_string(weights.sizes));
  Ints sizes(3, weights.sizes[1] / 3);
  if (const auto given = r.list("qkv_hidden_sizes"); given && !given->empty()) sizes = *given;
  int64_t sum = 0;
  for (const int64_t size : sizes) sum += size < 1 || size > weights.sizes[1] ? weights.sizes[1] + 1 : size;
  if (sizes.size() != 3 || sum != weights.sizes[1])
    return r.corrupt("three sizes that add up to {}, got {}", weights.sizes[1], program::to_string(sizes));
  BITLAB_TRY(const Tensor rows, r.folding.permuted(weights, {1, 0}));
  std::optional<ValueId> bias;
  if (r.has(kBias)) {
    BITLAB_TRY(const Tensor given, r.known(kBias, "a bias"));
    BITLAB_TRY(bias, r.constant(given, r.input_name(kBias)));
  }
  BITLAB_TRY(const ValueId x, r.activation(kX));
  BITLAB_TRY(const ValueId all, linear(r, x, rows, r.input_name(kWeights), bias));
  BITLAB_TRY(const auto parts,
             r.emit_all(Op::split, {all}, {{"dim", int64_t{2}}, {"sizes", Shape(sizes.begin(), sizes.end())}}));
  Heads heads;
  for (const auto& [to, part] : {std::pair{&heads.q, 0}, std::pair{&heads.k, 1}, std::pair{&heads.v, 2}}) {
    BITLAB_TRY(*to, in_heads(r, parts[static_cast<size_t>(part)], r.integer("num_heads", 0)));
  }
  BITLAB_RETURN_IF_ERROR(add_biases(r, heads, kPadding, kAdded));
  return fused(r, heads);
}

namespace {

enum GroupInput : size_t {
  kPackedQueries,
  kOwnKeys,
  kOwnValues,
  kGroupPastKeys,
  kGroupPastValues,
  kCounts,
  kAll,
  kCos,
  kSin,
  kPlaces,
  kAddedBias,
  kSinks
};

// That every sample has as many keys as the past and the tokens: elsewhere one has keys that are none.
Status check_counts(Reader& r, const Dim& tokens) {
  BITLAB_TRY(const ValueId counts, r.value(kCounts));
  if (r.of(counts).kind == program::ValueKind::kInput) return {};  // it says nothing else than that
  program::SymbolSizes sizes = program::at_batch(1);
  for (const int64_t n : {int64_t{1}, int64_t{4}}) {
    if (const auto symbol = single_symbol(tokens)) sizes[*symbol] = n;
    const auto found = Pointwise(r.peek(), sizes).number(counts, Ints(r.shape_of(counts).size(), 0));
    if (found != static_cast<double>(*r.past() + tokens.at(sizes) - 1))
      return r.refuse("a number of keys that follows from a mask, got '{}'", r.input_name(kCounts));
  }
  return {};
}

Status split_heads(Reader& r, Heads& a, int64_t heads, int64_t groups) {
  BITLAB_TRY(ValueId q, r.activation(kPackedQueries));
  if (r.has(kOwnKeys) != r.has(kOwnValues)) return r.corrupt("keys and values, got one of them");
  std::vector<ValueId> parts{q};
  if (r.has(kOwnKeys)) {
    for (const size_t i : {kOwnKeys, kOwnValues}) {
      BITLAB_TRY(parts.emplace_back(), r.activation(i));
    }
  } else {
    const Shape all = r.shape_of(q);
    const auto size = all.size() == 3 && all[2].is_number() ? divided(all[2], heads + 2 * groups) : std::nullopt;
    if (!size) return r.corrupt("{} heads and {} groups of keys and values, got {}", heads, groups, r.show(all));
    const Shape sizes{*size * Dim(heads), *size * Dim(groups), *size * Dim(groups)};
    BITLAB_TRY(parts, r.emit_all(Op::split, {q}, {{"dim", int64_t{2}}, {"sizes", sizes}}));
  }
  BITLAB_TRY(a.q, in_heads(r, parts[0], heads));
  BITLAB_TRY(a.k, in_heads(r, parts[1], groups));
  BITLAB_TRY(a.v, in_heads(r, parts[2], groups));
  return {};
}

// Queries and keys where their tokens are: those behind the past, or where an input says.
Status turn_heads(Reader& r, Heads& a) {
  const Dim tokens = r.shape_of(a.q)[2];
  ValueId places = program::kNone;
  if (r.has(kPlaces)) {
    BITLAB_TRY(places, r.activation(kPlaces));
    BITLAB_TRY(places, r.cast(places, DType::kInt64));
  } else {
    BITLAB_TRY(places, r.positions(tokens));
    BITLAB_TRY(places, r.with(Op::add, places, static_cast<double>(*r.past())));
    BITLAB_TRY(places, r.reshape(places, {1, tokens}));
  }
  const Shape table = r.shape(kCos);
  if (!table.empty() && table[0].is_number() && table[0].factor > *r.past()) r.bound(tokens, table[0].factor - *r.past());
  BITLAB_TRY(const bool interleaved, r.flag("rotary_interleaved"));
  for (ValueId* x : {&a.q, &a.k}) {
    BITLAB_TRY(*x, turned_by_tables(r, *x, places, kCos, kSin, interleaved));
  }
  return {};
}

}  // namespace

// Causal attention over a past, which is a state.
Result<Operands> read_group_query_attention(Reader& r) {
  const int64_t heads = r.integer("num_heads", 0), groups = r.integer("kv_num_heads", 0);
  const int64_t window = r.integer("local_window_size", -1);
  if (!r.past() || !r.has(kGroupPastKeys) || !r.has(kGroupPastValues) || !r.has(kCounts))
    return r.refuse("a past of keys and values that an output continues, got another");
  for (const size_t i : {kAddedBias, kSinks})
    if (r.has(i)) return r.refuse("attention without biases and sinks, got '{}'", r.input_name(i));
  if (r.integer("smooth_softmax", 0) == 1) return r.refuse("a softmax, got smooth_softmax");
  if (r.integer("k_quant_type", 0) != 0 || r.text("k_quant_type", "NONE") != "NONE" || r.integer("qk_output", 0) != 0)
    return r.refuse("keys and values of floats, got others");
  constexpr int64_t kMostHeads = 1 << 16;
  if (heads < 1 || groups < 1 || heads > kMostHeads || heads % groups != 0)
    return r.corrupt("heads in groups, got {} and {}", heads, groups);
  Heads a;
  BITLAB_RETURN_IF_ERROR(split_heads(r, a, heads, groups));
  const Dim tokens = r.shape_of(a.q)[2];
  BITLAB_RETURN_IF_ERROR(check_counts(r, tokens));
  BITLAB_TRY(const bool turns, r.flag("do_rotary"));
  if (turns) BITLAB_RETURN_IF_ERROR(turn_heads(r, a));
  BITLAB_TRY(a.k, with_past(r, a.k, kGroupPastKeys));
  BITLAB_TRY(a.v, with_past(r, a.v, kGroupPastValues));
  const Dim keys = r.shape_of(a.k)[2];
  const Term query = positions(r, tokens, {tokens, 1}) + static_cast<double>(*r.past()), key = positions(r, keys, {1, keys});
  Term seen = key.with(Op::less_equal, query);
  if (window > 0) seen = both(seen, (query - key).with(Op::less, static_cast<double>(window)));
  BITLAB_TRY(a.mask, seen.id());
  a.softcap = r.number("softcap", 0);
  BITLAB_TRY(const Operands y, fused(r, a));
  return Operands{y[0], a.k, a.v};
}

}  // namespace bitlab::format::onnx
