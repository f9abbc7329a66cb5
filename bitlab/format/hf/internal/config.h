// config.json.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bitlab/format/decoder/decoder.h"

namespace bitlab::format::hf {

enum class Mode { kDivided, kMultiplied, kOnline };  // how a weight's scale is stored; not at all

struct ModelConfig {
  decoder::Config decoder;
  Mode mode = Mode::kMultiplied;
  bool is_tied = false, attention_bias = false, mlp_bias = false;
  std::vector<std::string> kept;  // modules_to_not_convert
  // Whether a module's weights are float.
  bool keeps(std::string_view module) const;
};

// Errors: Corrupt, Unsupported.
Result<ModelConfig> read_config(std::string_view text);
std::string write_config(const ModelConfig& config);

}  // namespace bitlab::format::hf
