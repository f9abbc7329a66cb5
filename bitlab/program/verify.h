// Everything that must hold before a program is run; the runtime relies on it without checking again. Programs come from files
// that nobody vouches for.
#pragma once

#include "bitlab/program/program.h"

namespace bitlab::program {

// Names and counts: every value defined once and before its use, shapes valid and as the rules say, constants of the promised
// length, ternary codes valid, scales finite, float constants numbers or infinite, K <= 2^24. The first violation is the error, naming the node or
// value.
Status verify(const Program& program);

// Whether a node's inputs and attributes fit its schema; the inputs must exist.
Status verify_schema(const Program& program, const Node& node);

}  // namespace bitlab::program
