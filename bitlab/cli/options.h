// Options that several subcommands have, with the same names, ranges and help.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

namespace bitlab::cli {

// As CLI::Range, which lets NaN pass.
class NumberIn : public CLI::Range {
 public:
  NumberIn(double least, double most) : CLI::Range(least, most) {
    func_ = [check = func_, least, most](std::string& text) {
      double number = 0;
      if (CLI::detail::lexical_cast(text, number) && std::isnan(number))
        return fmt::format("Value {} not in range {} to {}", text, least, most);
      return check(text);
    };
  }
};

inline void add_model(CLI::App& command, std::string& model) {
  command.add_option("model", model, "The .bit file")->required();
}

inline void add_batch(CLI::App& command, int64_t& batch, const std::string& what) {
  command.add_option("--batch", batch, what)->capture_default_str()->check(CLI::Range(1, 65536));
}

inline void add_sizes(CLI::App& command, std::vector<std::string>& sizes) {
  command
      .add_option("--size", sizes,
                  "A size that differs from run to run, as tokens=128; otherwise the least that the model takes")
      ->type_name("NAME=NUMBER");
}

inline void add_threads(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "Threads; 0: all cores")->capture_default_str()->check(CLI::Range(0, 1024));
}

inline void add_device(CLI::App& command, std::string& device) {
  command
      .add_option("--device", device, "Where steps run: cpu, cuda or cuda:1; otherwise what BITLAB_DEVICE says, or the CPU")
      ->type_name("DEVICE");
}

inline void add_json(CLI::App& command, bool& json) { command.add_flag("--json", json, "Print JSON"); }

}  // namespace bitlab::cli
