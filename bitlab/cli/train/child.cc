#include "bitlab/cli/train/child.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

namespace bitlab::cli {
namespace {

namespace fs = std::filesystem;

std::string read_all(int descriptor) {
  std::string text;
  std::array<char, 4096> block{};
  for (ssize_t got = 0; (got = read(descriptor, block.data(), block.size())) != 0;) {
    if (got > 0) text.append(block.data(), static_cast<size_t>(got));
    if (got < 0 && errno != EINTR) break;
  }
  return text;
}

}  // namespace

Result<std::string> run_sibling(const std::string& name, const std::vector<std::string>& arguments) {
  std::error_code failed;
  const std::string program = fs::read_symlink("/proc/self/exe", failed).parent_path() / name;
  if (failed || !fs::exists(program))
    return make_error(ErrorCode::kNotFound, "[{}] the program beside this one, got none at '{}'", name, program);
  std::vector<std::string> words{program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  std::array<int, 2> pipe_ends{};
  if (pipe(pipe_ends.data()) != 0)
    return make_error(ErrorCode::kIoError, "[{}] a pipe, got '{}'", name, std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, pipe_ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, pipe_ends[0]);
  pid_t child = 0;
  const int error = posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(pipe_ends[1]);
  const std::string output = error == 0 ? read_all(pipe_ends[0]) : "";
  close(pipe_ends[0]);
  if (error != 0)
    return make_error(ErrorCode::kIoError, "[{}] a program that starts, got '{}' (path={})", name, std::strerror(error),
                      program);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return make_error(ErrorCode::kInternal, "[{}] exit code 0, got {}", name, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
  return output;
}

}  // namespace bitlab::cli
