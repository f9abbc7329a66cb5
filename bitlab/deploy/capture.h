// From a LibTorch module to a Program: eval forward passes are recorded and every operator call is lowered to a node.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "bitlab/deploy/signature.h"
#include "bitlab/program/program.h"

namespace bitlab::deploy {

using LineOfCall = std::function<std::string()>;

struct CaptureOptions {
  // Names, dtypes and sizes of the inputs: which of them differ from run to run, and in which range. Without it the first size of every input is
  // the batch, and the others are the example's. Outputs follow from the network.
  std::optional<Signature> signature = std::nullopt;
  std::map<std::string, std::string> metadata{};  // texts for the file ("model", "preprocess")
  // The line of the network that is under way, "net.py:12", for errors: called before each operator of a forward pass.
  LineOfCall line{};
};

struct Captured {
  program::Program program;
  // Paths of modules whose parameters the forward pass does not read, which the program leaves out.
  std::vector<std::string> unread;
  // By node: the number of the operator call that it computes; nothing for a part of one.
  std::vector<std::optional<size_t>> calls;
  // Operator calls of the forward pass; those of them that an output depends on; and those of these that read no input, and so made constants. The
  // others are nodes.
  int64_t recorded_calls = 0, live_calls = 0, constant_calls = 0;
};

// `module` owns the parameters that `forward` uses, and is set to eval. The forward pass is recorded twice, at two sizes of every symbol, on the
// example's elements repeated in turn: both recordings must agree, and the sizes in them tell which symbols a dimension is a multiple of, and what is added;
// with symbols besides the batch a third one tells that sooner, and ones at the example's and at larger sizes must agree. Where a constant grows with symbols, a recording at the largest sizes makes the table that it is a part of; so
// such symbols need a bound. The least sizes of symbols are raised to those that LibTorch's operators take.
//
// Operators that can be lowered: lowering/lowerings.def. Errors: those of signature_of() and recording_sizes(); Unsupported (an operator, a tensor
// that is neither input nor parameter, a forward pass that depends on a symbol in another way), and what shape rules and verify() find.
Result<Captured> capture_module(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                                const CaptureOptions& options = {});

// The program of capture_module() alone.
Result<program::Program> capture(torch::nn::Module& module, const Forward& forward, const NamedTensors& example,
                                 const CaptureOptions& options = {});

// For a module with a forward(NamedTensors) or forward(Tensor) of its own.
template <class Module>
Result<program::Program> capture(Module& module, const NamedTensors& example, const CaptureOptions& options = {}) {
  return capture(module, nn::forward_of(module), example, options);
}

}  // namespace bitlab::deploy
