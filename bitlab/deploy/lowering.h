// Lowers recorded calls, one by one, into a program under construction.
#pragma once

#include <string>
#include <unordered_map>
#include <utility>

#include <torch/nn/module.h>

#include "bitlab/deploy/recording.h"
#include "bitlab/program/program.h"

namespace bitlab::deploy {

// The names of a module's parameters and buffers, by tensor.
std::unordered_map<const void*, std::string> tensor_names(const torch::nn::Module& module);

class Lowering {
 public:
  // `names`: of the module's parameters and buffers, by tensor.
  explicit Lowering(std::unordered_map<const void*, std::string> names) : names_(std::move(names)) {}

  // The program of a whole recording, whose input has `batch` samples.
  Result<program::Program> lower(const Recording& recording, int64_t batch, std::map<std::string, std::string> metadata);

  // What LibTorch computed for each node of that program, where the recording kept copies.
  const std::vector<at::Tensor>& results() const { return results_; }

  // For the functions of lowering.def.

  // The activation that a tensor is. Error: Unsupported, for a tensor that no lowered call made.
  Result<program::ValueId> activation(const Call& call, const std::string& argument);
  // A float constant with the values of a parameter; kNone where the argument is None. Convolution weights [n, c, kh, kw] are
  // reordered to [n, kh, kw, c].
  Result<program::ValueId> floats(const Call& call, const std::string& argument);
  // A ternary constant from packed codes. `shape` is [rows, depth] or [rows, kernel_h, kernel_w, channels].
  Result<program::ValueId> ternary(const Call& call, std::vector<int64_t> shape);
  // Adds the node and makes the call's first output stand for its result, whose shape must be the recorded one.
  Status node(const Call& call, program::Op op, std::vector<program::ValueId> inputs,
              std::map<std::string, program::Attribute> attributes = {});
  // Makes a tensor stand for a value that exists.
  void bind(const at::Tensor& tensor, program::ValueId value);
  // Remembers that `tensor` is derived from the parameter that `source` is or is derived from.
  void derive(const at::Tensor& tensor, const at::Tensor& source);
  // The tensor that a transposed parameter is the transpose of; undefined for others.
  at::Tensor transposed(const at::Tensor& tensor) const;
  void remember_transpose(const at::Tensor& tensor, const at::Tensor& source);

 private:
  Status lower_call(const Call& call);
  Status check_unaliased(const Call& call) const;
  std::string constant_name(const at::Tensor& tensor) const;

  program::ProgramBuilder builder_;
  int64_t batch_ = 1;
  std::unordered_map<const void*, std::string> names_;
  std::unordered_map<const void*, program::ValueId> values_;     // activations, by tensor
  std::unordered_map<const void*, program::ValueId> constants_;  // by tensor
  std::unordered_map<const void*, at::Tensor> transposes_;
  std::vector<at::Tensor> results_;              // by node
  std::unordered_map<std::string, int> counts_;  // of nodes, by operation, for their names
};

}  // namespace bitlab::deploy
