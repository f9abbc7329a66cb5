// Who reads which tensor in a recorded forward pass. A rewrite of a network's weights is right only where everything that reads them is known.
#pragma once

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include <torch/nn/module.h>

#include "bitlab/deploy/internal/recording.h"

namespace bitlab::deploy {

// Of the calls that the output depends on. The recording must outlive it.
class Readers {
 public:
  explicit Readers(const Recording& recording);

  // The calls that have this very tensor among their arguments; one that has it twice counts twice.
  const std::vector<const Call*>& of(const at::Tensor& tensor) const;
  // The calls that have a tensor of its memory among their arguments, or codes that were made of such a tensor.
  const std::vector<const Call*>& of_memory(const at::Tensor& tensor) const;
  // Whether this very tensor is one that the forward pass returns.
  bool is_output(const at::Tensor& tensor) const {
    return std::any_of(outputs_.begin(), outputs_.end(), [&](const auto& output) { return tensor.is_same(output.second); });
  }

 private:
  nn::NamedTensors outputs_;
  std::unordered_map<const void*, std::vector<const Call*>> by_tensor_, by_memory_;
};

// The paths of modules that have parameters of their own, none of which the forward pass reads: a head that only training uses.
std::vector<std::string> unread_modules(const torch::nn::Module& module, const Readers& readers);

}  // namespace bitlab::deploy
