#include "bitlab/base/process.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

extern char** environ;  // NOLINT: POSIX

namespace bitlab {
namespace {

std::string read_all(int descriptor) {
  std::string text;
  std::array<char, 4096> block{};
  for (ssize_t got = 0; (got = ::read(descriptor, block.data(), block.size())) != 0;) {
    if (got > 0) text.append(block.data(), static_cast<size_t>(got));
    if (got < 0 && errno != EINTR) break;
  }
  return text;
}

// 0, or the error's number.
int spawn(std::vector<std::string> words, Capture capture, int into, pid_t& child) {
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (capture == Capture::kErrors) {
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  }
  posix_spawn_file_actions_adddup2(&actions, into, capture == Capture::kOutput ? STDOUT_FILENO : STDERR_FILENO);
  const int error = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

}  // namespace

Result<Finished> run_process(const std::vector<std::string>& command, Capture capture) {
  std::array<int, 2> ends{};  // closed in the child, but for what dup2 makes of the second
  if (::pipe2(ends.data(), O_CLOEXEC) != 0)
    return make_error(ErrorCode::kIoError, "[process] a pipe, got '{}'", std::strerror(errno));
  pid_t child = 0;
  const int error = spawn(command, capture, ends[1], child);
  ::close(ends[1]);
  Finished finished;
  if (error == 0) finished.text = read_all(ends[0]);
  ::close(ends[0]);
  if (error != 0)
    return make_error(error == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIoError,
                      "[process] a program that starts, got '{}' (path={})", std::strerror(error), command[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) return make_error(ErrorCode::kIoError, "[process] the end of '{}', got none", command[0]);
  finished.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  // POSIX lets posix_spawn learn of a program that is not there by its end alone, as emulators do.
  if (finished.exit_code == 127 && finished.text.empty())
    return make_error(ErrorCode::kNotFound, "[process] a program that starts, got exit code 127 (path={})", command[0]);
  return finished;
}

}  // namespace bitlab
