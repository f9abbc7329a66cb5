#include "bitlab/format/bit/internal/graph_json.h"

#include <algorithm>
#include <type_traits>
#include <unordered_map>

#include "bitlab/base/internal/json.h"
#include "bitlab/program/verify.h"

namespace bitlab::format::bit {
namespace {

using program::Attribute;
using program::Dim;
using program::DType;
using program::Node;
using program::Program;
using program::Shape;
using program::Sizes;
using program::Storage;
using program::Symbol;
using program::Symbols;
using program::Value;
using program::ValueId;
using program::ValueKind;

Json shape_to_json(const Shape& shape, const Symbols& symbols) {
  Json sizes = Json::array();
  for (const Dim& dim : shape) sizes.push_back(dim.is_number() ? Json(dim.factor) : Json(to_string(dim, symbols)));
  return sizes;
}

// An attribute that is a shape is an object, so that it is no list of integers.
Json attribute_to_json(const Attribute& attribute, const Symbols& symbols) {
  if (const auto* shape = std::get_if<Shape>(&attribute)) return Json{{"shape", shape_to_json(*shape, symbols)}};
  return std::visit(
      [](const auto& value) {
        if constexpr (std::is_same_v<std::decay_t<decltype(value)>, Shape>) {
          return Json();
        } else {
          return Json(value);
        }
      },
      attribute);
}

Json symbol_to_json(const Symbol& symbol, int64_t least) {
  Json json{{"name", symbol.name}};
  if (symbol.min != least) json["min"] = symbol.min;
  if (symbol.max != program::kMaxElements) json["max"] = symbol.max;
  if (symbol.is_context) json["context"] = true;
  return json;
}

Json value_to_json(const Program& p, const Value& v) {
  Json json{{"name", v.name}, {"shape", shape_to_json(v.shape, p.symbols)}};
  if (v.dtype != DType::kFloat32) json["dtype"] = name(v.dtype);
  return json;
}

Json constant_to_json(const Program& p, const program::Constant& constant) {
  const Value& v = p.value(constant.value);
  const auto* ternary = std::get_if<program::TernaryData>(&constant.data);
  const auto* int8 = std::get_if<program::Int8Data>(&constant.data);
  Json json = value_to_json(p, v);
  if (v.storage != Storage::kPlain) json["storage"] = name(v.storage);
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
  const program::OpSchema& schema = program::schema(node.op);
  while (!inputs.empty() && inputs.back().is_null() && schema.input(inputs.size() - 1).optional)
    inputs.erase(inputs.size() - 1);
  for (const auto& [key, value] : node.attributes) attributes[key] = attribute_to_json(value, p.symbols);
  Json json{{"op", name(node.op)}, {"name", node.name}, {"inputs", inputs}, {"attributes", attributes}};
  if (node.exactness != schema.exactness) json["exactness"] = name(node.exactness);
  return json;
}

Failure malformed(std::string_view expectation, const Json& found) {
  return make_error(ErrorCode::kCorrupt, "[bit] {} in the graph, got {}", expectation, json_excerpt(found));
}

constexpr size_t kMaxList = 4096;  // of an attribute: the parts of a split

Result<Dim> dim_of(const Json& json, const Symbols& symbols) {
  if (is_int64(json)) return Dim(json.get<int64_t>());
  const Result<Dim> dim = json.is_string() ? program::parse_dim(json.get<std::string>(), symbols) : Dim(0);
  if (!json.is_string() || !dim.ok()) return malformed("a number or a multiple of symbols as a dimension", json);
  return dim;
}

Result<Shape> parse_shape(const Json& json, const Symbols& symbols, size_t most = static_cast<size_t>(program::kMaxRank)) {
  if (!json.is_array() || json.size() > most) return malformed(fmt::format("a shape of at most {} sizes", most), json);
  Shape shape;
  for (const Json& item : json) {
    BITLAB_TRY(const Dim dim, dim_of(item, symbols));
    shape.push_back(dim);
  }
  return shape;
}

Result<Attribute> parse_attribute(const Json& json, const Symbols& symbols) {
  if (is_int64(json)) return Attribute(json.get<int64_t>());
  if (json.is_string()) return Attribute(json.get<std::string>());
  if (json.is_number_float()) return Attribute(json.get<double>());
  if (json.is_object() && json.size() == 1 && json.contains("shape")) {
    BITLAB_TRY(Shape shape, parse_shape(json["shape"], symbols, kMaxList));
    return Attribute(std::move(shape));
  }
  if (json.is_array() && json.size() <= static_cast<size_t>(program::kMaxRank) &&
      std::all_of(json.begin(), json.end(), is_int64))
    return Attribute(json.get<Sizes>());
  return malformed("a number, at most 8 integers, a text or a shape as an attribute", json);
}

// Reads the members of the graph into a program, resolving names.
class Reader {
 public:
  Status symbols(const Json& list) {
    parsed_.program.symbols.clear();
    return each(list, [&](const Json& json) -> Status {
      BITLAB_TRY(std::string name, name_of(json));
      const Json min = json.value("min", Json(parsed_.program.symbols.empty() ? 0 : 1)),
                 max = json.value("max", Json(program::kMaxElements)), context = json.value("context", Json(false));
      if (!is_int64(min) || !is_int64(max) || !context.is_boolean())
        return malformed("integers as the range of a symbol, and whether it is the context", json);
      if (parsed_.program.symbols.size() == program::kMaxSymbols)
        return malformed(fmt::format("at most {} symbols", program::kMaxSymbols), json);
      parsed_.program.symbols.push_back({std::move(name), min.get<int64_t>(), max.get<int64_t>(), context.get<bool>()});
      return {};
    });
  }

  Status inputs(const Json& list) {
    return each(list, [&](const Json& json) -> Status {
      BITLAB_TRY(const ValueId id, declare(json, ValueKind::kInput));
      parsed_.program.inputs.push_back(id);
      return {};
    });
  }

  Status states(const Json& list) {
    return each(list, [&](const Json& json) -> Status {
      BITLAB_TRY(const ValueId id, declare(json, ValueKind::kState));
      parsed_.program.states.push_back(id);
      return {};
    });
  }

  Status constants(const Json& list) {
    return each(list, [&](const Json& json) -> Status {
      BITLAB_TRY(const ValueId id, declare(json, ValueKind::kConstant));
      Value& v = parsed_.program.values[static_cast<size_t>(id)];
      if (!is_valid(v.shape) || !is_fixed(v.shape)) return malformed("positive sizes of a constant", json["shape"]);
      BITLAB_TRY(v.storage, text_of(json, "storage", "plain", program::parse_storage));
      ConstantPlan plan{id, 0, false, 0};
      if (v.storage == Storage::kTernary || v.storage == Storage::kInt8) BITLAB_RETURN_IF_ERROR(scales_of(json, plan));
      if (v.storage == Storage::kInt8 && (plan.group != 0 || plan.asymmetric))
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
      BITLAB_TRY(std::string name, name_of(json));
      BITLAB_TRY(const ValueId id, resolve(json.value("value", Json())));
      parsed_.program.outputs.push_back({std::move(name), id});
      return {};
    });
  }

  ParsedGraph finish() { return std::move(parsed_); }

 private:
  static Status scales_of(const Json& json, ConstantPlan& plan) {
    const Json scales = json.value("scales", Json(0U)), group = json.value("group", Json(0U)),
               asymmetric = json.value("asymmetric", Json(false));
    if (!scales.is_number_unsigned() || !is_int64(scales) || !group.is_number_unsigned() || !asymmetric.is_boolean())
      return malformed("numbers of scales and of k in a group", json);
    if (group != 0U && group != 64U && group != 128U && group != 256U) return malformed("groups of 64, 128 or 256", group);
    plan = {plan.value, scales.get<int64_t>(), asymmetric.get<bool>(), group.get<int64_t>()};
    return {};
  }

  template <class Function>
  Status each(const Json& list, Function function) {
    if (!list.is_array()) return malformed("lists of symbols, inputs, states, constants, nodes and outputs", list);
    for (const Json& item : list) BITLAB_RETURN_IF_ERROR(function(item));
    return {};
  }

  Result<std::string> name_of(const Json& json) {
    if (!json.is_object() || !json.contains("name") || !json["name"].is_string())
      return malformed("a name for each entry", json);
    return json["name"].get<std::string>();
  }

  // A text that stands for one of a few things.
  template <class Parse>
  static auto text_of(const Json& json, const char* key, const char* fallback, Parse parse)
      -> decltype(parse(std::string_view())) {
    const Json text = json.value(key, Json(fallback));
    if (!text.is_string()) return malformed(fmt::format("a text as {}", key), text);
    auto parsed = parse(text.template get<std::string>());
    if (!parsed.ok()) return make_error(ErrorCode::kCorrupt, "{}", parsed.error().message);
    return parsed;
  }

  Result<ValueId> define(Value value) {
    const auto id = static_cast<ValueId>(parsed_.program.values.size());
    if (!ids_.emplace(value.name, id).second) return malformed("a name that stands for one value", value.name);
    parsed_.program.values.push_back(std::move(value));
    return id;
  }

  Result<ValueId> declare(const Json& json, ValueKind kind) {
    BITLAB_TRY(std::string name, name_of(json));
    BITLAB_TRY(Shape shape, parse_shape(json.contains("shape") ? json["shape"] : Json(), parsed_.program.symbols));
    BITLAB_TRY(const DType dtype, text_of(json, "dtype", "float32", program::parse_dtype));
    return define({{dtype, std::move(shape)}, std::move(name), kind, Storage::kPlain});
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
      BITLAB_TRY(node.attributes[key], parse_attribute(value, parsed_.program.symbols));
    }
    BITLAB_TRY(node.exactness,
               text_of(json, "exactness", std::string(program::name(program::schema(node.op).exactness)).c_str(),
                       program::parse_exactness));
    complete(node);
    BITLAB_RETURN_IF_ERROR(verify_schema(parsed_.program, node));
    BITLAB_TRY(std::vector<program::TensorType> types, infer_types(parsed_.program, node));
    for (size_t i = 0; i < types.size(); ++i) {
      BITLAB_TRY(const ValueId id,
                 define({std::move(types[i]), program::output_name(name, i), ValueKind::kResult, Storage::kPlain}));
      node.outputs.push_back(id);
    }
    parsed_.program.nodes.push_back(std::move(node));
    return {};
  }

  ParsedGraph parsed_;
  std::unordered_map<std::string, ValueId> ids_;
};

}  // namespace

std::string graph_to_json(const Program& p) {
  Json symbols = Json::array(), inputs = Json::array(), states = Json::array(), constants = Json::array(),
       nodes = Json::array(), outputs = Json::array();
  for (const Symbol& symbol : p.symbols) symbols.push_back(symbol_to_json(symbol, symbols.empty() ? 0 : 1));
  for (ValueId id : p.inputs) inputs.push_back(value_to_json(p, p.value(id)));
  for (ValueId id : p.states) states.push_back(value_to_json(p, p.value(id)));
  for (const program::Constant& constant : p.constants) constants.push_back(constant_to_json(p, constant));
  for (const Node& node : p.nodes) nodes.push_back(node_to_json(p, node));
  for (const program::Output& output : p.outputs)
    outputs.push_back({{"name", output.name}, {"value", p.value(output.value).name}});
  return json_text({{"symbols", symbols},
                    {"inputs", inputs},
                    {"states", states},
                    {"constants", constants},
                    {"nodes", nodes},
                    {"outputs", outputs}});
}

Result<ParsedGraph> graph_from_json(std::string_view text) {
  BITLAB_TRY(const Json json, parse_json(text, "bit"));
  if (!json.is_object()) return malformed("a JSON object", json);
  for (const char* key : {"symbols", "inputs", "states", "constants", "nodes", "outputs"})
    if (!json.contains(key)) return malformed("lists of symbols, inputs, states, constants, nodes and outputs", json);
  Reader reader;
  BITLAB_RETURN_IF_ERROR(reader.symbols(json["symbols"]));
  BITLAB_RETURN_IF_ERROR(reader.inputs(json["inputs"]));
  BITLAB_RETURN_IF_ERROR(reader.states(json["states"]));
  BITLAB_RETURN_IF_ERROR(reader.constants(json["constants"]));
  BITLAB_RETURN_IF_ERROR(reader.nodes(json["nodes"]));
  BITLAB_RETURN_IF_ERROR(reader.outputs(json["outputs"]));
  return reader.finish();
}

}  // namespace bitlab::format::bit
