// Experiments that come with BitLab, by name: the files of presets/.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bitlab/base/result.h"

namespace bitlab::cli {

struct Preset {
  std::string name, summary;  // the file's first comment
  std::filesystem::path path;
};

// In alphabetical order.
std::vector<Preset> presets();
// Error: UnknownName, listing the names.
Result<std::filesystem::path> preset_path(const std::string& name);

}  // namespace bitlab::cli
