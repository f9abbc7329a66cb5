#include "bitlab/config/io.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include <nlohmann/json.hpp>
#include <yaml-cpp/yaml.h>

#include "bitlab/base/file.h"
#include "bitlab/base/json_depth.h"
#include "bitlab/base/nearest.h"
#include "bitlab/config/visit.h"

namespace bitlab::config {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
struct IsOptional : std::false_type {};
template <class T>
struct IsOptional<std::optional<T>> : std::true_type {};

template <class T>
struct IsVector : std::false_type {};
template <class T>
struct IsVector<std::vector<T>> : std::true_type {};

constexpr std::string_view kNone = "none";
constexpr int kMaxNodes = 10'000;

template <class T>
Json encode(const T& value) {
  if constexpr (Visitable<T>) {
    Json object = Json::object();
    T::visit(value, [&](const char* key, const auto& field, const char*) { object[key] = encode(field); });
    return object;
  } else if constexpr (IsOptional<T>::value) {
    return value ? encode(*value) : Json(kNone);
  } else if constexpr (std::is_enum_v<T>) {
    return name(value);
  } else if constexpr (IsVector<T>::value) {
    Json list = Json::array();
    for (const auto& item : value) list.push_back(encode(item));
    return list;
  } else if constexpr (std::is_same_v<T, Overrides>) {
    Json object = Json::object();
    for (const auto& [key, text] : value) object[key] = text;
    return object;
  } else {
    return value;
  }
}

Error unknown_key(const std::string& path, const std::string& key, const std::vector<std::string>& known) {
  return make_error(ErrorCode::kUnknownName, "[config] a known key, got '{}{}'; did you mean '{}'?", path, key,
                    *nearest(key, known));
}

Error wrong_type(const std::string& path, std::string_view expected, const Json& found) {
  return make_error(ErrorCode::kTypeMismatch, "[config] {} for '{}', got {}", expected, path,
                    found.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 80));
}

template <class T>
Status decode(const Json& json, const std::string& path, T& value);

template <class T>
Status decode_object(const Json& json, const std::string& path, T& value) {
  if (!json.is_object()) return wrong_type(path, "a mapping", json);
  const std::string prefix = path.empty() ? "" : path + ".";
  std::vector<std::string> known;
  Status status;
  T::visit(value, [&](const char* key, auto& field, const char*) {
    known.emplace_back(key);
    if (status.ok() && json.contains(key)) status = decode(json[key], prefix + key, field);
  });
  BITLAB_RETURN_IF_ERROR(std::move(status));
  for (const auto& [key, unused] : json.items())
    if (std::find(known.begin(), known.end(), key) == known.end()) return unknown_key(prefix, key, known);
  return {};
}

template <class T>
Status decode(const Json& json, const std::string& path, T& value) {
  if constexpr (Visitable<T>) {
    return decode_object(json, path, value);
  } else if constexpr (IsOptional<T>::value) {
    if (json == kNone) {
      value.reset();
      return {};
    }
    typename T::value_type inner{};
    BITLAB_RETURN_IF_ERROR(decode(json, path, inner));
    value = inner;
  } else if constexpr (IsVector<T>::value) {
    if (!json.is_array()) return wrong_type(path, "a list", json);
    value.clear();
    for (const Json& item : json) {
      const std::string item_path = path + "[" + std::to_string(value.size()) + "]";
      BITLAB_RETURN_IF_ERROR(decode(item, item_path, value.emplace_back()));
    }
  } else if constexpr (std::is_same_v<T, Overrides>) {
    if (!json.is_object()) return wrong_type(path, "a mapping", json);
    value.clear();
    for (const auto& [key, item] : json.items()) {
      if (!item.is_primitive() || item.is_null()) return wrong_type(path + "." + key, "a name or a number", item);
      value[key] = item.is_string() ? item.template get<std::string>() : item.dump();
    }
  } else if constexpr (std::is_enum_v<T>) {
    if (!json.is_string()) return wrong_type(path, "a name", json);
    if (Status status = parse(json.template get<std::string>(), value); !status.ok())
      return make_error(status.error().code, "{} (key={})", status.error().message, path);
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!json.is_boolean()) return wrong_type(path, "true or false", json);
    value = json.template get<bool>();
  } else if constexpr (std::is_same_v<T, int64_t>) {
    const bool fits = json.is_number_integer() &&
                      !(json.is_number_unsigned() &&
                        json.template get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
    if (!fits) return wrong_type(path, "a 64-bit integer", json);
    value = json.template get<int64_t>();
  } else if constexpr (std::is_same_v<T, double>) {
    if (!json.is_number()) return wrong_type(path, "a number", json);
    value = json.template get<double>();
  } else {
    static_assert(std::is_same_v<T, std::string>);
    if (!json.is_string()) return wrong_type(path, "a text", json);
    value = json.template get<std::string>();
  }
  return {};
}

// A plain scalar gets the type that JSON would give it.
Json plain_scalar(const std::string& text) {
  if (text == "true" || text == "false") return text == "true";
  Json number = Json::parse(text, nullptr, false);
  return number.is_number() ? number : Json(text);
}

// `budget` bounds the nodes in all: aliases let a short file stand for a tree of any size.
Result<Json> from_node(const YAML::Node& node, int depth, int& budget) {
  constexpr int kMaxDepth = 32;
  if (depth > kMaxDepth) return make_error(ErrorCode::kCorrupt, "[config] nesting up to {}, got more", kMaxDepth);
  if (--budget < 0) return make_error(ErrorCode::kCorrupt, "[config] at most {} values, got more", kMaxNodes);
  if (node.IsScalar()) return node.Tag() == "!" ? Json(node.Scalar()) : plain_scalar(node.Scalar());  // "!": it was quoted
  if (node.IsMap()) {
    Json object = Json::object();
    for (const auto& item : node) {
      if (!item.first.IsScalar()) return make_error(ErrorCode::kCorrupt, "[config] keys that are names, got another");
      BITLAB_TRY(object[item.first.Scalar()], from_node(item.second, depth + 1, budget));
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

void emit(YAML::Emitter& out, const Json& json) {
  if (json.is_array()) {
    out << YAML::BeginSeq;
    for (const Json& item : json) emit(out, item);
    out << YAML::EndSeq;
    return;
  }
  if (!json.is_object()) {
    // Text that a reader would take for a number or a truth value, or that is empty, is quoted.
    const bool quote = json.is_string() && (json.get<std::string>().empty() ||
                                            !Json::parse(json.get<std::string>(), nullptr, false).is_discarded());
    if (quote) out << YAML::DoubleQuoted;
    out << (json.is_string() ? json.get<std::string>() : json.dump());
    return;
  }
  out << YAML::BeginMap;
  for (const auto& [key, value] : json.items()) {
    out << YAML::Key << key << YAML::Value;
    emit(out, value);
  }
  out << YAML::EndMap;
}

template <class Config>
Result<Config> from_tree(const Json& json) {
  Config config;
  BITLAB_RETURN_IF_ERROR(decode(json, "", config));
  return config;
}

Result<bool> is_yaml(const std::filesystem::path& path) {
  const std::string ending = path.extension();
  if (ending == ".yaml" || ending == ".yml") return true;
  if (ending == ".json") return false;
  return make_error(ErrorCode::kInvalidArgument, "[config] a path that ends in .json, .yaml or .yml, got '{}'",
                    path.string());
}

}  // namespace

template <class Config>
std::string to_json(const Config& config) {
  return encode(config).dump(2) + "\n";
}

template <class Config>
std::string to_yaml(const Config& config) {
  YAML::Emitter out;
  emit(out, encode(config));
  return std::string(out.c_str()) + "\n";
}

template <class Config>
Result<Config> from_json(std::string_view text) {
  if (json_depth(text) > kMaxJsonDepth)
    return make_error(ErrorCode::kCorrupt, "[config] nesting up to {}, got more", kMaxJsonDepth);
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return make_error(ErrorCode::kCorrupt, "[config] JSON, got text that is not");
  return from_tree<Config>(json);
}

template <class Config>
Result<Config> from_yaml(std::string_view text) {
  YAML::Node node;
  try {
    node = YAML::Load(std::string(text));
  } catch (const YAML::Exception& error) {
    return make_error(ErrorCode::kCorrupt, "[config] YAML, got '{}' (line={})", error.msg, error.mark.line + 1);
  }
  if (node.IsNull()) return Config{};
  int budget = kMaxNodes;
  BITLAB_TRY(const Json json, from_node(node, 0, budget));
  return from_tree<Config>(json);
}

template <class Config>
Result<Config> load(const std::filesystem::path& path) {
  BITLAB_TRY(const bool yaml, is_yaml(path));
  BITLAB_TRY(const std::string text, read_file(path));
  Result<Config> config = yaml ? from_yaml<Config>(text) : from_json<Config>(text);
  if (!config.ok()) return make_error(config.error().code, "{} (path={})", config.error().message, path.string());
  return config;
}

template <class Config>
Status save(const Config& config, const std::filesystem::path& path) {
  BITLAB_TRY(const bool yaml, is_yaml(path));
  return write_file_atomic(path, std::string_view(yaml ? to_yaml(config) : to_json(config)));
}

template <class Config>
Status apply(const Overrides& overrides, Config& config) {
  Json json = Json::object();
  for (const auto& [key, text] : overrides) json[key] = plain_scalar(text);
  return decode(json, "", config);
}

template <class T>
Status assign(std::string_view text, std::string_view name, T& field) {
  const std::string copy(text);
  return decode(std::is_same_v<T, std::string> ? Json(copy) : plain_scalar(copy), std::string(name), field);
}

template <class T>
std::string to_text(const T& field) {
  const Json json = encode(field);
  return json.is_string() ? json.get<std::string>() : json.dump();
}

#define BITLAB_INSTANTIATE(T)                                           \
  template Status assign(std::string_view, std::string_view, T& field); \
  template std::string to_text(const T&)
BITLAB_INSTANTIATE(bool);
BITLAB_INSTANTIATE(int64_t);
BITLAB_INSTANTIATE(double);
BITLAB_INSTANTIATE(std::string);
BITLAB_INSTANTIATE(Optimizer);
BITLAB_INSTANTIATE(Schedule);
BITLAB_INSTANTIATE(std::optional<ternary::Method>);
BITLAB_INSTANTIATE(ternary::Granularity);
BITLAB_INSTANTIATE(ternary::Gradient);
BITLAB_INSTANTIATE(ternary::ActKind);
BITLAB_INSTANTIATE(ternary::Sparsity);
BITLAB_INSTANTIATE(ternary::Rounding);
#undef BITLAB_INSTANTIATE

#define BITLAB_INSTANTIATE(Config)                                    \
  template std::string to_json(const Config&);                        \
  template std::string to_yaml(const Config&);                        \
  template Result<Config> from_json<Config>(std::string_view);        \
  template Result<Config> from_yaml<Config>(std::string_view);        \
  template Result<Config> load<Config>(const std::filesystem::path&); \
  template Status save(const Config&, const std::filesystem::path&)
BITLAB_INSTANTIATE(BitQuantConfig);
BITLAB_INSTANTIATE(ModelConfig);
BITLAB_INSTANTIATE(DataConfig);
BITLAB_INSTANTIATE(TrainingConfig);
BITLAB_INSTANTIATE(RunConfig);
BITLAB_INSTANTIATE(MixedPrecisionConfig);
#undef BITLAB_INSTANTIATE

template Status apply(const Overrides&, BitQuantConfig&);

}  // namespace bitlab::config
