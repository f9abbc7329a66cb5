// Attention and rotary positions, by the operations that they consist of.
#include <cmath>
#include <limits>

#include "bitlab/format/onnx/internal/operations.h"
#include "bitlab/program/internal/attention_input.h"

namespace bitlab::format::onnx {

using program::DType;
using program::Node;
using program::Shape;
namespace attention_input = program::attention_input;

namespace {

// x [batch, groups, s, d] with each group `times` times, one behind the other.
std::string repeated(Writer& w, const std::string& x, int64_t groups, int64_t times, int64_t depth) {
  if (times == 1) return x;
  const std::string apart = w.g.node("Unsqueeze", {x, w.g.ints({2})});
  const std::string all = w.g.node("Expand", {apart, w.g.ints({1, 1, times, 1, 1})});
  return w.g.node("Reshape", {all, w.g.ints({0, groups * times, -1, depth})});
}

// bool [t, s]: whether the key is not behind the query, whose position among the keys is its own and that of the first.
std::string seen(Writer& w, const std::string& queries, const std::string& keys, const std::string& first) {
  const std::string zero = w.g.integer(0), one = w.g.integer(1);
  const std::string end = first.empty() ? queries : w.g.node("Add", {first, queries});
  const std::string rows = w.g.node("Range", {first.empty() ? zero : w.scalar(first), w.scalar(end), one});
  const std::string columns = w.g.node("Range", {zero, w.scalar(keys), one});
  return w.g.node("LessOrEqual", {columns, w.g.node("Unsqueeze", {rows, w.g.ints({1})})});
}

// k or v behind what the state holds; the state of the next run.
std::string appended(Writer& w, const Node& node, size_t input, size_t state) {
  if (!w.has(node, state)) return w.in(node, input);
  const std::string all = w.g.node("Concat", {w.in(node, state), w.in(node, input)}, {{"axis", int64_t{2}}});
  w.add_state_output(node.inputs[state], all);
  return all;
}

}  // namespace

Result<Names> write_attention(Writer& w, const Node& node) {
  const Shape &q = w.shape(node, attention_input::kQuery), &k = w.shape(node, attention_input::kKey),
              &v = w.shape(node, attention_input::kValue);
  const int64_t groups = k[1].factor, times = q[1].factor / groups;
  const bool has_state = w.has(node, attention_input::kKeyState);
  const std::string keys =
      repeated(w, appended(w, node, attention_input::kKey, attention_input::kKeyState), groups, times, k[3].factor);
  const std::string values =
      repeated(w, appended(w, node, attention_input::kValue, attention_input::kValueState), groups, times, v[3].factor);
  const std::string across = w.g.node("Transpose", {keys}, {{"perm", Ints{0, 1, 3, 2}}});
  const std::string hidden = w.g.number(-std::numeric_limits<float>::infinity());
  std::string scores = w.g.node("MatMul", {w.in(node, attention_input::kQuery), across});
  scores = w.g.node("Mul", {scores, w.g.number(static_cast<float>(node.attribute<double>("scale")))});
  if (w.has(node, attention_input::kMask)) {
    const std::string mask = w.in(node, attention_input::kMask);
    const bool is_bool = w.value(node, attention_input::kMask).dtype == DType::kBool;
    scores = is_bool ? w.g.node("Where", {mask, scores, hidden}) : w.g.node("Add", {scores, mask});
  }
  if (node.attribute<int64_t>("causal") == 1) {
    const std::string queries = w.size(q[2]);
    const std::string count = has_state ? w.size(w.shape(node, attention_input::kKeyState)[2]) : w.size(k[2]);
    scores = w.g.node("Where", {seen(w, queries, count, has_state ? w.past() : ""), scores, hidden});
  }
  std::string weights = w.g.node("Softmax", {scores}, {{"axis", int64_t{-1}}});
  if (w.has(node, attention_input::kMask)) {  // a query that sees nothing: 0, where Softmax has NaN
    const std::string most = w.g.node("ReduceMax", {scores, w.g.ints({-1})}, {{"keepdims", int64_t{1}}});
    weights = w.g.node("Where", {w.g.node("Equal", {most, hidden}), w.g.number(0), weights});
  }
  return Names{w.g.node("MatMul", {weights, values})};
}

// y = (a cos - b sin, b cos + a sin) of the halves a and b, angles p theta^(-2 i / d) in float32.
Result<Names> write_rotary(Writer& w, const Node& node) {
  const int64_t depth = w.shape(node, 0)[3].factor;
  std::vector<float> rates;
  for (int64_t i = 0; i < depth / 2; ++i)
    rates.push_back(static_cast<float>(
        std::pow(node.attribute<double>("theta"), -2.0 * static_cast<double>(i) / static_cast<double>(depth))));
  const std::string places = w.g.node("Cast", {w.in(node, 1)}, {{"to", static_cast<int64_t>(ElementType::kFloat)}});
  const std::string angles =
      w.g.node("Mul", {w.g.node("Unsqueeze", {places, w.g.ints({1})}), w.g.floats("rates", {depth / 2}, rates)});
  const std::string c = w.g.node("Cos", {angles}), s = w.g.node("Sin", {angles});
  const Names halves = w.g.nodes("Split", {w.in(node, 0)}, 2, {{"axis", int64_t{3}}, {"num_outputs", int64_t{2}}});
  const auto times = [&](const std::string& x, const std::string& y) { return w.g.node("Mul", {x, y}); };
  const std::string first = w.g.node("Sub", {times(halves[0], c), times(halves[1], s)});
  const std::string second = w.g.node("Add", {times(halves[1], c), times(halves[0], s)});
  return Names{w.g.node("Concat", {first, second}, {{"axis", int64_t{3}}})};
}

}  // namespace bitlab::format::onnx
