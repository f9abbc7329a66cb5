// A torch.nn.Module of Python as LibTorch's: the same names, parameters and buffers, so that all that C++ does with a module works on it.
#pragma once

#include "bindings.h"

#include <torch/nn/module.h>

namespace bitlab::python {

// Children are LibTorch's own classes where Python's are the very classes that conversion knows (linear, convolutions, embeddings,
// attention), and else plain modules that bear the class's name. Their tensors are Python's; what has no tensors but parts is there as well.
// train() is Python's. A module that Python has in two places is one module here.
// It shows what was there when it was made: parameters that are replaced later (not those that are written to) are not seen.
std::shared_ptr<torch::nn::Module> mirror_of(const nanobind::object& module);

// A BitModel of C++ itself, or the mirror of a module of Python.
std::shared_ptr<torch::nn::Module> module_of(const nanobind::object& module);

}  // namespace bitlab::python
