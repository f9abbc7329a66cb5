// TorchScript: a program as a module that torch.jit.load, LibTorch and the interpreter of phones run.
//
// Its forward() takes the program's inputs by place, and has a statement for each node, under its name. It returns a tensor, where the program has one output; a
// tuple of outputs called output_0, output_1, ...; else a dict by name. Sizes that differ from run to run are read from the inputs. States are inputs behind
// the others, [batch, groups, past, d], empty in the first run, and entries `<name>.next` of the dict, which hold the new positions, too.
//
// Ternary weights are buffers of packed codes (ternary/codes.h) in both variants:
//
//   packed     products are BitLab's operators, torch.ops.bitlab, with the runtime's bits; a process has them once it imports bitlab.ops or links bitlab_ops
//   portable   ATen's operators alone: codes are unpacked by shifts, products are of floats that are integers, in float64 where sums may pass 2^24. Where
//              activations are quantized and scales are by tensor or channel, a layer has the runtime's bits
//
// Values that are not finite raise errors in operators of BitLab alone.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/jit/api/module.h>

#include "bitlab/program/program.h"

namespace bitlab::deploy {

// A module as text: methods in TorchScript, which are Python as well where `torch` has the operators of ATen and `bitlab` those of BitLab, and the buffers
// that they read.
struct Script {
  struct Buffer {
    std::string name;  // of an attribute of the module
    at::Tensor tensor;
    // Float32, and what training changes: a weight or bias of a float layer or a norm.
    bool is_parameter = false;
  };
  std::string source;
  std::vector<Buffer> buffers;
};

// The same text and buffers for the same program, whose memory they do not share. `variant`: packed or portable. Errors: those of verify(), UnknownName, and
// Unsupported where TorchScript has no form for a node, naming it. `trainable`: float recurrent layers are LibTorch's, which interception and capture know,
// in place of a loop over the tokens.
Result<Script> to_script(const program::Program& program, std::string_view variant = "packed", bool trainable = false);

// The module of that text, in eval, with parameters where `trainable`. Errors: those of to_script().
Result<torch::jit::Module> to_torchscript(const program::Program& program, std::string_view variant = "packed",
                                          bool trainable = false);

// Bytes of a .pt file, and of a .ptl file, which torch::jit::_load_for_mobile reads. The program's metadata are extra files of both.
Result<std::string> torchscript_bytes(const program::Program& program, std::string_view variant = "packed");
Result<std::string> to_mobile(const program::Program& program, std::string_view variant = "portable");

}  // namespace bitlab::deploy
