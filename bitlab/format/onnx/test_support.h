// Models for tests: messages by hand, and one model for each kind of operators that are read.
#pragma once

#include <cctype>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "bitlab/base/protobuf.h"

namespace bitlab::format::onnx::test {

using Message = ProtobufMessage;
using Texts = std::vector<std::string>;

// A ValueInfoProto of a type, float32 where nothing else is said; a name stands for a size that differs from run to run.
inline Message port_of(std::string_view name, const Texts& sizes, int64_t type = 1) {
  Message shape;
  for (const std::string& size : sizes)
    shape.message(1, std::isdigit(static_cast<unsigned char>(size[0])) != 0 ? Message().number(1, std::stoll(size))
                                                                            : Message().text(2, size));
  return Message().text(1, name).message(2, Message().message(1, Message().number(1, type).message(2, shape)));
}

inline Message node_of(std::string_view type, const Texts& inputs, const Texts& outputs,
                       const std::vector<Message>& attributes = {}, std::string_view domain = "") {
  Message node;
  for (const std::string& input : inputs) node.text(1, input);
  for (const std::string& output : outputs) node.text(2, output);
  node.text(3, "the_" + outputs.front()).text(4, type);
  for (const Message& attribute : attributes) node.message(5, attribute);
  return domain.empty() ? node : node.text(7, domain);
}

inline Message integer(std::string_view name, int64_t value) {
  return Message().text(1, name).number(3, value).number(20, 2);
}
inline Message number(std::string_view name, float value) { return Message().text(1, name).float32(2, value).number(20, 1); }
inline Message text(std::string_view name, std::string_view value) {
  return Message().text(1, name).text(4, value).number(20, 3);
}
inline Message graph_as(std::string_view name, const Message& graph) {
  return Message().text(1, name).message(6, graph).number(20, 5);
}

template <class T>
Message tensor_of(std::string_view name, int64_t type, const std::vector<int64_t>& sizes, const std::vector<T>& values) {
  Message tensor;
  for (const int64_t size : sizes) tensor.number(1, size);
  std::string bytes(values.size() * sizeof(T), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return tensor.number(2, type).text(8, name).text(9, bytes);
}
inline Message floats(std::string_view name, const std::vector<int64_t>& sizes) {
  int64_t count = 1;
  for (const int64_t size : sizes) count *= size;
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<float>(i % 7) / 4 - 0.5F);
  return tensor_of(name, 1, sizes, values);
}
inline Message integers(std::string_view name, const std::vector<int64_t>& values) {
  return tensor_of(name, 7, {static_cast<int64_t>(values.size())}, values);
}

struct GraphParts {
  std::vector<Message> nodes, tensors, inputs, outputs;
};
inline Message graph_of(const GraphParts& parts) {
  Message graph;
  for (const Message& node : parts.nodes) graph.message(1, node);
  for (const Message& tensor : parts.tensors) graph.message(5, tensor);
  for (const Message& input : parts.inputs) graph.message(11, input);
  for (const Message& output : parts.outputs) graph.message(12, output);
  return graph;
}
inline std::string model_of(const Message& graph, int64_t opset = 17, const std::vector<Message>& functions = {}) {
  Message model = Message().number(1, 8).message(7, graph).message(8, Message().number(2, opset));
  for (const Message& function : functions) model.message(25, function);
  return model.bytes();
}

// --- models that are read

inline std::string recurrent_model() {
  return model_of(
      graph_of({{node_of("LSTM", {"x", "w", "r"}, {"y", "h", "c"}, {text("direction", "reverse")}),
                 node_of("GRU", {"x", "wg", "rg"}, {"z"}, {integer("linear_before_reset", 1)})},
                {floats("w", {1, 8, 2}), floats("r", {1, 8, 2}), floats("wg", {1, 6, 2}), floats("rg", {1, 6, 2})},
                {port_of("x", {"3", "batch", "2"})},
                {port_of("y", {}), port_of("z", {})}}));
}

inline std::string attention_model() {
  return model_of(graph_of({{node_of("Attention", {"q", "k", "k", "m"}, {"a"},
                                     {integer("q_num_heads", 2), integer("kv_num_heads", 1), number("softcap", 3)}),
                             node_of("Einsum", {"a", "a"}, {"y"}, {text("equation", "bij,bkj->bik")})},
                            {floats("m", {3, 5})},
                            {port_of("q", {"batch", "3", "8"}), port_of("k", {"batch", "5", "4"})},
                            {port_of("y", {})}}),
                  23);
}

// A branch, a loop, and a function with an attribute of its call.
inline std::string control_model() {
  const Message then = graph_of({{node_of("Neg", {"x"}, {"t"})}, {}, {}, {port_of("t", {})}});
  const Message other = graph_of({{node_of("Exp", {"x"}, {"e"})}, {}, {}, {port_of("e", {})}});
  const Message body = graph_of({{node_of("Mul", {"s", "x"}, {"s2"}), node_of("Identity", {"on"}, {"on2"})},
                                 {},
                                 {port_of("i", {}, 7), port_of("on", {}, 9), port_of("s", {})},
                                 {port_of("on2", {}, 9), port_of("s2", {})}});
  const Message alpha = Message().text(1, "alpha").number(20, 1).text(21, "slope");
  const Message function = Message()
                               .text(1, "Sloped")
                               .text(4, "a")
                               .text(5, "b")
                               .text(6, "slope")
                               .message(7, node_of("LeakyRelu", {"a"}, {"b"}, {alpha}))
                               .text(10, "own");
  return model_of(graph_of({{node_of("Equal", {"one", "one"}, {"is"}),
                             node_of("If", {"is"}, {"u"}, {graph_as("then_branch", then), graph_as("else_branch", other)}),
                             node_of("Loop", {"three", "", "u"}, {"v"}, {graph_as("body", body)}),
                             node_of("Sloped", {"v"}, {"y"}, {number("slope", 0.25F)}, "own")},
                            {integers("one", {1}), integers("three", {3})},
                            {port_of("x", {"batch", "3"})},
                            {port_of("y", {})}}),
                  17, {function});
}

inline std::string quantized_model() {
  const std::vector<int8_t> weights{1, -2, 3, 4, -5, 6, 7, -8, 9, 10, -11, 12};
  return model_of(graph_of(
      {{node_of("QuantizeLinear", {"x", "s", "z"}, {"q"}),
        node_of("QLinearConv", {"q", "s", "z", "w", "s", "zw", "s", "z"}, {"c"}),
        node_of("DequantizeLinear", {"c", "s", "z"}, {"f"}), node_of("DynamicQuantizeLinear", {"f"}, {"d", "ds", "dz"}),
        node_of("MatMulInteger", {"d", "m", "dz"}, {"i"}), node_of("Cast", {"i"}, {"g"}, {integer("to", 1)}),
        node_of("Mul", {"g", "ds"}, {"y"})},
       {tensor_of<float>("s", 1, {}, {0.25F}), tensor_of<uint8_t>("z", 2, {}, {3}), tensor_of<int8_t>("zw", 3, {}, {0}),
        tensor_of("w", 3, {3, 2, 2, 1}, weights), tensor_of("m", 3, {4, 3}, weights)},
       {port_of("x", {"n", "2", "5", "4"})},
       {port_of("y", {})}}));
}

inline std::string indexing_model() {
  return model_of(
      graph_of({{node_of("Resize", {"x", "", "", "sizes"}, {"r"},
                         {text("mode", "cubic"), text("coordinate_transformation_mode", "asymmetric")}),
                 node_of("Flatten", {"r"}, {"f"}), node_of("Trilu", {"f"}, {"t"}),
                 node_of("ScatterND", {"t", "i", "u"}, {"s"}, {text("reduction", "add")}),
                 node_of("GatherND", {"s", "i"}, {"g"}), node_of("ArgMax", {"g"}, {"a"}, {integer("keepdims", 0)}),
                 node_of("OneHot", {"a", "depth", "u2"}, {"h"}), node_of("LpNormalization", {"h"}, {"y"})},
                {integers("sizes", {2, 1, 3, 5}), tensor_of<int64_t>("i", 7, {2, 2}, {0, 1, 1, -2}), floats("u", {2}),
                 floats("u2", {2}), integers("depth", {4})},
                {port_of("x", {"2", "1", "4", "3"})},
                {port_of("y", {})}}),
      18);
}

inline std::vector<std::string> models() {
  return {recurrent_model(), attention_model(), control_model(), quantized_model(), indexing_model()};
}

}  // namespace bitlab::format::onnx::test
