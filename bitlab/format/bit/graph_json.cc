#include "bitlab/format/bit/graph_json.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <unordered_map>

#include <nlohmann/json.hpp>

#include "bitlab/base/json_depth.h"
#include "bitlab/program/verify.h"

namespace bitlab::format::bit {
namespace {

using Json = nlohmann::ordered_json;
using program::Attribute;
using program::Dim;
using program::DType;
using program::Node;
using program::Program;
using program::Shape;
using program::Sizes;
using program::Value;
using program::ValueId;
using program::ValueKind;

Json shape_to_json(const Shape& shape) {
  Json sizes = Json::array();
  for (const Dim& dim : shape) sizes.push_back(dim.symbolic ? Json(to_string(dim)) : Json(dim.size));
  return sizes;
}

Json attribute_to_json(const Attribute& attribute) {
  return std::visit([](const auto& value) { return Json(value); }, attribute);
}

Json constant_to_json(const Program& p, const program::Constant& constant) {
  const Value& v = p.value(constant.value);
  const auto* ternary = std::get_if<program::TernaryData>(&constant.data);
  const auto* int8 = std::get_if<program::Int8Data>(&constant.data);
  const char* kind = ternary != nullptr ? "ternary" : int8 != nullptr ? "int8" : "float";
  Json json{{"name", v.name}, {"kind", kind}, {"shape", shape_to_json(v.shape)}};
  if (int8 != nullptr) json["scales"] = int8->scale.size();
  if (ternary == nullptr) return json;
  if (ternary->group != 0) {
    json["group"] = ternary->group;
    return json;
  }
  json["scales"] = ternary->scale.size();
  if (!ternary->scale_neg.empty()) json["asymmetric"] = true;
  return json;
}

Json node_to_json(const Program& p, const Node& node) {
  Json inputs = Json::array(), attributes = Json::object();
  for (ValueId id : node.inputs) inputs.push_back(id == program::kNone ? Json(nullptr) : Json(p.value(id).name));
  const auto& schemas = program::schema(node.op).inputs;
  while (!inputs.empty() && inputs.back().is_null() && schemas[inputs.size() - 1].optional) inputs.erase(inputs.size() - 1);
  for (const auto& [key, value] : node.attributes) attributes[key] = attribute_to_json(value);
  return {{"op", name(node.op)}, {"name", node.name}, {"inputs", inputs}, {"attributes", attributes}};
}

// The beginning of what the file says.
std::string show(const Json& found) {
  constexpr size_t kMost = 60;
  const std::string text = found.dump(-1, ' ', true);
  return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
}

Error malformed(std::string_view expectation, const Json& found) {
  return make_error(ErrorCode::kCorrupt, "[bit] {} in the graph, got {}", expectation, show(found));
}

// An integer that int64 holds.
bool is_integer(const Json& json) {
  return json.is_number_integer() &&
         (!json.is_number_unsigned() || json.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
}

Result<Dim> parse_dim(const Json& json) {
  constexpr std::string_view kSuffix = "*batch";
  if (is_integer(json)) return Dim{json.get<int64_t>(), false};
  if (json == "batch") return program::kBatch;
  if (!json.is_string()) return malformed("a number or a multiple of the batch as a dimension", json);
  const auto text = json.get<std::string>();
  Dim dim{0, true};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), dim.size);
  if (error != std::errc() || std::string_view(end) != kSuffix)
    return malformed("a number or a multiple of the batch as a dimension", json);
  return dim;
}

Result<Shape> parse_shape(const Json& json) {
  if (!json.is_array() || json.size() > static_cast<size_t>(program::kMaxRank))
    return malformed("a shape of at most 5 sizes", json);
  Shape shape;
  for (const Json& item : json) {
    BITLAB_TRY(const Dim dim, parse_dim(item));
    shape.push_back(dim);
  }
  return shape;
}

Result<Attribute> parse_attribute(const Json& json) {
  if (is_integer(json)) return Attribute(json.get<int64_t>());
  if (json.is_string()) return Attribute(json.get<std::string>());
  if (json.is_number_float()) return Attribute(json.get<double>());
  if (json.is_array() && json.size() <= static_cast<size_t>(program::kMaxRank) &&
      std::all_of(json.begin(), json.end(), is_integer))
    return Attribute(json.get<Sizes>());
  return malformed("a number, at most 5 integers or a text as an attribute", json);
}

// Reads the members of the graph into a program, resolving names.
class Reader {
 public:
  Status inputs(const Json& list) {
    return each(list, [&](const Json& json) -> Status {
      const Json dtype = json.is_object() ? json.value("dtype", Json("float32")) : Json();
      if (dtype != "float32" && dtype != "int64") return malformed("the dtype float32 or int64 of an input", dtype);
      BITLAB_TRY(const ValueId id, declare(json, ValueKind::kInput, dtype == "int64" ? DType::kInt64 : DType::kFloat32));
      parsed_.program.inputs.push_back(id);
      return {};
    });
  }

  Status constants(const Json& list) {
    return each(list, [&](const Json& json) -> Status {
      const Json kind = json.is_object() ? json.value("kind", Json()) : Json();
      if (kind != "float" && kind != "ternary" && kind != "int8")
        return malformed("the kind float, ternary or int8 of a constant", kind);
      const bool integer = kind != "float";
      const DType type = kind == "ternary" ? DType::kTernary : kind == "int8" ? DType::kInt8 : DType::kFloat32;
      BITLAB_TRY(const ValueId id, declare(json, ValueKind::kConstant, type));
      if (!is_valid(parsed_.program.value(id).shape)) return malformed("positive sizes of a constant", json["shape"]);
      ConstantPlan plan{id, 0, false, 0};
      if (integer) BITLAB_RETURN_IF_ERROR(scales_of(json, plan));
      if (kind == "int8" && (plan.group != 0 || plan.asymmetric))
        return malformed("scales of rows or one of a constant in int8", json);
      parsed_.constants.push_back(plan);
      return {};
    });
  }

  Status nodes(const Json& list) {
    return each(list, [&](const Json& json) -> Status { return node(json); });
  }

  Status outputs(const Json& list) {
    return each(list, [&](const Json& json) -> Status {
      BITLAB_TRY(const ValueId id, resolve(json));
      parsed_.program.outputs.push_back(id);
      return {};
    });
  }

  ParsedGraph finish() { return std::move(parsed_); }

 private:
  static Status scales_of(const Json& json, ConstantPlan& plan) {
    const Json scales = json.value("scales", Json(0U)), group = json.value("group", Json(0U)),
               asymmetric = json.value("asymmetric", Json(false));
    if (!scales.is_number_unsigned() || !is_integer(scales) || !group.is_number_unsigned() || !asymmetric.is_boolean())
      return malformed("numbers of scales and of k in a group", json);
    if (group != 0U && group != 64U && group != 128U && group != 256U) return malformed("groups of 64, 128 or 256", group);
    plan = {plan.value, scales.get<int64_t>(), asymmetric.get<bool>(), group.get<int64_t>()};
    return {};
  }

  template <class Function>
  Status each(const Json& list, Function function) {
    if (!list.is_array()) return malformed("lists of inputs, constants, nodes and outputs", list);
    for (const Json& item : list) BITLAB_RETURN_IF_ERROR(function(item));
    return {};
  }

  Result<std::string> name_of(const Json& json) {
    if (!json.is_object() || !json.contains("name") || !json["name"].is_string())
      return malformed("a name for each entry", json);
    return json["name"].get<std::string>();
  }

  Result<ValueId> define(std::string name, ValueKind kind, DType dtype, Shape shape) {
    const auto id = static_cast<ValueId>(parsed_.program.values.size());
    if (!ids_.emplace(name, id).second) return malformed("a name that stands for one value", name);
    parsed_.program.values.push_back({std::move(name), kind, dtype, std::move(shape)});
    return id;
  }

  Result<ValueId> declare(const Json& json, ValueKind kind, DType dtype) {
    BITLAB_TRY(std::string name, name_of(json));
    BITLAB_TRY(Shape shape, parse_shape(json.contains("shape") ? json["shape"] : Json()));
    return define(std::move(name), kind, dtype, std::move(shape));
  }

  Result<ValueId> resolve(const Json& json) {
    if (json.is_null()) return program::kNone;
    const auto found = json.is_string() ? ids_.find(json.get<std::string>()) : ids_.end();
    if (found == ids_.end()) return malformed("the name of a value that stands before", json);
    return found->second;
  }

  Status node(const Json& json) {
    BITLAB_TRY(std::string name, name_of(json));
    if (!json.contains("op") || !json["op"].is_string() || !json.contains("inputs") || !json["inputs"].is_array() ||
        !json.contains("attributes") || !json["attributes"].is_object())
      return malformed("op, inputs and attributes of a node", json);
    Node node;
    node.name = name;
    BITLAB_TRY(node.op, program::parse_op(json["op"].get<std::string>()));
    for (const Json& input : json["inputs"]) {
      BITLAB_TRY(const ValueId id, resolve(input));
      node.inputs.push_back(id);
    }
    for (const auto& [key, value] : json["attributes"].items()) {
      BITLAB_TRY(node.attributes[key], parse_attribute(value));
    }
    complete_inputs(node);
    BITLAB_RETURN_IF_ERROR(verify_schema(parsed_.program, node));
    BITLAB_TRY(Shape shape, infer_shape(parsed_.program, node));
    BITLAB_TRY(node.output, define(std::move(name), ValueKind::kResult, DType::kFloat32, std::move(shape)));
    parsed_.program.nodes.push_back(std::move(node));
    return {};
  }

  ParsedGraph parsed_;
  std::unordered_map<std::string, ValueId> ids_;
};

}  // namespace

std::string graph_to_json(const Program& p) {
  Json inputs = Json::array(), constants = Json::array(), nodes = Json::array(), outputs = Json::array();
  for (ValueId id : p.inputs) {
    inputs.push_back({{"name", p.value(id).name}, {"shape", shape_to_json(p.value(id).shape)}});
    if (p.value(id).dtype != DType::kFloat32) inputs.back()["dtype"] = name(p.value(id).dtype);
  }
  for (const program::Constant& constant : p.constants) constants.push_back(constant_to_json(p, constant));
  for (const Node& node : p.nodes) nodes.push_back(node_to_json(p, node));
  for (ValueId id : p.outputs) outputs.push_back(p.value(id).name);
  return Json{{"inputs", inputs}, {"constants", constants}, {"nodes", nodes}, {"outputs", outputs}}.dump();
}

Result<ParsedGraph> graph_from_json(std::string_view text) {
  if (const auto depth = json_depth(text); depth > kMaxJsonDepth)
    return make_error(ErrorCode::kCorrupt, "[bit] nesting at most {} deep in the graph, got {}", kMaxJsonDepth, depth);
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return make_error(ErrorCode::kCorrupt, "[bit] a JSON object as the graph, got other text");
  if (!json.is_object()) return malformed("a JSON object", json);
  for (const char* key : {"inputs", "constants", "nodes", "outputs"})
    if (!json.contains(key)) return malformed("lists of inputs, constants, nodes and outputs", json);
  Reader reader;
  BITLAB_RETURN_IF_ERROR(reader.inputs(json["inputs"]));
  BITLAB_RETURN_IF_ERROR(reader.constants(json["constants"]));
  BITLAB_RETURN_IF_ERROR(reader.nodes(json["nodes"]));
  BITLAB_RETURN_IF_ERROR(reader.outputs(json["outputs"]));
  return reader.finish();
}

}  // namespace bitlab::format::bit
