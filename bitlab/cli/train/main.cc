// bitlab: training and deployment, and everything that bitlab-run does.
#include "bitlab/cli/run/commands.h"
#include "bitlab/cli/train/commands.h"

int main(int argc, char** argv) {
  using namespace bitlab::cli;
  constexpr AddCommand kCommands[] = {
#define BITLAB_COMMAND(name) add_##name,
#include "bitlab/cli/run/commands.def"
#include "bitlab/cli/train/commands.def"
#undef BITLAB_COMMAND
  };
  return run_program("bitlab", "Trains ternary networks and deploys them.", kCommands, argc, argv);
}
