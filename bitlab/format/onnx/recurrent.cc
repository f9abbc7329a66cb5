// Recurrent layers: a Scan over the tokens, whose body is a step (kernels/recurrent/recurrent.h).
#include <algorithm>
#include <utility>

#include "bitlab/format/onnx/internal/operations.h"
#include "bitlab/format/onnx/internal/products.h"

namespace bitlab::format::onnx {

using program::input_of;
using program::Node;
using program::Op;
using program::Shape;

namespace {

std::string initial_state(Writer& w, const Node& node, size_t input, const Shape& state) {
  return w.has(node, input) ? w.in(node, input) : w.g.node("Expand", {w.g.number(0), w.sizes(state)});
}

// c and h behind a step, from x + u.
Names lstm_step(Writer& w, const std::string& gates, const std::string& c) {
  Names parts = w.g.nodes("Split", {gates}, 4, {{"axis", int64_t{1}}, {"num_outputs", int64_t{4}}});
  for (const size_t gate : {size_t{0}, size_t{1}, size_t{3}}) parts[gate] = w.g.node("Sigmoid", {parts[gate]});
  const std::string kept = w.g.node("Mul", {parts[1], c});
  const std::string added = w.g.node("Mul", {parts[0], w.g.node("Tanh", {parts[2]})});
  const std::string cell = w.g.node("Add", {kept, added});
  return {cell, w.g.node("Mul", {parts[3], w.g.node("Tanh", {cell})})};
}

std::string gru_step(Writer& w, const std::string& x, const std::string& u, const std::string& h) {
  const Attributes thirds{{"axis", int64_t{1}}, {"num_outputs", int64_t{3}}};
  const Names in = w.g.nodes("Split", {x}, 3, thirds), hidden = w.g.nodes("Split", {u}, 3, thirds);
  const auto gate = [&](size_t i) { return w.g.node("Sigmoid", {w.g.node("Add", {in[i], hidden[i]})}); };
  const std::string reset = gate(0), update = gate(1);
  const std::string next = w.g.node("Tanh", {w.g.node("Add", {in[2], w.g.node("Mul", {reset, hidden[2]})})});
  return w.g.node("Add", {next, w.g.node("Mul", {update, w.g.node("Sub", {h, next})})});
}

// h0: the place of that input, which c0 follows. product(h): the gates that hidden states make.
template <class Product>
Result<Names> scan(Writer& w, const Node& node, size_t h0, const Product& product) {
  const bool is_lstm = node.attribute<std::string>("cell") == "lstm";
  const int64_t reverse = node.attribute<int64_t>("reverse");
  const Shape &x = w.shape(node, 0), &state = w.p.value(node.outputs[1]).shape;
  Names inputs{initial_state(w, node, h0, state)};
  if (is_lstm) inputs.push_back(initial_state(w, node, h0 + 1, state));
  inputs.push_back(w.in(node, 0));

  w.g.begin_body();
  const std::string h = w.g.unique(node.name + "/h"), c = w.g.unique(node.name + "/c"), token = w.g.unique(node.name + "/x");
  BITLAB_TRY(const std::string u, product(h));
  std::string next_h, next_c;
  if (is_lstm) {
    const Names next = lstm_step(w, w.g.node("Add", {token, u}), c);
    next_c = next[0], next_h = next[1];
  } else {
    next_h = gru_step(w, token, u, h);
  }
  const std::string row = w.g.node("Identity", {next_h});
  const program::TensorType of_state{program::DType::kFloat32, state}, of_token{program::DType::kFloat32, {x[0], x[2]}};
  std::vector<Graph::Port> from{{h, of_state}}, to{{next_h, of_state}};
  if (is_lstm) from.push_back({c, of_state}), to.push_back({next_c, of_state});
  from.push_back({token, of_token}), to.push_back({row, of_state});
  ProtobufMessage body = w.g.end_body(from, to, w.p.symbols);

  Names results = w.g.nodes("Scan", inputs, to.size(),
                            {{"body", std::move(body)},
                             {"num_scan_inputs", int64_t{1}},
                             {"scan_input_axes", Ints{1}},
                             {"scan_output_axes", Ints{1}},
                             {"scan_input_directions", Ints{reverse}},
                             {"scan_output_directions", Ints{reverse}}});
  std::rotate(results.begin(), results.end() - 1, results.end());  // the states of all tokens come first
  return results;
}

}  // namespace

Result<Names> write_ternary_recurrent(Writer& w, const Node& node) {
  const Shape& state = w.p.value(node.outputs[1]).shape;
  return scan(w, node, input_of(Op::ternary_recurrent, "h0"),
              [&](const std::string& h) { return ternary_product(w, node, h, state); });
}

Result<Names> write_recurrent(Writer& w, const Node& node) {
  return scan(w, node, input_of(Op::recurrent, "h0"),
              [&](const std::string& h) -> Result<std::string> { return float_product(w, node, h); });
}

}  // namespace bitlab::format::onnx
