// The passes that a program goes through between a network and its first run.
#pragma once

#include "bitlab/cli/run/inspection.h"
#include "bitlab/runtime/plan.h"

namespace bitlab::cli {

// What each did, in their order. Of deployment as far as the file says: what others wrote has no such facts. `program` is that of the file, with
// its constants.
std::vector<PassFacts> passes_of(const program::Program& program, const runtime::Model& model, const runtime::Plan& plan);

}  // namespace bitlab::cli
