// Command-line flags from a config's visit(): a field is named, documented and checked in config/config.h alone.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "bitlab/config/io.h"
#include "bitlab/config/visit.h"

namespace bitlab::cli {

// Flags that were given win over a config file: add() declares, apply() sets the given ones once the file has been read.
class ConfigFlags {
 public:
  // A flag --<field>, with '-' for '_', for each field of `config` that is not a config itself; `renamed` maps fields to other
  // names. `config` must outlive this.
  template <class Config>
  void add(CLI::App& command, Config& config, const std::map<std::string, std::string>& renamed = {}) {
    Config::visit(config, [&](const char* key, auto& field, const char* help) {
      if constexpr (!config::Visitable<std::remove_reference_t<decltype(field)>>) {
        const auto found = renamed.find(key);
        add_field(command, found == renamed.end() ? key : found->second, field, help);
      }
    });
  }
  template <class Field>
  void add_field(CLI::App& command, std::string name, Field& field, const char* help) {
    std::replace(name.begin(), name.end(), '_', '-');
    auto text = std::make_shared<std::string>();
    CLI::Option* option = command.add_option("--" + name, *text, help)->default_str(config::to_text(field));
    flags_.push_back({option, [text, name, &field] { return config::assign(*text, "--" + name, field); }});
  }

  Status apply() const {
    for (const Flag& flag : flags_)
      if (flag.option->count() > 0) BITLAB_RETURN_IF_ERROR(flag.assign());
    return {};
  }

 private:
  struct Flag {
    CLI::Option* option;
    std::function<Status()> assign;
  };
  std::vector<Flag> flags_;
};

}  // namespace bitlab::cli
