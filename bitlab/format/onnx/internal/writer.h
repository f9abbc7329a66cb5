// What the operations' writers share: the program, the graph, and the tensors that values have become.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bitlab/format/onnx/internal/graph.h"
#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

enum class Variant { kFloat, kMatMulNBits, kInt2, kInt8 };

// Where element i of a constant's new order is in the old one, and its new sizes.
struct Order {
  Ints sizes;
  std::vector<size_t> from;
};
Order permuted(const Ints& sizes, const std::vector<size_t>& dims);
// Weights of a convolution [rows, kernel..., channels / groups] as ONNX has them: [rows, channels / groups, kernel...], transposed ones
// [channels, rows / groups, kernel...].
Order conv_order(const Ints& sizes, int64_t groups, bool transposed);

template <class T>
std::vector<T> reordered(std::span<const T> values, const Order& order) {
  std::vector<T> result(order.from.size());
  for (size_t i = 0; i < result.size(); ++i) result[i] = values[order.from[i]];
  return result;
}

class Writer {
 public:
  Writer(const program::Program& program, Variant kept) : p(program), variant(kept) {}
  Result<std::string> model();  // a ModelProto's bytes

  const program::Program& p;
  const Variant variant;
  Graph g;

  // Of a node's inputs: whether it is given, its type, and the tensor that it has become.
  static bool has(const program::Node& node, size_t input) {
    return input < node.inputs.size() && node.inputs[input] != program::kNone;
  }
  const program::Value& value(const program::Node& node, size_t input) const { return p.value(node.inputs[input]); }
  const program::Shape& shape(const program::Node& node, size_t input) const { return value(node, input).shape; }
  std::string in(const program::Node& node, size_t input);
  // A float constant in another order, or with other sizes.
  std::string constant(program::ValueId id, const Order& order);
  std::string constant(program::ValueId id, const Ints& sizes);

  // int64 [1], and [rank]: sizes as tensors, which differ from run to run where they have symbols.
  std::string size(const program::Dim& dim);
  std::string size(const program::Sum& sum);
  std::string sizes(const program::Shape& shape);
  std::string scalar(const std::string& one) { return g.node("Squeeze", {one, g.ints({0})}); }
  // How many positions the states hold before the run, int64 [1].
  std::string past();
  // x in another shape, of as many elements.
  std::string reshape(const std::string& x, const program::Shape& from, const program::Shape& to);
  // An output of the model that no program's output is: a state behind the run.
  void add_state_output(program::ValueId state, const std::string& tensor) { next_states_[state] = tensor; }

  static Error refuse(const program::Node& node, std::string_view why) {
    return make_error(ErrorCode::kUnsupported, "[onnx] {}, got {} (node={})", why, name(node.op), node.name);
  }

 private:
  void add_inputs();
  Status add_node(const program::Node& node);
  Status add_outputs();
  std::string plain(program::ValueId id);  // a constant as it is
  program::TensorType past_type(const program::Value& state) const;

  std::map<program::ValueId, std::string> tensors_;        // by value
  std::map<program::ValueId, std::string> next_states_;    // by state
  std::map<program::ValueId, std::string> output_names_;   // of values that an output alone is named for
  std::array<std::string, program::kMaxSymbols> symbols_;  // their sizes, int64 [1]
  std::string past_;
  program::Symbols port_symbols_;  // those of the program, and the past one
};

using Emitter = Result<Names> (*)(Writer& w, const program::Node& node);

}  // namespace bitlab::format::onnx
