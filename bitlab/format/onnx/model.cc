#include "bitlab/format/onnx/internal/model.h"

#include <algorithm>
#include <charconv>
#include <cstring>

#include "bitlab/base/protobuf.h"

namespace bitlab::format::onnx {
namespace {

Error broken(std::string_view message, std::string_view name, std::string_view expected, const ProtobufReader& reader) {
  return make_error(ErrorCode::kCorrupt, "[onnx] {}, got none at byte {} of a {} (name={})", expected, reader.position(),
                    message, name);
}

// Reads all fields of a message with f(reader), a Status. `name`: of the message, which is known behind some of them.
template <class F>
Status read_fields(std::string_view bytes, std::string_view message, const std::string_view& name, F f) {
  ProtobufReader reader(bytes);
  while (reader.next()) BITLAB_RETURN_IF_ERROR(f(reader));
  if (reader.is_broken()) return broken(message, name, "a field", reader);
  return {};
}

// The content of a field that is a text or a message.
Result<std::string_view> bytes_at(const ProtobufReader& field, std::string_view message) {
  if (field.wire == ProtobufWire::kBytes) return field.content;
  return broken(message, "", fmt::format("bytes in field {}", field.field), field);
}

template <class T>
T number_of(std::string_view bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// Numbers of a repeated field of a fixed size, one by one or packed.
Status append_fixed(const ProtobufReader& field, size_t size, std::string& raw) {
  if (field.wire == ProtobufWire::kVarint || field.content.size() % size != 0)
    return broken("TensorProto", "", fmt::format("numbers of {} bytes in field {}", size, field.field), field);
  raw += field.content;
  return {};
}

// --- tensors

// Where the elements of a TensorProto are.
struct Elements {
  int64_t type = 0;
  std::optional<std::string_view> raw;
  std::string fixed;  // of float_data, double_data
  Ints varints;       // of int32_data, int64_data, uint64_data
  bool has_varints = false, is_external = false, has_strings = false;
  std::string_view location;
  int64_t offset = 0, length = -1;
};

Status read_place(std::string_view bytes, Elements& elements) {
  std::string_view key, value;
  BITLAB_RETURN_IF_ERROR(read_fields(bytes, "StringStringEntryProto", key, [&](const ProtobufReader& f) -> Status {
    if (f.field == 1) key = f.content;
    if (f.field == 2) value = f.content;
    return {};
  }));
  if (key == "location") elements.location = value;
  int64_t* const number = key == "offset" ? &elements.offset : key == "length" ? &elements.length : nullptr;
  if (number == nullptr) return {};
  const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), *number);
  if (error == std::errc() && end == value.data() + value.size() && *number >= 0) return {};
  return make_error(ErrorCode::kCorrupt, "[onnx] a number of bytes as {} of a tensor, got '{}'", key, value);
}

Status read_tensor_field(const ProtobufReader& field, NamedTensor& named, Elements& elements) {
  switch (field.field) {
    case 1:
      if (append_varints(field, named.tensor.sizes)) return {};
      return broken("TensorProto", named.name, "sizes", field);
    case 2:
      elements.type = static_cast<int64_t>(field.number);
      return {};
    case 4:
      return append_fixed(field, sizeof(float), elements.fixed);
    case 10:
      return append_fixed(field, sizeof(double), elements.fixed);
    case 5:
    case 7:
    case 11:
      elements.has_varints = true;
      if (append_varints(field, elements.varints)) return {};
      return broken("TensorProto", named.name, "integers", field);
    case 6:
      elements.has_strings = true;
      return {};
    case 8:
      named.name = field.content;
      return {};
    case 9: {
      BITLAB_TRY(elements.raw, bytes_at(field, "TensorProto"));
      return {};
    }
    case 13: {
      BITLAB_TRY(const std::string_view place, bytes_at(field, "TensorProto"));
      return read_place(place, elements);
    }
    case 14:
      elements.is_external = field.number == 1;
      return {};
    default:
      return {};
  }
}

int64_t bits_of(ElementType type) {
  if (type == ElementType::kInt2 || type == ElementType::kUint2) return 2;
  if (type == ElementType::kInt4 || type == ElementType::kUint4) return 4;
  return 8 * size_of(type);
}

bool is_signed(ElementType type) { return type == ElementType::kInt2 || type == ElementType::kInt4; }

// Integers of two or four bits, the first in the low bits, as bytes.
std::vector<uint8_t> unpacked_bits(std::span<const uint8_t> packed, ElementType type, int64_t count) {
  const auto bits = static_cast<size_t>(bits_of(type)), in_byte = 8 / bits;
  const int mask = (1 << bits) - 1, top = 1 << (bits - 1);
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int code = packed[i / in_byte] >> (bits * (i % in_byte)) & mask;
    bytes[i] = static_cast<uint8_t>(is_signed(type) && code >= top ? code - mask - 1 : code);
  }
  return bytes;
}

void own(Tensor& tensor, std::vector<uint8_t> bytes) {
  auto owned = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
  tensor.bytes = *owned;
  tensor.owner = std::move(owned);
}

Result<Tensor> external(const Elements& elements, const Beside& beside, std::string_view name) {
  BITLAB_TRY(Tensor file, beside(elements.location));
  const auto size = static_cast<int64_t>(file.bytes.size());
  const int64_t length = elements.length < 0 ? size - elements.offset : elements.length;
  if (elements.offset > size || length < 0 || length > size - elements.offset)
    return make_error(ErrorCode::kCorrupt, "[onnx] bytes of {} of {}, got {} from {} on (tensor={})", elements.location,
                      size, length, elements.offset, name);
  file.bytes = file.bytes.subspan(static_cast<size_t>(elements.offset), static_cast<size_t>(length));
  return file;
}

// Integers of a typed field, in as many bytes as the type has.
std::vector<uint8_t> narrowed(const Ints& integers, int64_t size) {
  std::vector<uint8_t> bytes(integers.size() * static_cast<size_t>(size));
  for (size_t i = 0; i < integers.size(); ++i)
    std::memcpy(bytes.data() + i * static_cast<size_t>(size), &integers[i], static_cast<size_t>(size));
  return bytes;
}

// The elements as they lie in the file, or in a typed field.
Status place_elements(NamedTensor& named, Elements& elements, const Beside& beside, bool is_packed) {
  Tensor& tensor = named.tensor;
  if (elements.is_external) {
    BITLAB_TRY(const Tensor file, external(elements, beside, named.name));
    tensor.bytes = file.bytes, tensor.owner = file.owner;
  } else if (elements.raw) {
    tensor.bytes = {reinterpret_cast<const uint8_t*>(elements.raw->data()), elements.raw->size()};
  } else if (elements.has_varints) {
    own(tensor, narrowed(elements.varints, is_packed ? 1 : size_of(tensor.type)));
  } else if (!elements.fixed.empty()) {
    own(tensor, {elements.fixed.begin(), elements.fixed.end()});
  }
  return {};
}

Result<NamedTensor> read_tensor(std::string_view bytes, const Beside& beside) {
  NamedTensor named;
  Elements elements;
  BITLAB_RETURN_IF_ERROR(read_fields(bytes, "TensorProto", named.name, [&](const ProtobufReader& field) {
    return read_tensor_field(field, named, elements);
  }));
  Tensor& tensor = named.tensor;
  tensor.type = tensor.stored = static_cast<ElementType>(elements.type);
  if (elements.has_strings || size_of(tensor.type) == 0)
    return make_error(ErrorCode::kUnsupported, "[onnx] a tensor of numbers, got {} (tensor={})", name_of(tensor.type),
                      named.name);
  if (tensor.sizes.size() > static_cast<size_t>(program::kMaxRank) ||
      std::any_of(tensor.sizes.begin(), tensor.sizes.end(), [](int64_t size) { return size < 0; }) ||
      elements_of(tensor.sizes) > program::kMaxElements)
    return make_error(ErrorCode::kCorrupt, "[onnx] at most {} sizes and 2^40 values, got {} (tensor={})", program::kMaxRank,
                      program::to_string(tensor.sizes), named.name);
  const bool is_packed = bits_of(tensor.type) < 8;
  BITLAB_RETURN_IF_ERROR(place_elements(named, elements, beside, is_packed));
  const int64_t count = elements_of(tensor.sizes), expected = (count * bits_of(tensor.type) + 7) / 8;
  if (static_cast<int64_t>(tensor.bytes.size()) != expected)
    return make_error(ErrorCode::kCorrupt, "[onnx] {} bytes of {}{}, got {} (tensor={})", expected, name_of(tensor.type),
                      program::to_string(tensor.sizes), tensor.bytes.size(), named.name);
  if (is_packed) own(tensor, unpacked_bits(tensor.bytes, tensor.type, count));
  tensor.name = named.name;
  if (tensor.type == ElementType::kFloat16 || tensor.type == ElementType::kBFloat16) tensor.type = ElementType::kFloat;
  return named;
}

// --- nodes

// What the readers of nested messages share.
struct Source {
  const Beside& beside;
  int depth = 0;  // of graphs in attributes
};
constexpr int kMostDepth = 8;

Result<ModelGraph> read_graph(std::string_view bytes, const Source& source);

Status read_attribute_field(const ProtobufReader& field, const Source& source, ModelAttribute& attribute) {
  const auto need = [&](ProtobufWire wire) -> Status {
    if (field.wire == wire) return {};
    return broken("AttributeProto", attribute.name, fmt::format("another kind of field {}", field.field), field);
  };
  switch (field.field) {
    case 1:
      attribute.name = field.content;
      return {};
    case 2:
      BITLAB_RETURN_IF_ERROR(need(ProtobufWire::kFixed32));
      attribute.number = number_of<float>(field.content);
      return {};
    case 3:
      attribute.integer = static_cast<int64_t>(field.number);
      return {};
    case 4:
      attribute.text = field.content;
      return {};
    case 5: {
      BITLAB_RETURN_IF_ERROR(need(ProtobufWire::kBytes));
      BITLAB_TRY(NamedTensor named, read_tensor(field.content, source.beside));
      attribute.tensor = std::move(named.tensor);
      return {};
    }
    case 6: {
      BITLAB_RETURN_IF_ERROR(need(ProtobufWire::kBytes));
      BITLAB_TRY(ModelGraph graph, read_graph(field.content, {source.beside, source.depth + 1}));
      attribute.graph = std::make_shared<const ModelGraph>(std::move(graph));
      return {};
    }
    case 7:
      if (field.wire == ProtobufWire::kVarint || field.content.size() % sizeof(float) != 0)
        return need(ProtobufWire::kFixed32);
      for (size_t i = 0; i < field.content.size(); i += sizeof(float))
        attribute.numbers.push_back(number_of<float>(field.content.substr(i, sizeof(float))));
      return {};
    case 8:
      if (append_varints(field, attribute.integers)) return {};
      return need(ProtobufWire::kVarint);
    case 9:
      attribute.texts.push_back(field.content);
      return {};
    case 20:
      attribute.type = static_cast<int64_t>(field.number);
      return {};
    case 21:
      attribute.reference = field.content;
      return {};
    default:
      return {};
  }
}

Result<ModelAttribute> read_attribute(std::string_view bytes, const Source& source) {
  ModelAttribute attribute;
  BITLAB_RETURN_IF_ERROR(read_fields(bytes, "AttributeProto", attribute.name,
                                     [&](const ProtobufReader& f) { return read_attribute_field(f, source, attribute); }));
  if (!attribute.name.empty()) return attribute;
  return make_error(ErrorCode::kCorrupt, "[onnx] a name of an attribute, got none in an AttributeProto of {} bytes",
                    bytes.size());
}

Status read_node_field(const ProtobufReader& field, const Source& source, ModelNode& node) {
  if (field.wire != ProtobufWire::kBytes) return {};
  if (field.field == 1) node.inputs.push_back(field.content);
  if (field.field == 2) node.outputs.push_back(field.content);
  if (field.field == 3) node.name = field.content;
  if (field.field == 4) node.type = field.content;
  if (field.field == 7) node.domain = field.content;
  if (field.field != 5) return {};
  BITLAB_TRY(node.attributes.emplace_back(), read_attribute(field.content, source));
  return {};
}

Result<ModelNode> read_node(std::string_view bytes, const Source& source) {
  ModelNode node;
  BITLAB_RETURN_IF_ERROR(read_fields(bytes, "NodeProto", node.name,
                                     [&](const ProtobufReader& field) { return read_node_field(field, source, node); }));
  if (node.type.empty() || node.outputs.empty())
    return make_error(ErrorCode::kCorrupt, "[onnx] a node with an operator and an output, got '{}' with {} (node={})",
                      node.type, node.outputs.size(), node.name);
  return node;
}

// --- inputs and outputs

Status read_sizes(std::string_view bytes, ModelPort& port) {
  return read_fields(bytes, "TensorShapeProto", port.name, [&](const ProtobufReader& field) -> Status {
    if (field.field != 1) return {};
    ModelPort::Size& size = port.shape.emplace_back();
    return read_fields(field.content, "Dimension", port.name, [&](const ProtobufReader& f) -> Status {
      if (f.field == 1) size = static_cast<int64_t>(f.number);
      if (f.field == 2 && !f.content.empty()) size = f.content;
      return {};
    });
  });
}

Status read_tensor_type(std::string_view bytes, ModelPort& port) {
  return read_fields(bytes, "TypeProto.Tensor", port.name, [&](const ProtobufReader& field) -> Status {
    if (field.field == 1) port.type = static_cast<ElementType>(field.number);
    if (field.field != 2) return {};
    port.has_shape = true;
    return read_sizes(field.content, port);
  });
}

Result<ModelPort> read_port(std::string_view bytes) {
  ModelPort port;
  BITLAB_RETURN_IF_ERROR(read_fields(bytes, "ValueInfoProto", port.name, [&](const ProtobufReader& field) -> Status {
    if (field.field == 1) port.name = field.content;
    if (field.field != 2) return {};
    return read_fields(field.content, "TypeProto", port.name, [&](const ProtobufReader& f) -> Status {
      if (f.field == 1) return read_tensor_type(f.content, port);
      if (f.field > 1 && f.field < 10)
        return make_error(ErrorCode::kUnsupported, "[onnx] tensors, got a sequence, map or sparse tensor (value={})",
                          port.name);
      return {};
    });
  }));
  if (port.name.empty()) return make_error(ErrorCode::kCorrupt, "[onnx] names of inputs and outputs, got none");
  return port;
}

Status read_graph_field(const ProtobufReader& field, const Source& source, ModelGraph& graph) {
  if (field.field == 1) {
    BITLAB_TRY(graph.nodes.emplace_back(), read_node(field.content, source));
  } else if (field.field == 5) {
    BITLAB_TRY(graph.tensors.emplace_back(), read_tensor(field.content, source.beside));
  } else if (field.field == 11) {
    BITLAB_TRY(graph.inputs.emplace_back(), read_port(field.content));
  } else if (field.field == 12) {
    BITLAB_TRY(graph.outputs.emplace_back(), read_port(field.content));
  } else if (field.field == 15) {
    return make_error(ErrorCode::kUnsupported, "[onnx] dense tensors, got a sparse one");
  }
  return {};
}

Result<ModelGraph> read_graph(std::string_view bytes, const Source& source) {
  if (source.depth > kMostDepth)
    return make_error(ErrorCode::kUnsupported, "[onnx] graphs in at most {} others, got one in more", kMostDepth);
  ModelGraph graph;
  BITLAB_RETURN_IF_ERROR(
      read_fields(bytes, "GraphProto", {}, [&](const ProtobufReader& f) { return read_graph_field(f, source, graph); }));
  return graph;
}

// --- the model

struct OperatorSet {
  std::string_view domain;
  int64_t version = 0;
  bool is_own() const { return domain.empty() || domain == "ai.onnx"; }
};

Result<OperatorSet> read_operator_set(std::string_view bytes) {
  OperatorSet set;
  BITLAB_RETURN_IF_ERROR(read_fields(bytes, "OperatorSetIdProto", {}, [&](const ProtobufReader& f) -> Status {
    if (f.field == 1) set.domain = f.content;
    if (f.field == 2) set.version = static_cast<int64_t>(f.number);
    return {};
  }));
  return set;
}

Status read_function_field(const ProtobufReader& field, const Source& source, ModelFunction& function) {
  if (field.wire != ProtobufWire::kBytes) return {};
  if (field.field == 1) function.name = field.content;
  if (field.field == 4) function.inputs.push_back(field.content);
  if (field.field == 5) function.outputs.push_back(field.content);
  if (field.field == 10) function.domain = field.content;
  if (field.field == 7) {
    BITLAB_TRY(function.nodes.emplace_back(), read_node(field.content, source));
  } else if (field.field == 11) {
    BITLAB_TRY(function.defaults.emplace_back(), read_attribute(field.content, source));
  } else if (field.field == 9) {
    BITLAB_TRY(const OperatorSet set, read_operator_set(field.content));
    if (set.is_own()) function.opset = set.version;
  }
  return {};
}

Status read_model_field(const ProtobufReader& field, const Beside& beside, ModelFile& model, bool& has_graph) {
  if (field.field == 7) {
    has_graph = true;
    return read_fields(field.content, "GraphProto", {},
                       [&](const ProtobufReader& f) { return read_graph_field(f, {beside}, model); });
  }
  if (field.field == 8) {
    BITLAB_TRY(const OperatorSet set, read_operator_set(field.content));
    if (set.is_own()) model.opset = set.version;
  }
  if (field.field == 25) {
    ModelFunction& function = model.functions.emplace_back();
    return read_fields(field.content, "FunctionProto", function.name,
                       [&](const ProtobufReader& f) { return read_function_field(f, {beside}, function); });
  }
  if (field.field == 14) {
    auto& [key, value] = model.metadata.emplace_back();
    return read_fields(field.content, "StringStringEntryProto", {},
                       [&, &k = key, &v = value](const ProtobufReader& f) -> Status {
                         if (f.field == 1) k = f.content;
                         if (f.field == 2) v = f.content;
                         return {};
                       });
  }
  return {};
}

}  // namespace

const ModelAttribute* ModelNode::find(std::string_view key) const {
  const auto found = std::find_if(attributes.begin(), attributes.end(), [&](const auto& a) { return a.name == key; });
  return found == attributes.end() ? nullptr : &*found;
}

Result<ModelFile> read_model(std::span<const uint8_t> bytes, const Beside& beside) {
  ModelFile model;
  bool has_graph = false;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  BITLAB_RETURN_IF_ERROR(read_fields(text, "ModelProto", {}, [&](const ProtobufReader& field) {
    return read_model_field(field, beside, model, has_graph);
  }));
  if (!has_graph)
    return make_error(ErrorCode::kCorrupt, "[onnx] a ModelProto with a graph, got none in {} bytes", bytes.size());
  constexpr int64_t kLeastOpset = 7;
  if (model.opset < kLeastOpset)
    return make_error(ErrorCode::kUnsupported, "[onnx] opset {} or later, got {}", kLeastOpset, model.opset);
  return model;
}

}  // namespace bitlab::format::onnx
