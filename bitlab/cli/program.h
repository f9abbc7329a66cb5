// What both command-line programs share: parsing, --version, how errors are shown, exit codes.
//
// A command is a file with one function add_<name>(CLI::App&, Action&): it declares the options and sets the action that runs when
// the command is given. The lists of commands are run/commands.def and train/commands.def.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "bitlab/base/result.h"

namespace CLI {
class App;  // CLI11's, which a file with commands includes through options.h
}

namespace bitlab::cli {

using Action = std::function<Status()>;
using AddCommand = void (*)(CLI::App& app, Action& action);

// Parses and runs. Exit codes: 0; 1 a difference that was found; 2 usage and other input errors; 3 files; 4 capability; 5 internal (base/errors.def); 128 and the number of the
// signal that stopped a command, as shells say it.
int run_program(const char* name, const char* description, std::span<const AddCommand> commands, int argc, char** argv);

// "bitlab 0.1.0", then a line each on the build and the machine.
std::string version_text(const char* name);

}  // namespace bitlab::cli
