// Configs as JSON and YAML text, and single fields as text. Keys that a file leaves out keep their defaults; unknown keys and values of another
// type are errors that name the key's path and, for an unknown key, the nearest known one.
//
// What does the work takes the fields of a config, not its type (fields.h); the templates below say only which config is meant.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "bitlab/base/result.h"
#include "bitlab/config/config.h"

namespace bitlab::config {

std::string write_json(const Table& config);
std::string write_yaml(const Table& config);

// Set the fields that the text names, and leave the others. After an error some may be set. Errors: Corrupt (not JSON or YAML; a key of YAML that
// stands twice), UnknownName (a key, a choice), TypeMismatch (a value), InvalidArgument (a number outside of its field's range).
Status read_json(std::string_view text, const Table& config);
Status read_yaml(std::string_view text, const Table& config);

// By the ending of the path: .json, .yaml or .yml. Errors as above, with the path and the line; NotFound, InvalidArgument (another ending).
Status read_file(const std::filesystem::path& path, const Table& config);
Status write_file(const std::filesystem::path& path, const Table& config);

// Whether every number lies in its field's range, of a config that a program filled. Error: InvalidArgument.
Status check_ranges(const Table& config);

// Sets the fields that `overrides` names, as in a file. Errors: UnknownName (a key, a choice), TypeMismatch, InvalidArgument.
Status set_fields(const Overrides& overrides, const Table& config);

// A single value from the text of a flag, and back. `name` stands in messages. A list and a config take YAML. Errors: TypeMismatch, UnknownName,
// InvalidArgument, Corrupt.
Status assign(std::string_view text, std::string_view name, const Value& value, const Range& range = {});
std::string to_text(const Value& value);

// The same for the field at a path, such as "model.hidden". Errors: those of assign(), UnknownName (no such field).
Status assign_at(const Table& config, std::string_view path, std::string_view text);

// The configs themselves.
template <Config T>
std::string to_json(T config) {
  return write_json(table_of(config));
}
template <Config T>
std::string to_yaml(T config) {
  return write_yaml(table_of(config));
}
template <Config T>
Result<T> from_json(std::string_view text) {
  T config;
  BITLAB_RETURN_IF_ERROR(read_json(text, table_of(config)));
  return config;
}
template <Config T>
Result<T> from_yaml(std::string_view text) {
  T config;
  BITLAB_RETURN_IF_ERROR(read_yaml(text, table_of(config)));
  return config;
}
template <Config T>
Result<T> load(const std::filesystem::path& path) {
  T config;
  BITLAB_RETURN_IF_ERROR(read_file(path, table_of(config)));
  return config;
}
template <Config T>
Status save(T config, const std::filesystem::path& path) {
  return write_file(path, table_of(config));
}
template <Config T>
Status set_fields(const Overrides& overrides, T& config) {
  return set_fields(overrides, table_of(config));
}
template <Config T>
bool equal(const T& a, const T& b) {
  return to_json(a) == to_json(b);
}

}  // namespace bitlab::config
