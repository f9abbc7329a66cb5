#include "bitlab/cli/train/presets.h"

#include <algorithm>

#include "bitlab/base/file.h"
#include "bitlab/base/internal/nearest.h"

namespace bitlab::cli {
namespace {

namespace fs = std::filesystem;

std::string summary_of(const fs::path& path) {
  const auto text = read_file(path);
  if (!text.ok() || !text->starts_with("# ")) return {};
  return text->substr(2, text->find('\n') - 2);
}

}  // namespace

std::vector<Preset> presets() {
  std::vector<Preset> list;
  for (const fs::path& folder : shipped_folders("presets")) {
    std::error_code ignored;
    for (const fs::directory_entry& file : fs::directory_iterator(folder, ignored))
      if (file.path().extension() == ".yaml") list.push_back({file.path().stem(), summary_of(file.path()), file.path()});
    if (!list.empty()) break;  // a checkout and what is installed from it have the same ones
  }
  std::ranges::sort(list, {}, &Preset::name);
  return list;
}

Result<fs::path> preset_path(const std::string& name) {
  const std::vector<Preset> list = presets();
  const auto found = std::ranges::find(list, name, &Preset::name);
  if (found != list.end()) return found->path;
  std::vector<std::string> names;
  std::string text;
  for (const Preset& preset : list) {
    names.push_back(preset.name);
    text += (text.empty() ? "" : ", ") + preset.name;
  }
  const std::string* near = nearest(name, names);
  return make_error(ErrorCode::kUnknownName, "[train] a preset of {{{}}}, got '{}'{}", text, name,
                    near == nullptr ? "" : fmt::format("; did you mean '{}'?", *near));
}

}  // namespace bitlab::cli
