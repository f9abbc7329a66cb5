#include "bitlab/data/download.h"

#include <cstdlib>

#include "bitlab/base/file.h"
#include "bitlab/base/log.h"
#include "bitlab/base/process.h"
#include "bitlab/base/text.h"
#include "bitlab/data/internal/sha256.h"

namespace bitlab::data {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Nothing: the command ended well; else what it said.
std::string complaint_of(const std::vector<std::string>& command) {
  Result<Finished> finished = run_process(command, Capture::kErrors);
  if (!finished.ok()) return fmt::format("no command '{}'", command[0]);
  if (finished->exit_code == 0) return "";
  std::string text = std::move(finished->text);
  text.erase(text.find_last_not_of(" \n\r") + 1);
  return text.empty() ? fmt::format("'{}' ended with status {}", command[0], finished->exit_code) : text;
}

// Fetches one mirror's file into `part`, from where that ends. Nothing: it is there, and right; else why not.
Result<std::string> try_mirror(const RemoteFile& file, const std::string& url, const fs::path& part) {
  std::error_code failed;
  if (!fs::exists(part, failed) || static_cast<int64_t>(fs::file_size(part, failed)) < file.bytes) {
    const std::vector<std::string> command{"curl",
                                           "--fail",
                                           "--location",
                                           "--silent",
                                           "--show-error",
                                           "--connect-timeout",
                                           "20",
                                           "--speed-limit",
                                           "1000",
                                           "--speed-time",
                                           "60",
                                           "--max-filesize",
                                           std::to_string(file.bytes),
                                           "--continue-at",
                                           "-",
                                           "--output",
                                           part.string(),
                                           url};
    if (std::string said = complaint_of(command); !said.empty()) return said;
  }
  BITLAB_TRY(const std::string found, sha256_of(part));
  if (found == file.sha256) return std::string();
  fs::remove(part, failed);
  return fmt::format("another checksum, {}", found);
}

}  // namespace

fs::path cache_folder() {
  if (const std::string own = variable("BITLAB_CACHE_DIR"); !own.empty()) return own;
  if (const std::string cache = variable("XDG_CACHE_HOME"); !cache.empty()) return fs::path(cache) / "bitlab";
  if (const std::string home = variable("HOME"); !home.empty()) return fs::path(home) / ".cache" / "bitlab";
  return {};
}

Result<fs::path> fetch(const RemoteFile& file, const fs::path& folder) {
  const fs::path path = folder / file.name, part = path.string() + ".part";
  std::error_code failed;
  if (fs::exists(path, failed)) {
    BITLAB_TRY(const std::string found, sha256_of(path));
    if (found == file.sha256) return path;
    return make_error(ErrorCode::kCorrupt, "[download] a file with the checksum {}, got {} (path={})", file.sha256, found,
                      path.string());
  }
  std::string said;
  if (!variable("BITLAB_OFFLINE").empty()) {
    said = "; BITLAB_OFFLINE is set";
  } else {
    BITLAB_RETURN_IF_ERROR(ensure_writable_folder(folder));
    for (const std::string& url : file.urls) {
      log(LogLevel::kInfo, "[download] {} ({}) into {}", url, format_bytes(file.bytes), folder.string());
      BITLAB_TRY(const std::string complaint, try_mirror(file, url, part));
      if (complaint.empty()) {
        BITLAB_RETURN_IF_ERROR(replace_file(path, part));
        return path;
      }
      said += fmt::format("; {}: {}", url, complaint);
    }
  }
  std::string urls;
  for (const std::string& url : file.urls) urls += (urls.empty() ? "" : " or ") + url;
  return make_error(ErrorCode::kNotFound, "[download] {} ({} bytes, of {}), got no such file{}. Put it into {}", file.name,
                    file.bytes, urls, said, folder.string());
}

}  // namespace bitlab::data
