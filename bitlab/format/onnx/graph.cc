#include "bitlab/format/onnx/internal/graph.h"

#include <array>
#include <utility>

#include <fmt/format.h>

namespace bitlab::format::onnx {
namespace {

std::string free_name(std::unordered_set<std::string>& taken, std::string_view wanted) {
  std::string name(wanted);
  for (int i = 1; !taken.insert(name).second; ++i) name = fmt::format("{}_{}", wanted, i);
  return name;
}

// A ValueInfoProto: a name, and a TypeProto of a tensor.
ProtobufMessage port(const std::string& name, const program::TensorType& type, const program::Symbols& symbols) {
  ProtobufMessage shape;
  for (const program::Dim& dim : type.shape)
    shape.message(
        1, dim.is_number() ? ProtobufMessage().number(1, dim.factor) : ProtobufMessage().text(2, to_string(dim, symbols)));
  const ProtobufMessage tensor =
      ProtobufMessage().number(1, static_cast<int64_t>(element_type(type.dtype))).message(2, shape);
  return ProtobufMessage().text(1, name).message(2, ProtobufMessage().message(1, tensor));
}

// An AttributeProto. The type is its field 20.
struct AttributeWriter {
  ProtobufMessage message;
  void operator()(int64_t value) { message.number(3, value).number(20, 2); }
  void operator()(float value) { message.float32(2, value).number(20, 1); }
  void operator()(const std::string& value) { message.text(4, value).number(20, 3); }
  void operator()(const Ints& values) {
    for (const int64_t value : values) message.number(8, value);
    message.number(20, 7);
  }
  void operator()(const ProtobufMessage& graph) { message.message(6, graph).number(20, 5); }
};

}  // namespace

ElementType element_type(program::DType dtype) {
  constexpr std::array kTypes{ElementType::kFloat, ElementType::kFloat16, ElementType::kBFloat16,
                              ElementType::kInt64, ElementType::kInt32,   ElementType::kBool};  // in the order of DType
  return kTypes.at(static_cast<size_t>(dtype));
}

std::string Graph::unique(std::string_view wanted) { return free_name(names_, wanted); }

Names Graph::nodes(std::string_view type, const Names& inputs, size_t outputs, const Attributes& attributes,
                   std::string_view domain) {
  GraphNode node{
      std::string(type), free_name(node_names_, fmt::format("{}/{}", scope_, type)), std::string(domain), inputs, {},
      attributes};
  for (size_t i = 0; i < outputs; ++i) node.outputs.push_back(unique(node.name));
  nodes_.push_back(std::move(node));
  return nodes_.back().outputs;
}

bool Graph::rename(const std::string& from, const std::string& to) {
  if (nodes_.empty()) return false;
  for (std::string& output : nodes_.back().outputs) {
    if (output != from) continue;
    names_.erase(from);
    output = to;
    return true;
  }
  return false;
}

std::string Graph::tensor(std::string_view wanted, ElementType type, const Ints& dims, std::string_view bytes) {
  constexpr size_t kSmall = 256;  // bytes, up to which equal tensors are looked for
  std::string* known = nullptr;
  if (bytes.size() <= kSmall)
    known = &tensors_[fmt::format("{} {} {}", static_cast<int>(type), fmt::join(dims, ","), bytes)];
  if (known != nullptr && !known->empty()) return *known;
  const std::string name = unique(wanted);
  if (known != nullptr) *known = name;
  ProtobufMessage message;
  for (const int64_t dim : dims) message.number(1, dim);
  message.number(2, static_cast<int64_t>(type)).text(8, name).text(9, bytes);
  initializers_.message(5, message);
  return name;
}

std::string Graph::floats(std::string_view wanted, const Ints& dims, std::span<const float> data) {
  return tensor(wanted, ElementType::kFloat, dims, bytes_of(data));
}

std::string Graph::ints(const Ints& data) {
  return tensor(fmt::format("ints_{}", fmt::join(data, "_")), ElementType::kInt64, {static_cast<int64_t>(data.size())},
                bytes_of(std::span(data)));
}

std::string Graph::integer(int64_t value) {
  return tensor(fmt::format("int_{}", value), ElementType::kInt64, {}, bytes_of(std::span<const int64_t>(&value, 1)));
}

std::string Graph::number(float value) {
  return tensor(fmt::format("number_{}", value), ElementType::kFloat, {}, bytes_of(std::span<const float>(&value, 1)));
}

void Graph::add_input(const std::string& name, const program::TensorType& type, const program::Symbols& symbols) {
  ports_.message(11, port(name, type, symbols));
}

void Graph::add_output(const std::string& name, const program::TensorType& type, const program::Symbols& symbols) {
  ports_.message(12, port(name, type, symbols));
}

void Graph::add_value(const std::string& name, const program::TensorType& type, const program::Symbols& symbols) {
  ports_.message(13, port(name, type, symbols));
}

void Graph::begin_body() { outer_nodes_ = std::exchange(nodes_, {}); }

ProtobufMessage Graph::end_body(const std::vector<Port>& inputs, const std::vector<Port>& outputs,
                                const program::Symbols& symbols) {
  ProtobufMessage graph = messages(nodes_);
  graph.text(2, scope_);
  for (const Port& input : inputs) graph.message(11, port(input.name, input.type, symbols));
  for (const Port& output : outputs) graph.message(12, port(output.name, output.type, symbols));
  nodes_ = std::exchange(outer_nodes_, {});
  return graph;
}

ProtobufMessage Graph::messages(const std::vector<GraphNode>& nodes) {
  ProtobufMessage graph;
  for (const GraphNode& node : nodes) {
    ProtobufMessage message;
    for (const std::string& input : node.inputs) message.text(1, input);
    for (const std::string& output : node.outputs) message.text(2, output);
    message.text(3, node.name).text(4, node.type);
    for (const auto& [key, value] : node.attributes) {
      AttributeWriter attribute{ProtobufMessage().text(1, key)};
      std::visit(attribute, value);
      message.message(5, attribute.message);
    }
    if (!node.domain.empty()) message.text(7, node.domain);
    graph.message(1, message);
  }
  return graph;
}

ProtobufMessage Graph::message(std::string_view name) const {
  return messages(nodes_).text(2, name).append(initializers_).append(ports_);
}

}  // namespace bitlab::format::onnx
