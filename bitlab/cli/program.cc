#include "bitlab/cli/program.h"

#include <cstdio>

#include <CLI/CLI.hpp>

#include "bitlab/base/log.h"
#include "bitlab/base/machine.h"
#include "bitlab/base/version.h"

namespace bitlab::cli {
namespace {

int report(const char* name, const Error& error) {
  fmt::print(stderr, "{}: error: {}\n", name, error.message);
  return static_cast<int>(error_group(error.code));
}

void log_to_stderr(LogLevel level, std::string_view message) {
  if (level == LogLevel::kWarning) fmt::print(stderr, "warning: {}\n", message);
}

}  // namespace

std::string version_text(const char* name) {
  const Machine& machine = this_machine();
  return fmt::format("{} {}\nbuild    {}\nmachine  {}, {} cores, {}", name, version(), build_facts(), machine.cpu,
                     machine.cores, machine.features.to_string());
}

int run_program(const char* name, const char* description, std::span<const AddCommand> commands, int argc, char** argv) {
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
    const bool asked = error.get_exit_code() == 0;  // --help, --version
    if (asked) return app.exit(error);
    return report(name, make_error(ErrorCode::kInvalidArgument, "{} (see {} --help)", error.what(), name));
  }
  try {
    const Status status = action();
    return status.ok() ? 0 : report(name, status.error());
  } catch (const Exception& error) {
    return report(name, error.error());
  } catch (const std::exception& error) {
    return report(name, make_error(ErrorCode::kInternal, "[{}] {}", name, error.what()));
  }
}

}  // namespace bitlab::cli
