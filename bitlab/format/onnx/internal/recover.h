// What a program that was read becomes before it is handed out.
#pragma once

#include <map>
#include <string_view>

#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

// Nodes, values and constants that no output needs.
void drop_unneeded(program::Program& p, std::map<program::ValueId, std::string_view>& names);

// Biases in the layers in front of them, ternary products that are written out as one node, nothing that no output needs, and values named as `names` says
// where that is free. Verified.
Result<program::Program> tidied(program::Program program, const std::map<program::ValueId, std::string_view>& names);

}  // namespace bitlab::format::onnx
