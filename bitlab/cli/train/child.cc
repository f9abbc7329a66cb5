#include "bitlab/cli/train/child.h"

#include <filesystem>

#include "bitlab/base/process.h"

namespace bitlab::cli {

namespace fs = std::filesystem;

Result<std::string> run_sibling(const std::string& name, const std::vector<std::string>& arguments) {
  std::error_code failed;
  const std::string program = fs::read_symlink("/proc/self/exe", failed).parent_path() / name;
  if (failed || !fs::exists(program))
    return make_error(ErrorCode::kNotFound, "[{}] the program beside this one, got none at '{}'", name, program);
  std::vector<std::string> command{program};
  command.insert(command.end(), arguments.begin(), arguments.end());
  BITLAB_TRY(Finished finished, run_process(command, Capture::kOutput));
  if (finished.exit_code != 0) return make_error(ErrorCode::kInternal, "[{}] exit code 0, got {}", name, finished.exit_code);
  return std::move(finished.text);
}

}  // namespace bitlab::cli
