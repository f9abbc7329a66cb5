// Node by node: where a deployed program and its module part ways.
#pragma once

#include <array>
#include <vector>

#include "bitlab/deploy/capture.h"

namespace bitlab::deploy {

struct NodeDifference {
  std::string node, op;
  bool bounded = false;     // the node may differ from LibTorch within rounding
  bool fed_exactly = true;  // every node before it agreed
  int64_t count = 0;        // of values
  int64_t different = 0;    // of them not equal bit by bit
  double max_difference = 0;
  double max_magnitude = 0;  // of LibTorch's values
  // Values by |difference| / max_magnitude: 0, then below 1e-7, 1e-6, ... 1e-1, and above.
  static constexpr size_t kBins = 9;
  std::array<int64_t, kBins> histogram{};
};

// Runs the program with every node's result as an output, and the module with every operator recorded, on the same example. Errors:
// InvalidArgument where the module does not make the same graph (naming the first line that differs), those of capture() and of the
// runtime.
Result<std::vector<NodeDifference>> compare_nodes(const program::Program& program, torch::nn::Module& module,
                                                  const Forward& forward, const NamedTensors& example,
                                                  const std::optional<Signature>& signature = std::nullopt);

}  // namespace bitlab::deploy
