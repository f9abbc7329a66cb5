// The graph of a program as JSON text, without the constants' data. Values are named, not numbered.
//
//   {"symbols": [{"name", "min"?, "max"?, "context"?}], "inputs": [{"name", "shape", "dtype"?}], "states": [{"name", "shape"}],
//    "constants": [{"name", "shape", "dtype"?, "storage"?, "scales"?, "asymmetric"?, "group"?}],
//    "nodes": [{"op", "name", "inputs": [name or null], "attributes": {}, "exactness"?}], "outputs": [{"name", "value"}]}
//
// A dimension is a number or a text: "batch", "4*batch", "batch*tokens". What is left out: the dtype float32, the storage plain, the range of a
// symbol from 1 (the batch from 0) to 2^40, the exactness that the operation has. A node's first output has the node's name, others the name
// with ":1", ":2", ….
#pragma once

#include <string>
#include <string_view>

#include "bitlab/program/program.h"

namespace bitlab::format::bit {

std::string graph_to_json(const program::Program& program);

struct ConstantPlan {
  program::ValueId value;
  // Of a ternary constant; `scales` of one in int8, too.
  int64_t scales;   // how many in float32, of t = +1 where it is asymmetric
  bool asymmetric;  // as many of t = -1
  int64_t group;    // of scales in float16, instead; 0: none
};

struct ParsedGraph {
  program::Program program;  // without constants' data
  std::vector<ConstantPlan> constants;
};

// Checks the JSON's form and names; output shapes come from the shape rules. Error: Corrupt.
Result<ParsedGraph> graph_from_json(std::string_view text);

}  // namespace bitlab::format::bit
