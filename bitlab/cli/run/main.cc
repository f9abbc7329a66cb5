// bitlab-run: what a deployed model needs, without LibTorch.
#include "bitlab/cli/run/commands.h"

namespace bitlab::cli {
namespace {

constexpr AddCommand kCommands[] = {
#define BITLAB_COMMAND(name) add_##name,
#include "bitlab/cli/run/commands.def"
#undef BITLAB_COMMAND
};

}  // namespace
}  // namespace bitlab::cli

int main(int argc, char** argv) {
  return bitlab::cli::run_program("bitlab-run", "Runs deployed ternary networks, without LibTorch.", bitlab::cli::kCommands,
                                  argc, argv);
}
