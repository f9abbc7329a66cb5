#include "bitlab/cli/program.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sstream>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "bitlab/base/internal/nearest.h"
#include "bitlab/base/log.h"
#include "bitlab/base/machine.h"
#include "bitlab/base/text.h"
#include "bitlab/base/version.h"
#include "bitlab/cli/interrupts.h"
#include "bitlab/kernels/explain.h"

namespace bitlab::cli {
namespace {

int report(const char* name, const Error& error) {
  const bool is_stopped = error.code == ErrorCode::kCancelled && Interrupts::signal() != 0;
  fmt::print(stderr, "{}: {}{}\n", name, is_stopped ? "" : "error: ", one_line(error.message));
  return is_stopped ? 128 + Interrupts::signal() : static_cast<int>(error_group(error.code));
}

// A file that is opened while stdout is closed would get its number, and what is printed.
void hold_standard_streams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO})
    if (::fcntl(stream, F_GETFD) < 0 && errno == EBADF) ::open("/dev/null", stream == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

// What was printed is out, or the disk was full: then the last call that failed was one that wrote.
Status flush_output() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return {};
  return make_error(ErrorCode::kIoError, "an output that can be written, got '{}' (stdout)", std::strerror(errno));
}

void log_to_stderr(LogLevel level, std::string_view message) {
  if (level == LogLevel::kWarning) fmt::print(stderr, "warning: {}\n", message);
}

std::vector<std::string> command_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(command->get_name());
  return names;
}

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

// CLI11 says of an unknown command that there is none, and lists all words behind an unknown option.
Error usage_error(const char* program, const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = &app;
  std::string name = program;
  while (!command->get_subcommands().empty()) {
    command = command->get_subcommands().front();
    name += " " + command->get_name();
  }
  const std::vector<std::string> commands = command_names(*command), options = option_names(*command);
  const std::vector<std::string> unknown = command->remaining();
  if (!unknown.empty() && unknown.front().starts_with("-"))
    return make_error(ErrorCode::kUnknownName, "an option of {0}, got '{1}'; did you mean '{2}'? (see {0} --help)", name,
                      unknown.front(), *nearest(unknown.front(), options));
  if (!unknown.empty() && !commands.empty())
    return make_error(ErrorCode::kUnknownName, "a command of {0}, got '{1}'; did you mean '{2}'? (see {0} --help)", name,
                      unknown.front(), *nearest(unknown.front(), commands));
  return make_error(ErrorCode::kInvalidArgument, "{} (see {} --help)", error.what(), name);
}

}  // namespace

std::string version_text(const char* name) {
  const Machine& machine = this_machine();
  return fmt::format("{} {}\nbuild    {}\nmachine  {}, {} cores, {}", name, version(), build_facts(), machine.cpu,
                     machine.cores, machine.features.to_string());
}

int run_program(const char* name, const char* description, std::span<const AddCommand> commands, int argc, char** argv) {
  hold_standard_streams();
  set_log_sink(log_to_stderr);
  CLI::App app(description, name);
  app.require_subcommand(1);
  app.set_version_flag("--version", [name] { return version_text(name); });
  app.set_help_all_flag("--help-all", "Print the help of every command");
  Action action;
  for (AddCommand add : commands) add(app, action);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() != 0) return report(name, usage_error(name, app, error));
    std::ostringstream asked;  // --help, --version
    app.exit(error, asked, asked);
    std::fputs(asked.str().c_str(), stdout);
    const Status printed = flush_output();
    return printed.ok() ? 0 : report(name, printed.error());
  }
  try {
    Status status = kernels::check_policy(kernels::Policy::from_environment());
    if (status.ok()) status = action();
    if (status.ok()) status = flush_output();
    return status.ok() ? 0 : report(name, status.error());
  } catch (const Exception& error) {
    return report(name, error.error());
  } catch (const std::exception& error) {
    if (const Status printed = flush_output(); !printed.ok()) return report(name, printed.error());
    return report(name, make_error(ErrorCode::kInternal, "[{}] {}", name, first_line(error.what())));
  }
}

}  // namespace bitlab::cli
