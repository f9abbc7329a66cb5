// bitlab-run: what a deployed model needs, without LibTorch.
#include "bitlab/cli/run/commands.h"

int main(int argc, char** argv) {
  using namespace bitlab::cli;
  constexpr AddCommand kCommands[] = {
#define BITLAB_COMMAND(name) add_##name,
#include "bitlab/cli/run/commands.def"
#undef BITLAB_COMMAND
  };
  return run_program("bitlab-run", "Runs deployed ternary networks, without LibTorch.", kCommands, argc, argv);
}
