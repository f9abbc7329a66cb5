// The ternary layers that stand for LibTorch's, with the same options and the same weights.
#pragma once

#include <memory>
#include <string>

#include <torch/nn/modules/container/any.h>

#include "bitlab/config/config.h"
#include "bitlab/ops/ops.h"

namespace bitlab::convert {

// A new layer in the two forms in which containers hold their children.
struct Twin {
  std::shared_ptr<torch::nn::Module> module;
  torch::nn::AnyModule any;
};

// "linear", "conv2d", "conv_transpose1d", "embedding", "embedding_bag", "lstm", "gru"; empty for modules that have no ternary form.
std::string type_of(const torch::nn::Module& module);

// How a convolution reads its weight; null for other modules.
std::unique_ptr<ops::ConvWindow> window_of(const torch::nn::Module& module);

// The ternary layer of a module with a type. Its weight and bias are the module's own tensors, so that optimizers, layers that share them and
// requires_grad stay as they are; its scales begin from them, and it is in training or eval as the module is. Error (bitlab::Exception): Unsupported, for options that the ternary layer does not have (max_norm, a padding by name, proj_size).
Twin make_twin(torch::nn::Module& module, const BitQuantConfig& quant);

}  // namespace bitlab::convert
