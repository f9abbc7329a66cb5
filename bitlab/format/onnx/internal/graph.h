// A graph of ONNX being built: names, nodes, initializers. Field numbers are those of onnx.proto.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

#include "bitlab/base/protobuf.h"
#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

// TensorProto.DataType.
enum class ElementType {
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kUint32 = 12,
  kUint64 = 13,
  kBFloat16 = 16,
  kUint4 = 21,
  kInt4 = 22,
  kUint2 = 25,
  kInt2 = 26,
};
ElementType element_type(program::DType dtype);

template <class T>
std::string_view bytes_of(std::span<const T> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size_bytes()};
}

using Ints = std::vector<int64_t>;
using Names = std::vector<std::string>;
using Attribute = std::variant<int64_t, float, std::string, Ints, ProtobufMessage>;  // the last: a GraphProto
using Attributes = std::vector<std::pair<std::string, Attribute>>;

class Graph {
 public:
  // The name, or with a number behind it where it is taken.
  std::string unique(std::string_view wanted);
  // What nodes and tensors that come next are called by: the node of the program that they are for.
  void begin(std::string node) { scope_ = std::move(node); }

  // A node with one result, or several, whose names it returns. An empty input is one that is left out.
  std::string node(std::string_view type, const Names& inputs, const Attributes& attributes = {}) {
    return nodes(type, inputs, 1, attributes).front();
  }
  Names nodes(std::string_view type, const Names& inputs, size_t outputs, const Attributes& attributes = {},
              std::string_view domain = "");
  // Gives a result of the last node another name. False where it is not one.
  bool rename(const std::string& from, const std::string& to);

  // A graph within a node, such as the body of a loop: the nodes between the calls. It sees all names of the graph around it.
  struct Port {
    std::string name;
    program::TensorType type;
  };
  void begin_body();
  ProtobufMessage end_body(const std::vector<Port>& inputs, const std::vector<Port>& outputs,
                           const program::Symbols& symbols);

  // Initializers; small ones of equal type, sizes and bytes are one.
  std::string tensor(std::string_view wanted, ElementType type, const Ints& dims, std::string_view bytes);
  std::string floats(std::string_view wanted, const Ints& dims, std::span<const float> data);
  std::string ints(const Ints& data);  // int64 [n]
  std::string integer(int64_t value);  // int64, a scalar
  std::string number(float value);     // float32, a scalar

  void add_input(const std::string& name, const program::TensorType& type, const program::Symbols& symbols);
  void add_output(const std::string& name, const program::TensorType& type, const program::Symbols& symbols);
  void add_value(const std::string& name, const program::TensorType& type, const program::Symbols& symbols);

  // A GraphProto.
  ProtobufMessage message(std::string_view name) const;

 private:
  struct GraphNode {
    std::string type, name, domain;
    Names inputs, outputs;
    Attributes attributes;
  };
  static ProtobufMessage messages(const std::vector<GraphNode>& nodes);  // fields of a GraphProto
  std::string scope_;
  std::unordered_set<std::string> names_, node_names_;
  std::vector<GraphNode> nodes_, outer_nodes_;            // of the graph or a body, and of the graph around one
  std::unordered_map<std::string, std::string> tensors_;  // names by type, sizes and bytes
  ProtobufMessage initializers_, ports_;                  // fields of the GraphProto
};

}  // namespace bitlab::format::onnx
