// What a config may hold, told to people and to editors, from what visit() lists.
//
// The functions over a Table try choices and list items out on the config that it is about, which must be a copy; the templates make one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bitlab/config/fields.h"

namespace bitlab::config {

// What a value is: "INT in [1, inf)", "FLOAT in [0, 1]", "BOOL", "NAME" of a closed set, "TEXT", "MAP", "LIST".
std::string type_text(const Value& value, const Range& range);

struct PathInfo {
  std::string path;  // "train.epochs"
  std::string type, help;
  bool selects = false;  // other paths exist or not by its value
};
// Every path that assign_at() takes, but for those of whole parts: of each architecture, where there is a choice of them.
std::vector<PathInfo> paths_of(const Table& config);

// A commented YAML file with every field, its help, its type and what the config has for it; `heading` stands above, a comment, too.
std::string write_example(const Table& config, std::string_view heading);

// A JSON schema (draft 7) of files that read_file() takes.
std::string write_schema(const Table& config, std::string_view title);

template <Config T>
std::vector<PathInfo> paths_of(T config) {
  return paths_of(table_of(config));
}
template <Config T>
std::string example(T config, std::string_view heading) {
  return write_example(table_of(config), heading);
}
template <Config T>
std::string schema(T config, std::string_view title) {
  return write_schema(table_of(config), title);
}

}  // namespace bitlab::config
