// A network that is TorchScript, of a program or of a file that others wrote, as a torch::nn::Module: to be captured, made ternary (convert/bit_model.h), fitted
// (post_training.h), trained further and deployed.
//
// Parameters and buffers have the names that they have in the script, a submodule's in a submodule. Those of a program are weights and biases of float layers and
// norms; its other constants are buffers, as are its ternary weights, which stay as they are.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <torch/csrc/jit/api/module.h>
#include <torch/nn/module.h>

#include "bitlab/nn/named_tensors.h"
#include "bitlab/program/program.h"

namespace bitlab::deploy {

class ScriptNetwork : public torch::nn::Module {
 public:
  // In eval. Parameters and buffers are the script's own. Names in the place of those of the script: of its inputs, which are the arguments of forward(), and
  // of its outputs, which are the keys of a dict, or else "output", or "output_0", "output_1", ... of a tuple.
  explicit ScriptNetwork(torch::jit::Module script, std::vector<std::string> inputs = {},
                         std::vector<std::string> outputs = {});

  // Operators are called one by one, as the script has them, without TorchScript's optimizations: so others see them. Errors (bitlab::Exception):
  // InvalidArgument (other inputs), Unsupported (an output that is no tensor); c10::Error of LibTorch.
  nn::NamedTensors forward(const nn::NamedTensors& inputs);
  void train(bool on = true) override;

  const std::vector<std::string>& inputs() const { return inputs_; }

 private:
  torch::jit::Module script_;
  std::vector<std::string> inputs_, outputs_;
};

// Of a program, with the names of its inputs and outputs. Errors: Unsupported (states, a node without a form), those of to_script().
Result<std::shared_ptr<ScriptNetwork>> network_of(const program::Program& program);

// Of a file by torch.jit.save, on the CPU. Errors: NotFound, and Corrupt with what LibTorch says.
Result<std::shared_ptr<ScriptNetwork>> load_script(const std::filesystem::path& path);

}  // namespace bitlab::deploy
