// bitlab: training and deployment, and everything that bitlab-run does.
#include "bitlab/cli/run/commands.h"
#include "bitlab/cli/train/commands.h"

namespace bitlab::cli {
namespace {

constexpr AddCommand kCommands[] = {
#define BITLAB_COMMAND(name) add_##name,
#include "bitlab/cli/run/commands.def"
#include "bitlab/cli/train/commands.def"
#undef BITLAB_COMMAND
};

}  // namespace
}  // namespace bitlab::cli

int main(int argc, char** argv) {
  return bitlab::cli::run_program("bitlab", "Trains ternary networks and deploys them.", bitlab::cli::kCommands, argc, argv);
}
