// The pass that makes a decoder of a network of causal self-attention: keys and values of earlier tokens become states of the session, so that
// each run takes the tokens that follow.
#pragma once

#include "bitlab/program/program.h"

namespace bitlab::program {

inline constexpr std::string_view kContext = "context";

// Rewrites a program whose attention is causal self-attention without masks over `symbol`: each such node gets states for its keys and values,
// positions continue from run to run, and the symbol `context` counts what states hold, up to the largest size of `symbol`. Everything else must
// treat tokens one by one. Running all tokens at once and running them in parts then gives the same bits.
// Errors: InvalidArgument (no such symbol, states already), Unsupported (no causal attention; a node that mixes tokens, naming it).
Result<Program> add_kv_state(Program program, std::string_view symbol = "tokens");

}  // namespace bitlab::program
