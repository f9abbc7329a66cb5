// From a LibTorch module to a Program: one eval forward is recorded and every operator call is lowered to a node.
#pragma once

#include <functional>
#include <map>
#include <string>

#include <torch/nn/module.h>

#include "bitlab/program/program.h"

namespace bitlab::deploy {

using Forward = std::function<at::Tensor(const at::Tensor&)>;

struct Captured {
  program::Program program;
  std::vector<std::string>
      unread;  // paths of modules whose parameters the forward pass does not read, which the program leaves out
};

// `module` owns the parameters that `forward` uses; `example` is a float32 or int64 CPU input whose first dimension is the batch (of 1 or
// more). The module is set to eval. The forward pass is recorded twice, with batches of 2 and 3 copies of the example's first
// sample: the program has a symbolic batch, and both recordings must agree.
//
// Operators that can be lowered: lowering/lowerings.def. Errors: Unsupported (an operator, a tensor that is neither input nor parameter, a
// forward pass that depends on the batch in another way), and what shape rules and verify() find.
Result<Captured> capture_module(torch::nn::Module& module, const Forward& forward, const at::Tensor& example,
                                std::map<std::string, std::string> metadata = {});

// The program of capture_module() alone.
Result<program::Program> capture(torch::nn::Module& module, const Forward& forward, const at::Tensor& example,
                                 std::map<std::string, std::string> metadata = {});

}  // namespace bitlab::deploy
