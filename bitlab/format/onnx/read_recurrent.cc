// Readers of recurrent layers: as one node where it computes what they say, else step by step, for a number of tokens that is known.
#include <algorithm>
#include <array>

#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

using program::DType;
using program::Op;
using program::Shape;
using program::ValueId;

namespace {

constexpr int64_t kMostTokens = 1024;

enum RecurrentInput : size_t {
  kTokens,
  kInputWeights,
  kStateWeights,
  kBiases,
  kSampleLengths,
  kFirstState,
  kFirstCell,
  kPeepholes
};

// What a layer is in all of its directions.
struct Layer {
  std::string_view type;
  int64_t gates = 0, hidden = 0;
  program::Dim tokens, batch;
  std::vector<bool> reverses;  // a direction each
  bool by_sample = false;      // layout 1: [batch, tokens, ...]
  float clip = 0;              // 0: none
  std::vector<std::string> activations;
  bool is_usual = false;  // in activations
  bool has_cell() const { return type == "LSTM"; }
};

// One direction of it.
struct Direction {
  size_t index = 0;
  ValueId gates = program::kNone;                   // [tokens, batch, gates hidden], what inputs make
  std::vector<Tensor> recurrent;                    // matrices of hidden states
  std::vector<Tensor> hidden_bias;                  // of each of them; empty: none
  std::array<std::optional<ValueId>, 3> peepholes;  // i, o, f
};

Result<Tensor> rows_of(Reader& r, const Tensor& x, int64_t start, int64_t count) {
  Ints sizes = x.sizes;
  sizes[0] = count;
  const int64_t each = elements_of({sizes.begin() + 1, sizes.end()});
  return r.folding.picked(x, sizes, [&](int64_t i) { return start * each + i; });
}

// A weight of one direction, without the dimension of directions.
Result<Tensor> weight_of(Reader& r, size_t input, std::string_view what, size_t direction, const Ints& sizes) {
  BITLAB_TRY(const Tensor all, r.known(input, what));
  Ints expected{static_cast<int64_t>(all.sizes.empty() ? 0 : all.sizes[0])};
  expected.insert(expected.end(), sizes.begin(), sizes.end());
  if (all.type != ElementType::kFloat || all.sizes != expected || static_cast<int64_t>(direction) >= expected[0])
    return r.corrupt("float32 {} {} of each direction, got {}{}", what, program::to_string(sizes), name_of(all.type),
                     program::to_string(all.sizes));
  BITLAB_TRY(Tensor one, rows_of(r, all, static_cast<int64_t>(direction), 1));
  one.sizes.erase(one.sizes.begin());
  one.name = {};
  return one;
}

std::vector<std::string> usual_activations(std::string_view type, size_t directions) {
  const std::vector<std::string> own = type == "LSTM"  ? std::vector<std::string>{"Sigmoid", "Tanh", "Tanh"}
                                       : type == "GRU" ? std::vector<std::string>{"Sigmoid", "Tanh"}
                                                       : std::vector<std::string>{"Tanh"};
  std::vector<std::string> names;
  for (size_t i = 0; i < directions; ++i) names.insert(names.end(), own.begin(), own.end());
  return names;
}

Result<std::vector<std::string>> activations_of(const Reader& r, std::string_view type, size_t directions) {
  std::vector<std::string> names;
  for (const std::string_view name : r.texts("activations")) {
    names.emplace_back(name);
    if (name != "Sigmoid" && name != "Tanh" && name != "Relu")
      return r.refuse("activations of Sigmoid, Tanh, Relu, got {}", name);
  }
  const std::vector<std::string> usual = usual_activations(type, directions);
  if (names.empty()) return usual;
  if (names.size() != usual.size()) return r.corrupt("{} activations, got {}", usual.size(), names.size());
  return names;
}

Result<Layer> layer_of(const Reader& r) {
  Layer layer;
  layer.type = r.node().type;
  layer.gates = layer.type == "LSTM" ? 4 : layer.type == "GRU" ? 3 : 1;
  layer.by_sample = r.integer("layout", 0) != 0;
  const Shape x = r.shape(kTokens), recurrent = r.shape(kStateWeights);
  if (x.size() != 3 || recurrent.size() != 3 || r.type(kTokens) != ElementType::kFloat)
    return r.corrupt("float32 x [tokens, batch, inputs] and R [directions, gates hidden, hidden], got {} and {}", r.show(x),
                     r.show(recurrent));
  layer.tokens = x[layer.by_sample ? 1 : 0], layer.batch = x[layer.by_sample ? 0 : 1], layer.hidden = recurrent[2].factor;
  if (layer.hidden < 1 || layer.hidden > program::kMaxElements / 8 || r.integer("hidden_size", layer.hidden) != layer.hidden)
    return r.corrupt("a hidden_size of R's, got {} and {}", r.integer("hidden_size", layer.hidden), r.show(recurrent));
  const std::string direction = r.text("direction", "forward");
  if (direction != "forward" && direction != "reverse" && direction != "bidirectional")
    return r.corrupt("a direction of forward, reverse, bidirectional, got {}", direction);
  layer.reverses = direction == "bidirectional" ? std::vector<bool>{false, true} : std::vector<bool>{direction == "reverse"};
  if (r.integer("input_forget", 0) != 0) return r.refuse("gates apart, got input_forget");
  layer.clip = std::max(r.number("clip", 0), 0.0F);
  BITLAB_TRY(layer.activations, activations_of(r, layer.type, layer.reverses.size()));
  layer.is_usual = layer.activations == usual_activations(layer.type, layer.reverses.size());
  return layer;
}

// The products of all inputs, and what states are multiplied with. Biases of both are added at once, but for the last gate of a GRU that is reset
// behind its product.
Result<Direction> direction_of(Reader& r, const Layer& layer, size_t index, ValueId x) {
  Direction direction{index, program::kNone, {}, {}, {}};
  const int64_t h = layer.hidden, wide = layer.gates * h;
  const bool is_gru = layer.type == "GRU", resets_behind = r.integer("linear_before_reset", 0) != 0;
  BITLAB_TRY(const Tensor w, weight_of(r, kInputWeights, "W", index, {wide, r.shape_of(x)[2].factor}));
  BITLAB_TRY(const Tensor recurrent, weight_of(r, kStateWeights, "R", index, {wide, h}));
  std::vector<ValueId> inputs{x};
  BITLAB_TRY(inputs.emplace_back(), r.constant(w, r.node().outputs[0]));
  const int64_t split = is_gru && !resets_behind ? 2 * h : wide;  // the rows of one product
  direction.recurrent.emplace_back();
  BITLAB_TRY(direction.recurrent[0], rows_of(r, recurrent, 0, split));
  if (split < wide) {
    BITLAB_TRY(direction.recurrent.emplace_back(), rows_of(r, recurrent, split, wide - split));
  }
  if (r.has(kBiases)) {
    BITLAB_TRY(const Tensor both, weight_of(r, kBiases, "B", index, {2 * wide}));
    const int64_t joined = is_gru && resets_behind ? 2 * h : wide;
    BITLAB_TRY(const Tensor sum, r.folding.of_numbers(ElementType::kFloat, {wide}, [&](int64_t i) {
      return both.number(i) + (i < joined ? both.number(wide + i) : 0);
    }));
    BITLAB_TRY(inputs.emplace_back(), r.constant(sum, r.node().outputs[0]));
    if (joined < wide) {
      BITLAB_TRY(direction.hidden_bias.emplace_back(), r.folding.of_numbers(ElementType::kFloat, {wide}, [&](int64_t i) {
        return i < joined ? 0 : both.number(wide + i);
      }));
    }
  }
  BITLAB_TRY(direction.gates, r.emit(Op::linear, inputs));
  if (layer.has_cell() && r.has(kPeepholes)) {
    BITLAB_TRY(const Tensor peepholes, weight_of(r, kPeepholes, "P", index, {3 * h}));
    for (size_t i = 0; i < 3; ++i) {
      BITLAB_TRY(const Tensor one, rows_of(r, peepholes, static_cast<int64_t>(i) * h, h));
      BITLAB_TRY(direction.peepholes[i], r.constant(one, r.node().outputs[0]));
    }
  }
  return direction;
}

// A step of a direction.
class Cell {
 public:
  Cell(Reader& r, const Layer& layer, const Direction& direction) : r_(r), layer_(layer), direction_(direction) {}

  // h, and c of an LSTM, behind a token.
  Result<std::vector<ValueId>> step(ValueId token, const std::vector<ValueId>& state) {
    if (layer_.type == "LSTM") return lstm(token, state[0], state[1]);
    const Term next =
        layer_.type == "GRU" ? gru(Term(r_, token), state[0]) : active(0, Term(r_, token) + product(0, state[0]));
    BITLAB_TRY(const ValueId h, next.id());
    return std::vector<ValueId>{h};
  }

 private:
  Term product(size_t matrix, ValueId h) {
    const auto made = [&]() -> Result<ValueId> {
      std::vector<ValueId> inputs{h};
      BITLAB_TRY(inputs.emplace_back(), r_.constant(direction_.recurrent[matrix], r_.node().outputs[0]));
      if (matrix < direction_.hidden_bias.size()) {
        BITLAB_TRY(inputs.emplace_back(), r_.constant(direction_.hidden_bias[matrix], r_.node().outputs[0]));
      }
      return r_.emit(Op::linear, inputs);
    };
    return {r_, made()};
  }
  Term part(const Term& gates, int64_t gate, int64_t count = 1) {
    if (!gates.id().ok()) return gates;
    return {r_, r_.slice(*gates.id(), 1, gate * layer_.hidden, count * layer_.hidden)};
  }
  Term active(size_t place, const Term& x) {
    return shown(place, layer_.clip > 0 ? min(max(x, -double{layer_.clip}), layer_.clip) : x);
  }
  Term shown(size_t place, const Term& x) {
    const std::string& name =
        layer_.activations[direction_.index * layer_.activations.size() / layer_.reverses.size() + place];
    return x.of(name == "Sigmoid" ? Op::sigmoid : name == "Tanh" ? Op::tanh : Op::relu);
  }
  Term seen(const Term& gate, size_t peephole, const Term& c) {
    if (!direction_.peepholes[peephole]) return gate;
    return gate + c * Term(r_, *direction_.peepholes[peephole]);
  }

  Result<std::vector<ValueId>> lstm(ValueId token, ValueId h, ValueId before) {
    const Term gates = Term(r_, token) + product(0, h), c(r_, before);  // i, o, f, c
    const Term in = active(0, seen(part(gates, 0), 0, c)), kept = active(0, seen(part(gates, 2), 2, c));
    const Term next = kept * c + in * active(1, part(gates, 3));
    const Term out = active(0, seen(part(gates, 1), 1, next));
    const Term state = out * shown(2, next);
    std::vector<ValueId> result;
    BITLAB_TRY(result.emplace_back(), state.id());
    BITLAB_TRY(result.emplace_back(), next.id());
    return result;
  }
  Term gru(const Term& token, ValueId state) {
    const Term h(r_, state), u = product(0, state);
    const Term gates = part(token, 0, 2) + part(u, 0, 2);  // z, r
    const Term update = active(0, part(gates, 0)), reset = active(0, part(gates, 1));
    Term inside = reset * h;
    if (direction_.recurrent.size() == 1) {
      inside = reset * part(u, 2);
    } else if (inside.id().ok()) {
      inside = product(1, *inside.id());
    }
    const Term next = active(1, part(token, 2) + inside);
    return next + update * (h - next);
  }

  Reader& r_;
  const Layer& layer_;
  const Direction& direction_;
};

// [batch, hidden] of a direction: what is given as [directions, batch, hidden], by sample [batch, directions, hidden].
// kNone for zeros.
Result<ValueId> initial_state(Reader& r, const Layer& layer, size_t input, size_t direction) {
  if (!r.has(input)) return program::kNone;
  const Shape state{layer.batch, layer.hidden};
  const int64_t dim = layer.by_sample ? 1 : 0;
  Shape expected = state;
  expected.insert(expected.begin() + dim, static_cast<int64_t>(layer.reverses.size()));
  if (r.shape(input) != expected || r.type(input) != ElementType::kFloat)
    return r.refuse("float32 initial states {}, got {}", r.show(expected), r.show(r.shape(input)));
  BITLAB_TRY(ValueId id, r.activation(input));
  BITLAB_TRY(id, r.slice(id, dim, static_cast<int64_t>(direction), 1));
  return r.reshape(id, state);
}

// Whether a sample has a token there: bool [batch, 1]; nothing where all have all.
Result<std::optional<ValueId>> lengths_of(Reader& r, const Layer& layer) {
  if (!r.has(kSampleLengths)) return std::optional<ValueId>();
  if (const Tensor* known = r.tensor(kSampleLengths)) {
    const std::vector<int64_t> numbers = known->integers();
    if (std::all_of(numbers.begin(), numbers.end(), [&](int64_t n) { return layer.tokens == program::Dim(n); }))
      return std::optional<ValueId>();
  }
  if (r.shape(kSampleLengths) != Shape{layer.batch} || r.type(kSampleLengths) != ElementType::kInt32)
    return r.refuse("int32 lengths of samples {}, got {}", r.show({layer.batch}), r.show(r.shape(kSampleLengths)));
  BITLAB_TRY(const ValueId id, r.activation(kSampleLengths));
  BITLAB_TRY(const ValueId column, r.reshape(id, {layer.batch, 1}));
  return std::optional(column);
}

struct Run {
  ValueId all = program::kNone;  // [tokens, batch, hidden]
  std::vector<ValueId> last;     // h, and c
};

// Whether the node `recurrent` is this layer.
bool is_node(const Reader& r, const Layer& layer, const std::optional<ValueId>& lengths) {
  if (!layer.is_usual || layer.clip > 0 || lengths) return false;
  return layer.has_cell() ? !r.has(kPeepholes) : layer.type == "GRU" && r.integer("linear_before_reset", 0) != 0;
}

// The rows of a weight or a bias of one direction from `start` on, its gates in the node's order.
Result<ValueId> in_order(Reader& r, const Layer& layer, const Tensor& x, int64_t start = 0) {
  constexpr std::array<int64_t, 4> kLstm{0, 2, 3, 1};  // of i, o, f, c
  constexpr std::array<int64_t, 3> kGru{1, 0, 2};      // of z, r, h
  const std::span<const int64_t> order = layer.has_cell() ? std::span<const int64_t>(kLstm) : kGru;
  Ints sizes = x.sizes;
  sizes[0] = layer.gates * layer.hidden;
  const int64_t each = elements_of({sizes.begin() + 1, sizes.end()}), gate = layer.hidden * each;
  BITLAB_TRY(const Tensor ordered, r.folding.picked(x, sizes, [&](int64_t i) {
    return start * each + order[static_cast<size_t>(i / gate)] * gate + i % gate;
  }));
  return r.constant(ordered, r.node().outputs[0]);
}

// x [batch, tokens, inputs]
Result<Run> node_of(Reader& r, const Layer& layer, size_t direction, ValueId x, const std::vector<ValueId>& state) {
  const int64_t wide = layer.gates * layer.hidden;
  BITLAB_TRY(const Tensor w, weight_of(r, kInputWeights, "W", direction, {wide, r.shape_of(x)[2].factor}));
  BITLAB_TRY(const Tensor recurrent, weight_of(r, kStateWeights, "R", direction, {wide, layer.hidden}));
  std::vector<ValueId> in{x}, steps{program::kNone};
  BITLAB_TRY(in.emplace_back(), in_order(r, layer, w));
  BITLAB_TRY(steps.emplace_back(), in_order(r, layer, recurrent));
  steps.push_back(program::kNone);
  if (r.has(kBiases)) {
    BITLAB_TRY(const Tensor both, weight_of(r, kBiases, "B", direction, {2 * wide}));
    BITLAB_TRY(in.emplace_back(), in_order(r, layer, both));
    BITLAB_TRY(steps[2], in_order(r, layer, both, wide));
  }
  BITLAB_TRY(steps[0], r.emit(Op::linear, in));
  steps.insert(steps.end(), state.begin(), state.end());
  BITLAB_TRY(std::vector<ValueId> made, r.emit_all(Op::recurrent, steps,
                                                   {{"cell", std::string(layer.has_cell() ? "lstm" : "gru")},
                                                    {"reverse", int64_t{layer.reverses[direction]}}}));
  Run run;
  BITLAB_TRY(run.all, r.permute(made[0], {1, 0, 2}));
  run.last.assign(made.begin() + 1, made.end());
  return run;
}

// Behind the end of a sample its state stays, and what it shows is 0.
// x [tokens, batch, inputs]
Result<Run> steps_of(Reader& r, const Layer& layer, size_t place, ValueId x, std::vector<ValueId> state,
                     const std::optional<ValueId>& lengths) {
  if (!layer.tokens.is_number() || layer.tokens.factor > kMostTokens)
    return r.refuse("a number of tokens that is known, up to {}, of a layer that goes step by step, got {}", kMostTokens,
                    r.show({layer.tokens}));
  const int64_t tokens = layer.tokens.factor;
  for (ValueId& zeros : state) {
    if (zeros != program::kNone) continue;
    BITLAB_TRY(zeros, r.number(0, DType::kFloat32));
    BITLAB_TRY(zeros, r.expand(zeros, {layer.batch, layer.hidden}));
  }
  BITLAB_TRY(const Direction direction, direction_of(r, layer, place, x));
  Cell cell(r, layer, direction);
  std::vector<ValueId> shown(static_cast<size_t>(tokens), program::kNone);
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t at = layer.reverses[direction.index] ? tokens - 1 - i : i;
    BITLAB_TRY(ValueId token, r.slice(direction.gates, 0, at, 1));
    BITLAB_TRY(token, r.reshape(token, {layer.batch, layer.gates * layer.hidden}));
    BITLAB_TRY(std::vector<ValueId> next, cell.step(token, state));
    Term y(r, next[0]);
    if (lengths) {
      const Term is_there = Term(r, *lengths).like(static_cast<double>(at)).with(Op::less, Term(r, *lengths));
      y = is_there.choose(y, y.like(0));
      for (size_t k = 0; k < next.size(); ++k) {
        BITLAB_TRY(next[k], is_there.choose(Term(r, next[k]), Term(r, state[k])).id());
      }
    }
    state = std::move(next);
    BITLAB_TRY(shown[static_cast<size_t>(at)], y.id());
  }
  Run run;
  run.last = std::move(state);
  BITLAB_TRY(run.all, r.stack(shown, 0));
  return run;
}

}  // namespace

Result<Operands> read_recurrent(Reader& r) {
  BITLAB_TRY(const Layer layer, layer_of(r));
  BITLAB_TRY(ValueId x, r.activation(kTokens));
  BITLAB_TRY(const std::optional<ValueId> lengths, lengths_of(r, layer));
  const bool as_node = is_node(r, layer, lengths);
  if (layer.by_sample != as_node) {
    BITLAB_TRY(x, r.permute(x, {1, 0, 2}));
  }
  const size_t states = layer.has_cell() ? 2 : 1;
  std::vector<ValueId> all;
  std::vector<std::vector<ValueId>> last(states);
  for (size_t d = 0; d < layer.reverses.size(); ++d) {
    std::vector<ValueId> state;
    for (size_t k = 0; k < states; ++k) {
      BITLAB_TRY(state.emplace_back(), initial_state(r, layer, k == 0 ? kFirstState : kFirstCell, d));
    }
    BITLAB_TRY(const Run run,
               as_node ? node_of(r, layer, d, x, state) : steps_of(r, layer, d, x, std::move(state), lengths));
    all.push_back(run.all);
    for (size_t k = 0; k < states; ++k) last[k].push_back(run.last[k]);
  }
  Operands results;
  BITLAB_TRY(ValueId y, r.stack(all, 1));
  BITLAB_TRY(results.emplace_back(), layer.by_sample ? r.permute(y, {2, 0, 1, 3}) : Result<ValueId>(y));
  for (const std::vector<ValueId>& parts : last) {
    BITLAB_TRY(results.emplace_back(), r.stack(parts, layer.by_sample ? 1 : 0));
  }
  return results;
}

}  // namespace bitlab::format::onnx
