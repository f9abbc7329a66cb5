#include "bitlab/data/download.h"

#include <cstdlib>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bitlab/base/file.h"
#include "bitlab/base/log.h"
#include "bitlab/base/text.h"
#include "bitlab/data/internal/sha256.h"

extern char** environ;  // NOLINT: POSIX

namespace bitlab::data {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// What a command says on its standard error goes to a file. Nothing: it ended well; else what it said.
Result<std::string> complaint_of(const std::vector<std::string>& command, const fs::path& log) {
  std::vector<char*> arguments;
  for (const std::string& argument : command) arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  pid_t child = 0;
  const int failed = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return fmt::format("no command '{}'", command[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return make_error(ErrorCode::kIoError, "[download] the end of '{}', got none", command[0]);
  const auto said = read_file(log);
  std::error_code ignored;
  fs::remove(log, ignored);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return std::string();
  std::string text = said.ok() ? *said : "";
  text.erase(text.find_last_not_of(" \n\r") + 1);
  return text.empty() ? fmt::format("'{}' ended with status {}", command[0], status) : text;
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
    BITLAB_TRY(std::string said, complaint_of(command, part.string() + ".log"));
    if (!said.empty()) return said;
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
        fs::rename(part, path, failed);
        if (failed)
          return make_error(ErrorCode::kIoError, "[download] a file renamed, got '{}' (path={})", failed.message(),
                            path.string());
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
