// A decoder that was read with its pasts as inputs, as one whose session keeps them.
#pragma once

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

struct PastInputs {
  std::set<program::ValueId> values;  // floats with `count` positions
  int64_t count = 0;
  program::Dim tokens = 0;  // of a run: a symbol
};

// Attention over pasts and what continues them, whatever it is written in, becomes attention with states: masks that let a query see all keys up to its own, or as
// many of them as a window has, are looked at element by element. Places that count on behind the past become positions. `names`: as of tidied().
// Error: Unsupported, for all else that reads a past.
Result<program::Program> with_states(program::Program program, const PastInputs& pasts,
                                     std::map<program::ValueId, std::string_view> names);

// Operations, types and constants of a program, without names: equal for programs that compute the same in the same way.
std::string outline(const program::Program& program);

}  // namespace bitlab::format::onnx
