// Command-line flags from a config's fields: one is named, documented and checked in its visit() alone.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "bitlab/config/io.h"

namespace bitlab::cli {

// Flags that were given win over a config file: add() declares, apply() sets the given ones once the file has been read.
class ConfigFlags {
 public:
  // A flag --<field>, with '-' for '_', for each field of `config` that is no config or list itself; `renamed` maps fields to other
  // names. `config` must outlive this.
  template <config::Config T>
  void add(CLI::App& command, T& config, const std::map<std::string, std::string>& renamed = {}) {
    for (const config::Field& field : config::table_of(config)()) {
      if (std::holds_alternative<config::Table>(field.value.at) || std::holds_alternative<config::List>(field.value.at))
        continue;
      const auto found = renamed.find(field.name);
      add_value(command, found == renamed.end() ? field.name : found->second, field.value, field.help);
    }
  }
  void add_value(CLI::App& command, std::string name, const config::Value& value, const std::string& help) {
    std::replace(name.begin(), name.end(), '_', '-');
    auto text = std::make_shared<std::string>();
    CLI::Option* option = command.add_option("--" + name, *text, help)->default_str(config::to_text(value));
    flags_.push_back({option, "--" + name, text, value});
  }

  Status apply() const {
    for (const Flag& flag : flags_)
      if (flag.option->count() > 0) BITLAB_RETURN_IF_ERROR(config::assign(*flag.text, flag.name, flag.value));
    return {};
  }

  // The first that was given; empty: none.
  std::string given() const {
    for (const Flag& flag : flags_)
      if (flag.option->count() > 0) return flag.name;
    return "";
  }

 private:
  struct Flag {
    CLI::Option* option;
    std::string name;
    std::shared_ptr<std::string> text;
    config::Value value;
  };
  std::vector<Flag> flags_;
};

}  // namespace bitlab::cli
