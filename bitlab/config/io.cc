#include "bitlab/config/io.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <yaml-cpp/yaml.h>

#include "bitlab/base/file.h"
#include "bitlab/base/internal/json.h"
#include "bitlab/base/internal/nearest.h"
#include "bitlab/base/match.h"

namespace bitlab::config {
namespace {

constexpr int kMaxNodes = 10'000;

// A key of a mapping, as errors name it.
std::string below(const std::string& path, const std::string& key) { return path.empty() ? key : path + "." + key; }
std::string below(const std::string& path, size_t index) { return fmt::format("{}[{}]", path, index); }

// --- from a config

Json encode(const Value& value);

Json encode(const Fields& fields) {
  Json object = Json::object();
  for (const Field& field : fields) object[field.name] = encode(field.value);
  return object;
}

Json encode(const List& list) {
  Json array = Json::array();
  for (size_t i = 0; i < list.size(); ++i) array.push_back(encode(list.value(i)));
  return array;
}

Json encode(const Value& value) {
  return std::visit(
      Match{[](const auto* scalar) { return Json(*scalar); }, [](const Choice& choice) { return Json(choice.get()); },
            [](const List& list) { return encode(list); }, [](const Table& table) { return encode(table()); }},
      value.at);
}

// --- into a config

Error unknown_key(const std::string& path, const std::string& key, const std::vector<std::string>& known) {
  return make_error(ErrorCode::kUnknownName, "[config] a known key, got '{}'; did you mean '{}'?", below(path, key),
                    *nearest(key, known));
}

Error unexpected(ErrorCode code, const std::string& path, const std::string& expected, const Json& found) {
  const std::string place = path.empty() ? "the whole" : "'" + path + "'";
  return make_error(code, "[config] {} for {}, got {}", expected, place, json_excerpt(found));
}

Error wrong_type(const std::string& path, const std::string& expected, const Json& found) {
  return unexpected(ErrorCode::kTypeMismatch, path, expected, found);
}

std::vector<std::string> names_of(const Fields& fields) {
  std::vector<std::string> names;
  for (const Field& field : fields) names.push_back(field.name);
  return names;
}

const Field* find(const Fields& fields, std::string_view name) {
  const auto found = std::find_if(fields.begin(), fields.end(), [name](const Field& f) { return f.name == name; });
  return found == fields.end() ? nullptr : &*found;
}

// What reads one JSON value into a field.
struct Decoder {
  const Json& json;
  const std::string& path;
  const Range& range;
  std::string& wrong;  // the path of what an error is about

  static Status decode(const Json& json, const std::string& path, const Value& value, const Range& range,
                       std::string& wrong) {
    Status status = std::visit(Decoder{json, path, range, wrong}, value.at);
    if (!status.ok() && wrong.empty()) wrong = path;
    return status;
  }
  Status decode(const std::string& key, const Field& field) const {
    return decode(json[key], below(path, key), field.value, field.range, wrong);
  }

  Status operator()(bool* value) const {
    if (!json.is_boolean()) return wrong_type(path, "true or false", json);
    *value = json.get<bool>();
    return {};
  }
  template <class T>
  Status number(T* value, const std::string& kind) const {
    if (!range.contains(json.get<double>()))
      return unexpected(ErrorCode::kInvalidArgument, path, kind + " " + to_text(range), json);
    *value = json.get<T>();
    return {};
  }
  Status operator()(int64_t* value) const {
    if (!is_int64(json)) return wrong_type(path, "a 64-bit integer", json);
    return number(value, "a 64-bit integer");
  }
  Status operator()(double* value) const {
    if (!json.is_number()) return wrong_type(path, "a number", json);
    return number(value, "a number");
  }
  Status operator()(std::string* value) const {
    if (!json.is_string()) return wrong_type(path, "a text", json);
    *value = json.get<std::string>();
    return {};
  }
  Status operator()(Overrides* value) const {
    if (!json.is_object()) return wrong_type(path, "a mapping", json);
    value->clear();
    for (const auto& [key, item] : json.items()) {
      if (!item.is_primitive() || item.is_null()) {
        wrong = below(path, key);
        return wrong_type(wrong, "a name or a number", item);
      }
      (*value)[key] = item.is_string() ? item.get<std::string>() : json_text(item);
    }
    return {};
  }
  Status operator()(const Choice& choice) const {
    if (!json.is_string()) return wrong_type(path, "a name", json);
    if (Status status = choice.set(json.get<std::string>()); !status.ok())
      return make_error(status.error().code, "{} (key={})", status.error().message, path);
    return {};
  }
  Status operator()(const List& list) const {
    if (!json.is_array()) return wrong_type(path, "a list", json);
    list.clear();
    for (size_t i = 0; i < json.size(); ++i) {
      list.append();
      BITLAB_RETURN_IF_ERROR(decode(json[i], below(path, i), list.value(i), range, wrong));
    }
    return {};
  }
  Status operator()(const Table& table) const {
    if (!json.is_object()) return wrong_type(path, "a mapping", json);
    for (const Field& field : table())
      if (field.selects && json.contains(field.name)) BITLAB_RETURN_IF_ERROR(decode(field.name, field));
    const Fields fields = table();  // those of what was selected
    for (const Field& field : fields)
      if (!field.selects && json.contains(field.name)) BITLAB_RETURN_IF_ERROR(decode(field.name, field));
    for (const auto& [key, unused] : json.items())
      if (find(fields, key) == nullptr) {
        wrong = below(path, key);
        return unknown_key(path, key, names_of(fields));
      }
    return {};
  }
};

Status decode(const Json& json, const std::string& path, const Value& value, const Range& range = {}) {
  std::string wrong;
  return Decoder::decode(json, path, value, range, wrong);
}

// --- YAML

// A plain scalar gets the type that JSON would give it.
Json plain_scalar(const std::string& text) {
  if (text == "true" || text == "false") return text == "true";
  const Result<Json> number = parse_json(text, "config");
  return number.ok() && number->is_number() ? *number : Json(text);
}

std::string_view kind_of(const YAML::Node& node) {
  return node.IsMap() ? "a mapping" : node.IsSequence() ? "a list" : "nothing";
}

// `budget` bounds the nodes in all: aliases let a short file stand for a tree of any size.
Result<Json> from_node(const YAML::Node& node, int depth, int& budget) {
  constexpr int kMaxDepth = 32;
  if (depth > kMaxDepth) return make_error(ErrorCode::kCorrupt, "[config] nesting up to {}, got {}", kMaxDepth, depth);
  if (--budget < 0)
    return make_error(ErrorCode::kCorrupt, "[config] at most {} values, got {} or more", kMaxNodes, kMaxNodes + 1);
  if (node.IsScalar()) return node.Tag() == "!" ? Json(node.Scalar()) : plain_scalar(node.Scalar());  // "!": it was quoted
  if (node.IsMap()) {
    Json object = Json::object();
    for (const auto& item : node) {
      if (!item.first.IsScalar())
        return make_error(ErrorCode::kCorrupt, "[config] keys that are names, got {}", kind_of(item.first));
      const std::string key = item.first.Scalar();
      if (object.contains(key))
        return make_error(ErrorCode::kCorrupt, "[config] each key once, got '{}' twice (line={})", key,
                          item.first.Mark().line + 1);
      BITLAB_TRY(object[key], from_node(item.second, depth + 1, budget));
    }
    return object;
  }
  if (node.IsSequence()) {
    Json array = Json::array();
    for (const auto& item : node) {
      BITLAB_TRY(Json element, from_node(item, depth + 1, budget));
      array.push_back(std::move(element));
    }
    return array;
  }
  return Json(nullptr);
}

Result<Json> parse_yaml(std::string_view text) {
  YAML::Node node;
  try {
    node = YAML::Load(std::string(text));
  } catch (const YAML::Exception& error) {
    return make_error(ErrorCode::kCorrupt, "[config] YAML, got '{}' (line={})", error.msg, error.mark.line + 1);
  }
  if (node.IsNull()) return Json::object();
  int budget = kMaxNodes;
  return from_node(node, 0, budget);
}

// The line of what lies at a path as errors name it; 0 where that is not to be found. Of a key of a mapping: the key's.
int line_in(const YAML::Node& node, const std::string& path, const std::string& searched, int depth) {
  constexpr int kDeepest = 32;
  if (depth > kDeepest || !searched.starts_with(path)) return 0;
  const auto search = [&](const YAML::Node& child, const std::string& at, const YAML::Mark& mark) {
    return at == searched ? mark.line + 1 : line_in(child, at, searched, depth + 1);
  };
  size_t index = 0;
  for (const auto& item : node) {
    const bool is_key = node.IsMap() && item.first.IsScalar();
    const int line = is_key ? search(item.second, below(path, item.first.Scalar()), item.first.Mark())
                            : search(item, below(path, index), item.Mark());
    if (line != 0) return line;
    ++index;
  }
  return 0;
}

// Of a text that was read: JSON is YAML, too, as far as lines go.
int line_of(std::string_view text, const std::string& path) {
  try {
    return line_in(YAML::Load(std::string(text)), "", path, 0);
  } catch (const YAML::Exception&) {
    return 0;
  }
}

void emit(YAML::Emitter& out, const Json& json) {
  if (json.is_array()) {
    out << YAML::BeginSeq;
    for (const Json& item : json) emit(out, item);
    out << YAML::EndSeq;
    return;
  }
  if (!json.is_object()) {
    // Text that a reader would take for a number or a truth value, or that is empty, is quoted.
    const bool quote =
        json.is_string() && (json.get<std::string>().empty() || parse_json(json.get<std::string>(), "config").ok());
    if (quote) out << YAML::DoubleQuoted;
    out << (json.is_string() ? json.get<std::string>() : json_text(json));
    return;
  }
  out << YAML::BeginMap;
  for (const auto& [key, value] : json.items()) {
    out << YAML::Key << key << YAML::Value;
    emit(out, value);
  }
  out << YAML::EndMap;
}

Result<bool> is_yaml(const std::filesystem::path& path) {
  const std::string ending = path.extension();
  if (ending == ".yaml" || ending == ".yml") return true;
  if (ending == ".json") return false;
  return make_error(ErrorCode::kInvalidArgument, "[config] a path that ends in .json, .yaml or .yml, got '{}'",
                    path.string());
}

// The end of a range as a number that people would write.
std::string end_text(double value) { return std::isinf(value) ? (value < 0 ? "-inf" : "inf") : fmt::format("{}", value); }

Status check(const Value& value, const std::string& path, const Range& range);

Status check(const Table& table, const std::string& path) {
  for (const Field& field : table()) BITLAB_RETURN_IF_ERROR(check(field.value, below(path, field.name), field.range));
  return {};
}

Status check(const List& list, const std::string& path, const Range& range) {
  for (size_t i = 0; i < list.size(); ++i) BITLAB_RETURN_IF_ERROR(check(list.value(i), below(path, i), range));
  return {};
}

Status check(const Value& value, const std::string& path, const Range& range) {
  const auto number = [&](double found, const Json& json) -> Status {
    if (range.contains(found)) return {};
    return unexpected(ErrorCode::kInvalidArgument, path, "a number " + to_text(range), json);
  };
  return std::visit(Match{[&](int64_t* v) { return number(static_cast<double>(*v), Json(*v)); },
                          [&](double* v) { return number(*v, std::isfinite(*v) ? Json(*v) : Json(end_text(*v))); },
                          [&](const List& list) { return check(list, path, range); },
                          [&](const Table& table) { return check(table, path); }, [](const auto&) { return Status(); }},
                    value.at);
}

}  // namespace

std::string to_text(const Range& range) {
  if (std::isinf(range.least) && std::isinf(range.most)) return "";
  return fmt::format("in {}{}, {}{}", range.has_least && !std::isinf(range.least) ? '[' : '(', end_text(range.least),
                     end_text(range.most), range.has_most && !std::isinf(range.most) ? ']' : ')');
}

Status check_ranges(const Table& config) { return check(config, ""); }

std::string write_json(const Table& config) { return json_text(encode(config()), 2) + "\n"; }

std::string write_yaml(const Table& config) {
  YAML::Emitter out;
  emit(out, encode(config()));
  return std::string(out.c_str()) + "\n";
}

Status read_json(std::string_view text, const Table& config) {
  BITLAB_TRY(const Json json, parse_json(text, "config"));
  return decode(json, "", {config});
}

Status read_yaml(std::string_view text, const Table& config) {
  BITLAB_TRY(const Json json, parse_yaml(text));
  return decode(json, "", {config});
}

Status read_file(const std::filesystem::path& path, const Table& config) {
  BITLAB_TRY(const bool yaml, is_yaml(path));
  BITLAB_TRY(const std::string text, bitlab::read_file(path));
  const Result<Json> json = yaml ? parse_yaml(text) : parse_json(text, "config");
  std::string wrong;
  const Status status = json.ok() ? Decoder::decode(*json, "", {config}, {}, wrong) : Status(json.error());
  if (status.ok()) return {};
  const int line = wrong.empty() ? 0 : line_of(text, wrong);
  return make_error(status.error().code, "{} (path={}{})", status.error().message, path.string(),
                    line == 0 ? "" : fmt::format(", line={}", line));
}

Status write_file(const std::filesystem::path& path, const Table& config) {
  BITLAB_TRY(const bool yaml, is_yaml(path));
  return write_file_atomic(path, std::string_view(yaml ? write_yaml(config) : write_json(config)));
}

Status set_fields(const Overrides& overrides, const Table& config) {
  Json json = Json::object();
  for (const auto& [key, text] : overrides) json[key] = plain_scalar(text);
  return decode(json, "", {config});
}

Status assign(std::string_view text, std::string_view name, const Value& value, const Range& range) {
  const std::string copy(text);
  if (std::holds_alternative<std::string*>(value.at)) return decode(copy, std::string(name), value);
  const bool is_tree = std::holds_alternative<List>(value.at) || std::holds_alternative<Table>(value.at) ||
                       std::holds_alternative<Overrides*>(value.at);
  if (!is_tree) return decode(plain_scalar(copy), std::string(name), value, range);
  BITLAB_TRY(const Json tree, parse_yaml(text));
  return decode(tree, std::string(name), value, range);
}

std::string to_text(const Value& value) {
  const Json json = encode(value);
  return json.is_string() ? json.get<std::string>() : json_text(json);
}

Status assign_at(const Table& config, std::string_view path, std::string_view text) {
  const Fields fields = config();
  const size_t dot = path.find('.');
  const Field* field = find(fields, path.substr(0, dot));
  if (field == nullptr) return unknown_key("", std::string(path.substr(0, dot)), names_of(fields));
  if (dot == std::string_view::npos) return assign(text, path, field->value, field->range);
  const auto* table = std::get_if<Table>(&field->value.at);
  if (table == nullptr) return wrong_type(field->name, "a field without parts", Json(std::string(path)));
  if (Status status = assign_at(*table, path.substr(dot + 1), text); !status.ok())
    return make_error(status.error().code, "{} (in={})", status.error().message, field->name);
  return {};
}

}  // namespace bitlab::config
