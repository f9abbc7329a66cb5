#include "bitlab/train/internal/kept_files.h"

#include "bitlab/base/file.h"

namespace bitlab::train {

namespace fs = std::filesystem;

fs::path path_of_step(const fs::path& path, int64_t step) {
  fs::path file = path;
  return file.replace_filename(fmt::format("{}-{:06}{}", path.stem().string(), step, path.extension().string()));
}

Status point_to_step(const fs::path& path, int64_t step) {
  const fs::path file = path_of_step(path, step);
  fs::path temporary = file;
  temporary += ".tmp.link";
  std::error_code failed;
  fs::remove(temporary, failed);
  fs::create_hard_link(file, temporary, failed);
  if (failed) fs::copy_file(file, temporary, fs::copy_options::overwrite_existing, failed);
  if (!failed) return replace_file(path, temporary);
  std::error_code ignored;
  fs::remove(temporary, ignored);
  return make_error(ErrorCode::kIoError, "[train] a checkpoint under a second name, got '{}' (path={})", failed.message(),
                    path.string());
}

void remove_step(const fs::path& path, int64_t step) {
  std::error_code ignored;
  fs::remove(path_of_step(path, step), ignored);
}

}  // namespace bitlab::train
