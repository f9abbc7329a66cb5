#include "bitlab/program/kv_state.h"

#include <algorithm>
#include <optional>

#include "bitlab/program/internal/attention_input.h"
#include "bitlab/program/verify.h"

namespace bitlab::program {
namespace {

Failure unsupported(const Node& node, std::string_view expectation, const std::string& found) {
  return make_error(ErrorCode::kUnsupported, "[add_kv_state] {}, got {} (node={})", expectation, found, node.name);
}

// What is left of tokens once a node has read them: the dimension that the symbol is the size of.
struct Tokens {
  const Program& p;
  size_t symbol;

  bool in(const Dim& dim) const { return uses(dim, symbol); }
  bool in(const Shape& shape) const { return uses(shape, symbol); }
  const Shape& shape(const Node& node, size_t input) const { return p.value(node.inputs[input]).shape; }
  // The dimension that an attribute names, of the node's first input.
  bool in_dim(const Node& node) const { return in(shape(node, 0)[static_cast<size_t>(node.attribute<int64_t>("dim"))]); }

  // Elements that belong to a token: those behind the dimension that has the symbol, and as many in it as it is a multiple of. Nothing where that is not one
  // dimension, alone or with the dimensions in front of it.
  std::optional<Dim> behind(const Shape& shape) const {
    Dim count(1);
    for (size_t i = shape.size(); i-- > 0;) {
      if (in(shape[i])) {
        const bool is_one = !in(Shape(shape.begin(), shape.begin() + static_cast<std::ptrdiff_t>(i)));
        const std::optional<Dim> others = divided(shape[i], Dim::of_symbol(symbol));
        return is_one && others && !in(*others) ? std::optional(count * Dim(shape[i].factor)) : std::nullopt;
      }
      count = count * shape[i];
    }
    return count;
  }

  // Of columns that are tokens: each result is one product, of its own.
  bool is_outer_product(const Node& node) const {
    const Shape &a = shape(node, 0), &b = shape(node, 1);
    return a.back() == Dim(1) && !in(a) && !in(Shape(b.begin(), b.end() - 1));
  }

  // Whether a result of a node depends on several tokens, or on how many there are.
  bool are_mixed_by(const Node& node) const {
    switch (node.op) {
      case Op::softmax:
      case Op::mean:
      case Op::sum:
      case Op::prod:
      case Op::max:
      case Op::min:
      case Op::argmax:
      case Op::cumsum:
      case Op::cumprod:
      case Op::cummax:
      case Op::sort:
        return in(shape(node, 0).back());
      case Op::matmul:
        return in(shape(node, 0).back()) || (in(shape(node, 1)) && !is_outer_product(node));
      case Op::ternary_recurrent:
      case Op::recurrent:
        return in(shape(node, 0)[1]);
      case Op::conv:
      case Op::ternary_conv:
      case Op::max_pool:
      case Op::avg_pool:
      case Op::adaptive_max_pool:
      case Op::adaptive_avg_pool:
      case Op::resample:
      case Op::grid_sample:
        return in({shape(node, 0).begin() + 1, shape(node, 0).end()});
      case Op::split:
      case Op::cat:
      case Op::take:
      case Op::gather:
      case Op::slice_scatter:
      case Op::scatter:
        return in_dim(node);
      case Op::flip: {
        const auto& dims = node.attribute<Sizes>("dims");
        return std::any_of(dims.begin(), dims.end(),
                           [&](int64_t dim) { return in(shape(node, 0)[static_cast<size_t>(dim)]); });
      }
      case Op::reshape: {  // what belongs to a token stays behind it
        const auto before = behind(shape(node, 0)), after = behind(node.attribute<Shape>("shape"));
        return in(shape(node, 0)) && (!before || before != after);
      }
      case Op::positions:
        return in(node.attribute<Shape>("size")) && node.attribute<Shape>("size") != Shape{Dim::of_symbol(symbol)};
      case Op::slice:  // the last tokens of a run are the last of all
        return (in_dim(node) && node.attribute<int64_t>("start") >= 0) || in(node.attribute<Shape>("length")) ||
               (in_dim(node) && node.attribute<int64_t>("step") != 1);
      default:
        return false;
    }
  }
};

Status check_attention(const Program& p, const Node& node, const Dim& tokens) {
  if (node.inputs[attention_input::kMask] != kNone) return unsupported(node, "attention without a mask", "one");
  if (node.attribute<int64_t>("causal") != 1) return unsupported(node, "causal attention", "one that sees all tokens");
  for (const size_t input : {attention_input::kQuery, attention_input::kKey})
    if (const Dim& found = p.value(node.inputs[input]).shape[2]; found != tokens)
      return unsupported(node, "self-attention over " + p.show(tokens), p.show(found));
  return {};
}

// A state with the shape of keys or values, their tokens replaced by the context.
ValueId add_state(Program& p, const Node& node, size_t input, std::string_view suffix, const Dim& context) {
  Value state;
  state.shape = p.value(node.inputs[input]).shape;
  state.shape[2] = context;
  state.name = node.name + std::string(suffix);
  state.kind = ValueKind::kState;
  p.values.push_back(std::move(state));
  const auto id = static_cast<ValueId>(p.values.size()) - 1;
  p.states.push_back(id);
  return id;
}

}  // namespace

Result<Program> add_kv_state(Program p, std::string_view name) {
  const auto found = std::find_if(p.symbols.begin(), p.symbols.end(), [&](const Symbol& s) { return s.name == name; });
  if (found == p.symbols.end() || !p.states.empty() || p.symbols.size() == kMaxSymbols)
    return make_error(ErrorCode::kInvalidArgument, "[add_kv_state] a program with a symbol '{}' and without states, got {}",
                      name, to_string(p.signature()));
  const auto symbol = static_cast<size_t>(found - p.symbols.begin());
  const Dim tokens = Dim::of_symbol(symbol), context = Dim::of_symbol(p.symbols.size());
  p.symbols.push_back({std::string(kContext), 1, p.symbols[symbol].max, true});
  for (size_t i = 0; i < p.nodes.size(); ++i) {
    Node& node = p.nodes[i];
    if (node.op == Op::attention && Tokens{p, symbol}.in(p.value(node.inputs[attention_input::kKey]).shape)) {
      BITLAB_RETURN_IF_ERROR(check_attention(p, node, tokens));
      node.inputs[attention_input::kKeyState] = add_state(p, node, attention_input::kKey, ".keys", context);
      node.inputs[attention_input::kValueState] = add_state(p, node, attention_input::kValue, ".values", context);
    } else if (node.op == Op::positions && node.attribute<Shape>("size") == Shape{tokens}) {
      node.attributes["continues"] = int64_t{1};
    } else if (Tokens{p, symbol}.are_mixed_by(node)) {
      return unsupported(node, "operations that treat tokens one by one besides attention",
                         std::string(schema(node.op).name));
    }
  }
  if (p.states.empty())
    return make_error(ErrorCode::kUnsupported, "[add_kv_state] causal self-attention over '{}', got none", name);
  BITLAB_RETURN_IF_ERROR(verify(p));
  return p;
}

}  // namespace bitlab::program
