// Configs as JSON and YAML text. Keys that a file leaves out keep their defaults; unknown keys and values of another type are
// errors that name the key's path and, for an unknown key, the nearest known one.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "bitlab/base/result.h"
#include "bitlab/config/config.h"

namespace bitlab::config {

// Instantiated for every struct of config.h.
template <class Config>
std::string to_json(const Config& config);
template <class Config>
std::string to_yaml(const Config& config);

// Errors: Corrupt (not JSON or YAML), UnknownName (a key, a choice), TypeMismatch (a value).
template <class Config>
Result<Config> from_json(std::string_view text);
template <class Config>
Result<Config> from_yaml(std::string_view text);

// By the ending of the path: .json, .yaml or .yml. Errors as above, NotFound, InvalidArgument (another ending).
template <class Config>
Result<Config> load(const std::filesystem::path& path);
template <class Config>
Status save(const Config& config, const std::filesystem::path& path);

// A single field from the text of a flag, and back. `name` stands in messages. Instantiated for bool, int64_t, double, std::string
// and every enumeration that configs hold. Errors: TypeMismatch, UnknownName.
template <class T>
Status assign(std::string_view text, std::string_view name, T& field);
template <class T>
std::string to_text(const T& field);

// Sets the fields that `overrides` names, as in a file. Errors: UnknownName (a key, a choice), TypeMismatch. Instantiated for BitQuantConfig.
template <class Config>
Status apply(const Overrides& overrides, Config& config);

template <class Config>
bool equal(const Config& a, const Config& b) {
  return to_json(a) == to_json(b);
}

}  // namespace bitlab::config
