// What a .bit file holds and what this machine makes of it: the facts behind `bitlab inspect`.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bitlab/base/machine.h"
#include "bitlab/program/program.h"

namespace bitlab::cli {

struct WeightFacts {
  std::string name;
  std::string type = "float32";  // or "ternary", "int8", "float16", "bfloat16"
  int64_t count = 0;             // of weights
  int64_t file_bytes = 0;        // codes and scales, or floats
  int64_t memory_bytes = 0;      // as the runtime holds it
  double sparsity = 0;           // fraction of zeros; of ternary weights
  std::string granularity;       // "tensor" or "channel"; of ternary weights, and those in int8
  std::string layout;            // in memory; of the same
  bool ternary() const { return type == "ternary"; }
};

struct NodeFacts {
  std::string name, op, output, exactness, kernels;
  std::vector<std::string> inputs;  // activations
  std::vector<WeightFacts> weights;
};

// What one of the passes that a program goes through did to it.
struct PassFacts {
  std::string stage;  // "deployment"; "load", once; "plan", for each size of the inputs
  std::string name;
  std::string unit;               // of before and after: "calls", "nodes", "steps", "values", "bytes"
  int64_t before = 0, after = 0;  // the same number where the pass checks or chooses, and changes nothing
  std::string what;
};

struct Inspection {
  std::string path;
  int64_t file_bytes = 0;
  int version = 0;  // of the format
  std::map<std::string, std::string> metadata;
  bool exact = false;
  std::vector<std::string> symbols;                  // "batch from 0"
  std::vector<std::string> inputs, outputs, states;  // "input [batch, 1, 28, 28]"
  std::vector<NodeFacts> nodes;
  int64_t weights = 0, ternary_weights = 0;  // numbers of values
  int64_t weight_file_bytes = 0, weight_memory_bytes = 0, float32_bytes = 0;
  double bits_a_weight = 0;          // in memory, all weights and scales
  double ternary_bits_a_weight = 0;  // in memory, ternary weights and their scales
  std::vector<PassFacts> passes;     // in their order
};

// Loads the model for this machine and plans it for `batch` samples and `sizes` (sizes.h), on `device` (SessionOptions). Errors: those of Model::load(),
// symbol_sizes(), Session::create() and Session::plan_for().
Result<Inspection> inspect(const std::filesystem::path& path, int64_t batch, const std::vector<std::string>& sizes,
                           int threads, const std::string& device);

}  // namespace bitlab::cli
