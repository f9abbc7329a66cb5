#pragma once

#include "bitlab/cli/program.h"

namespace bitlab::cli {

#define BITLAB_COMMAND(name) void add_##name(CLI::App& app, Action& action);
#include "bitlab/cli/train/commands.def"
#undef BITLAB_COMMAND

}  // namespace bitlab::cli
