// Files by name, wherever they lie: in a folder, or in a tar, gzipped or plain, which is not unpacked on disk.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bitlab/base/file.h"

namespace bitlab::data {

class FileSet {
 public:
  // Of a tar: ustar, with the long names of pax and GNU; at most 8 GiB unpacked. Links and devices are passed over. It is untrusted: names are
  // names, never paths to write to. Errors: NotFound, IoError, Corrupt (a tar), NotFound where there are no files in it.
  static Result<std::shared_ptr<const FileSet>> open(const std::filesystem::path& path);

  // Sorted, with slashes, relative to the folder or tar.
  const std::vector<std::string>& names() const { return names_; }
  // The content of a file, by its place in names(); from any number of threads at once.
  Result<std::vector<uint8_t>> read(size_t index) const;
  // The first file whose last part is `name`. Error: NotFound.
  Result<size_t> find(std::string_view name) const;
  // For messages: the file's path, or "tar:name".
  std::string describe(size_t index) const;

 private:
  struct Range {
    size_t begin = 0, size = 0;
  };
  FileSet() = default;
  Status list_folder();
  Status list_tar();

  std::filesystem::path path_;
  std::vector<std::string> names_;
  // Of a tar: where its files are in `bytes_`, the file's own or unpacked ones.
  bool is_tar_ = false;
  std::vector<Range> ranges_;
  std::span<const uint8_t> bytes_;
  std::shared_ptr<const MappedFile> file_;
  std::vector<uint8_t> unpacked_;
};

}  // namespace bitlab::data
