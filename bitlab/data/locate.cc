#include "bitlab/data/internal/locate.h"

#include <cstdlib>

#include "bitlab/base/file.h"

namespace bitlab::data {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> folders_of(std::string_view set, const fs::path& root) {
  if (!root.empty()) return {root};
  std::vector<fs::path> folders;
  if (const char* data = std::getenv("BITLAB_DATA_DIR")) folders.push_back(fs::path(data) / set);
  for (const fs::path& folder : shipped_folders(fs::path("data") / set)) folders.push_back(folder);
  if (const fs::path cache = cache_folder(); !cache.empty()) folders.push_back(cache / set);
  return folders;
}

}  // namespace

Result<fs::path> locate(std::string_view set, const fs::path& root, std::initializer_list<std::string> names,
                        const RemoteFile* remote) {
  std::string looked;
  for (const fs::path& folder : folders_of(set, root)) {
    std::error_code ignored;
    for (const std::string& name : names)
      if (const fs::path path = folder / name; fs::exists(path, ignored)) return path;
    looked += (looked.empty() ? "" : ", ") + folder.string();
  }
  if (remote != nullptr && root.empty() && !cache_folder().empty()) return fetch(*remote, cache_folder() / set);
  return make_error(ErrorCode::kNotFound, "[{}] {} in one of {{{}}}, got no such file", set, *names.begin(), looked);
}

}  // namespace bitlab::data
