// Command-line flags from a config's fields: one is named, documented and checked in its visit() alone.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "bitlab/config/document.h"
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
      add_field(command, found == renamed.end() ? field.name : found->second, field);
    }
  }
  void add_field(CLI::App& command, std::string name, const config::Field& field) {
    std::replace(name.begin(), name.end(), '_', '-');
    auto text = std::make_shared<std::string>();
    CLI::Option* option = command.add_option("--" + name, *text, field.help)
                              ->default_str(config::to_text(field.value))
                              ->type_name(config::type_text(field.value, field.range));
    flags_.push_back({option, "--" + name, text, field});
  }

  Status apply() const {
    for (const Flag& flag : flags_)
      if (flag.option->count() > 0)
        BITLAB_RETURN_IF_ERROR(config::assign(*flag.text, flag.name, flag.field.value, flag.field.range));
    return {};
  }

  // The first that was given, but for `except`; empty: none.
  std::string given(std::string_view except = {}) const {
    for (const Flag& flag : flags_)
      if (flag.option->count() > 0 && flag.name != except) return flag.name;
    return "";
  }

 private:
  struct Flag {
    CLI::Option* option;
    std::string name;
    std::shared_ptr<std::string> text;
    config::Field field;
  };
  std::vector<Flag> flags_;
};

// A flag for every field of a config by its path, as --train.epochs 3, of any architecture; help does not list them.
class PathFlags {
 public:
  template <config::Config T>
  void add(CLI::App& command, const T& config) {
    for (const config::PathInfo& info : config::paths_of(config)) {
      auto text = std::make_shared<std::string>();
      CLI::Option* option = command.add_option("--" + info.path, *text, info.help)->type_name(info.type)->group("");
      flags_.push_back({option, info, text});
    }
  }
  // Choices on which other fields depend come first. Errors: those of config::assign_at().
  template <config::Config T>
  Status apply(T& config) const {
    for (const bool selects : {true, false})
      for (const Flag& flag : flags_)
        if (flag.option->count() > 0 && flag.info.selects == selects)
          BITLAB_RETURN_IF_ERROR(config::assign_at(config::table_of(config), flag.info.path, *flag.text));
    return {};
  }
  // As ConfigFlags::given().
  std::string given(std::string_view except = {}) const {
    for (const Flag& flag : flags_)
      if (const std::string name = "--" + flag.info.path; flag.option->count() > 0 && name != except) return name;
    return "";
  }

 private:
  struct Flag {
    CLI::Option* option;
    config::PathInfo info;
    std::shared_ptr<std::string> text;
  };
  std::vector<Flag> flags_;
};

}  // namespace bitlab::cli
