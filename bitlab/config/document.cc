#include "bitlab/config/document.h"

#include <cmath>

#include "bitlab/base/internal/json.h"
#include "bitlab/base/match.h"
#include "bitlab/config/io.h"

namespace bitlab::config {
namespace {

// The choice on which other fields depend; null where there is none.
const Choice* selector(const Fields& fields) {
  for (const Field& field : fields)
    if (field.selects) return std::get_if<Choice>(&field.value.at);
  return nullptr;
}

// Calls visit(name) with each name chosen, and chooses again what was chosen before.
template <class Visit>
void for_each_name(const Choice& choice, Visit visit) {
  const std::string before = choice.get();
  for (const std::string& name : choice.names())
    if (choice.set(name).ok()) visit(name);
  static_cast<void>(choice.set(before));
}

// Calls visit(value) with an item of the list as it begins.
template <class Visit>
void with_item(const List& list, Visit visit) {
  const std::string before = to_text({list});
  list.clear();
  list.append();
  visit(list.value(0));
  static_cast<void>(assign(before, "list", {list}));
}

// --- paths

void add_paths(const Table& table, const std::string& prefix, std::vector<PathInfo>& paths) {
  const auto add = [&](const Field& field) {
    const std::string path = prefix + field.name;
    if (const auto* part = std::get_if<Table>(&field.value.at); part != nullptr) return add_paths(*part, path + ".", paths);
    for (const PathInfo& known : paths)
      if (known.path == path) return;
    paths.push_back({path, type_text(field.value, field.range), field.help, field.selects});
  };
  const Fields fields = table();
  const Choice* choice = selector(fields);
  for (const Field& field : fields) add(field);
  if (choice == nullptr) return;
  for_each_name(*choice, [&](const std::string&) {
    for (const Field& field : table()) add(field);
  });
}

// --- an example

// Lines of words, each behind `begin`, none much longer than `width`.
std::string wrapped(std::string_view text, const std::string& begin, size_t width) {
  std::string lines, line = begin;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(' ', at), text.size());
    const std::string_view word = text.substr(at, end - at);
    if (line.size() > begin.size() && line.size() + 1 + word.size() > width) {
      lines += line + "\n";
      line = begin;
    }
    line.append(line.size() > begin.size() ? " " : "").append(word);
    at = end + 1;
  }
  return lines + line + "\n";
}

// A value on one line of YAML: JSON, but for names.
std::string inline_text(const Value& value) {
  const std::string text = to_text(value);
  const bool is_quoted = std::holds_alternative<std::string*>(value.at) || text.find(':') == 1;
  return is_quoted ? json_text(Json(text)) : text;
}

struct ExampleWriter {
  static constexpr size_t kWidth = 100;
  std::string text{};

  void write(const Table& table, const std::string& indent) {
    const Fields fields = table();
    for (const Field& field : fields) write(field, indent);
    const Choice* choice = selector(fields);
    if (choice == nullptr) return;
    const std::string chosen = choice->get();
    for_each_name(*choice, [&](const std::string& name) {
      if (name == chosen) return;
      text += fmt::format("{}# With {} instead:\n", indent, name);
      for (const Field& field : table())
        if (!field.selects) write(field, indent + "# ");
    });
  }

  void write(const Field& field, const std::string& indent) {
    if (const auto* part = std::get_if<Table>(&field.value.at); part != nullptr) {
      text += wrapped(field.help, indent + "# ", kWidth) + indent + field.name + ":\n";
      write(*part, indent + "  ");
      if (indent.empty()) text += "\n";
      return;
    }
    text += wrapped(fmt::format("{} ({})", field.help, type_text(field.value, field.range)), indent + "# ", kWidth);
    if (const auto* list = std::get_if<List>(&field.value.at); list != nullptr) write_items(*list, indent);
    text += fmt::format("{}{}: {}\n", indent, field.name, inline_text(field.value));
  }

  // What an item of a list of parts has, as a comment.
  void write_items(const List& list, const std::string& indent) {
    with_item(list, [&](const Value& item) {
      const auto* part = std::get_if<Table>(&item.at);
      if (part == nullptr) return;
      text += indent + "# Each has, as it begins:\n";
      write(*part, indent + "#   ");
    });
  }
};

// --- a schema

Json schema_of(const Value& value, const Range& range);

Json number_schema(const char* type, const Range& range) {
  Json schema{{"type", type}};
  if (!std::isinf(range.least)) schema[range.has_least ? "minimum" : "exclusiveMinimum"] = range.least;
  if (!std::isinf(range.most)) schema[range.has_most ? "maximum" : "exclusiveMaximum"] = range.most;
  return schema;
}

Json properties_of(const Fields& fields) {
  Json properties = Json::object();
  for (const Field& field : fields) {
    Json schema = schema_of(field.value, field.range);
    schema["description"] = field.help;
    const bool is_part = std::holds_alternative<Table>(field.value.at);
    const Result<Json> value = parse_json(to_text(field.value), "config");
    if (!is_part) schema["default"] = value.ok() && !value->is_string() ? *value : Json(to_text(field.value));
    if (std::holds_alternative<std::string*>(field.value.at)) schema["default"] = to_text(field.value);
    properties[field.name] = std::move(schema);
  }
  return properties;
}

Json table_schema(const Table& table) {
  const auto object = [](Json properties) {
    return Json{{"type", "object"}, {"properties", std::move(properties)}, {"additionalProperties", false}};
  };
  const Fields fields = table();
  const Choice* choice = selector(fields);
  if (choice == nullptr) return object(properties_of(fields));
  Json alternatives = Json::array();
  const std::string standard = choice->get();
  for_each_name(*choice, [&](const std::string& name) {
    const Fields own = table();
    Json alternative = object(properties_of(own));
    for (const Field& field : own) {
      if (!field.selects) continue;
      alternative["properties"][field.name] = {{"const", name}, {"description", field.help}};
      if (name != standard) alternative["required"] = Json::array({field.name});
    }
    alternatives.push_back(std::move(alternative));
  });
  return {{"oneOf", std::move(alternatives)}};
}

Json schema_of(const Value& value, const Range& range) {
  return std::visit(
      Match{[](const bool*) {
              return Json{{"type", "boolean"}};
            },
            [&](const int64_t*) { return number_schema("integer", range); },
            [&](const double*) { return number_schema("number", range); },
            [](const std::string*) {
              return Json{{"type", "string"}};
            },
            [](const Overrides*) {
              return Json{{"type", "object"}, {"additionalProperties", {{"type", {"string", "number", "boolean"}}}}};
            },
            [](const Choice& choice) {
              return Json{{"enum", choice.names()}};
            },
            [&](const List& list) {
              Json items;
              with_item(list, [&](const Value& item) { items = schema_of(item, range); });
              return Json{{"type", "array"}, {"items", std::move(items)}};
            },
            [](const Table& table) { return table_schema(table); }},
      value.at);
}

}  // namespace

std::string type_text(const Value& value, const Range& range) {
  const std::string ends = to_text(range).empty() ? "" : " " + to_text(range);
  return std::visit(
      Match{[](const bool*) { return std::string("BOOL"); }, [&](const int64_t*) { return "INT" + ends; },
            [&](const double*) { return "FLOAT" + ends; }, [](const std::string*) { return std::string("TEXT"); },
            [](const Overrides*) { return std::string("MAP"); }, [](const Choice&) { return std::string("NAME"); },
            [](const List&) { return std::string("LIST"); }, [](const Table&) { return std::string("MAP"); }},
      value.at);
}

std::vector<PathInfo> paths_of(const Table& config) {
  std::vector<PathInfo> paths;
  add_paths(config, "", paths);
  return paths;
}

std::string write_example(const Table& config, std::string_view heading) {
  ExampleWriter writer{wrapped(heading, "# ", ExampleWriter::kWidth) + "\n"};
  writer.write(config, "");
  return writer.text;
}

std::string write_schema(const Table& config, std::string_view title) {
  Json schema{{"$schema", "http://json-schema.org/draft-07/schema#"}, {"title", title}};
  schema.update(table_schema(config));
  return json_text(schema, 2) + "\n";
}

}  // namespace bitlab::config
