// Reading whole files and replacing them atomically.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "bitlab/base/result.h"

namespace bitlab {

// The whole file as bytes. Errors: NotFound, IoError.
Result<std::string> read_file(const std::filesystem::path& path);

// A read-only mapping of a whole file; the pages go back to the system when the last owner goes.
class MappedFile {
 public:
  // Errors: NotFound, IoError. An empty file maps to an empty span.
  static Result<std::shared_ptr<const MappedFile>> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const uint8_t> bytes() const { return {data_, size_}; }

 private:
  MappedFile() = default;
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// Replaces `path` as a whole or leaves it as it was: the content goes to a temporary file in the same folder, which is
// synced and renamed. A link stays one, and what it leads to is replaced; a device or a pipe, as /dev/stdout may be, is written to.
// Errors: NotFound (the folder is missing), IoError.
Status write_file_atomic(const std::filesystem::path& path, std::string_view content);
Status write_file_atomic(const std::filesystem::path& path, std::span<const uint8_t> content);

// The last step of that: `temporary`, a whole file of the same folder, takes the place of `path`. Removed where it cannot.
Status replace_file(const std::filesystem::path& path, const std::filesystem::path& temporary);

// A file that grows at its end: what was appended is there when the process is killed.
class AppendFile {
 public:
  // Creates the file where there is none; of one that is there, the first `kept` bytes stay. Errors: NotFound (the folder is missing), IoError.
  static Result<AppendFile> open(const std::filesystem::path& path, size_t kept);
  AppendFile() = default;
  AppendFile(AppendFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}
  AppendFile& operator=(AppendFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(path_, other.path_);
    return *this;
  }
  ~AppendFile();
  // Error: IoError.
  Status append(std::string_view bytes);

 private:
  int fd_ = -1;
  std::filesystem::path path_;
};

// Creates the folder and its parents where missing, and checks that files can be created in it, so that long work fails
// before it starts. Errors: IoError.
Status ensure_writable_folder(const std::filesystem::path& folder);

// Where BitLab is installed: the parent of the folder, lib/ or bin/, that has the library or program with this code. Empty where the system does
// not tell.
std::filesystem::path installed_prefix();

// Where a folder that comes with BitLab, as "data/mnist", may be: in the checkout that this was built from, and in share/bitlab of the installation.
std::vector<std::filesystem::path> shipped_folders(const std::filesystem::path& name);

}  // namespace bitlab
