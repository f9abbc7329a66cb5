// Lowers recorded calls, one by one, into a program under construction.
#pragma once

#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <torch/nn/module.h>

#include "bitlab/deploy/recording.h"
#include "bitlab/program/program.h"

namespace bitlab::deploy {

// The names of a module's parameters and buffers, by tensor.
std::unordered_map<const void*, std::string> tensor_names(const torch::nn::Module& module);

// A forward pass with two sizes of batch: what differs between them shows which sizes are the batch's.
struct RecordedPair {
  Recording recording, twin;
};

// Sets the module to eval. `keep` is for the first recording, whose input is `input`. Errors: those of record().
Result<RecordedPair> record_pair(torch::nn::Module& module, const std::function<at::Tensor(const at::Tensor&)>& forward,
                                 const at::Tensor& input, const at::Tensor& twin_input, Keep keep = Keep::kTensors);

// What a call without an activation makes is a constant, with the values that were recorded.
class Lowering {
 public:
  // `names`: of the module's parameters and buffers, by tensor.
  explicit Lowering(std::unordered_map<const void*, std::string> names) : names_(std::move(names)) {}

  // The program of the first recording.
  Result<program::Program> lower(const RecordedPair& pair, std::map<std::string, std::string> metadata);

  // What LibTorch computed for each node of that program, where the recording kept copies; undefined for nodes within a call.
  const std::vector<at::Tensor>& results() const { return results_; }

  // --- for the functions of lowering/

  bool is_activation(const at::Tensor& tensor) const { return values_.contains(tensor.unsafeGetTensorImpl()); }
  // The activation that a tensor is. Error: Unsupported, for another one.
  Result<program::ValueId> activation(const Call& call, const std::string& argument);
  // An activation, or a float constant: a tensor or a number.
  Result<program::ValueId> operand(const Call& call, const std::string& argument);
  Result<program::ValueId> operand(const Call& call, const at::Tensor& tensor, const at::Tensor& twin_tensor);
  // A float constant with the values of an argument; kNone where the argument is None.
  Result<program::ValueId> floats(const Call& call, const std::string& argument);
  // The same with values that were computed from it, in the canonical order of a layer's weight.
  program::ValueId constant(const at::Tensor& source, const at::Tensor& values);
  program::ValueId constant(const at::Tensor& values) { return constant(values, values); }
  // A constant from packed codes, or from weights kept in int8. `shape` is [rows, depth] or [rows, kernel..., channels / groups].
  Result<program::ValueId> ternary(const Call& call, std::vector<int64_t> shape);

  // Adds a node. A layer is called by its weight's name.
  Result<program::ValueId> node(program::Op op, std::vector<program::ValueId> inputs,
                                std::map<std::string, program::Attribute> attributes = {});
  // Makes an output of the call stand for a value, whose shape must be the recorded one. Refuses in-place operators whose memory others see.
  Status finish(const Call& call, program::ValueId value, const at::Tensor& output);
  Status finish(const Call& call, program::ValueId value) { return finish(call, value, call.outputs.at(0).toTensor()); }
  // Both, for the calls that are one node.
  Status lower_to(const Call& call, program::Op op, std::vector<program::ValueId> inputs,
                  std::map<std::string, program::Attribute> attributes = {});

  const program::Shape& shape(program::ValueId value) const { return builder_.peek().value(value).shape; }
  // x in another shape; x itself where it has that.
  Result<program::ValueId> reshape(program::ValueId x, const program::Shape& shape);
  // The shape of an output: a size that changed with the batch is symbolic. Error: Unsupported, for sizes that are no multiples of it.
  Result<program::Shape> shape_of(const Call& call, const at::Tensor& output, const at::Tensor& twin_output) const;
  // The call of the other recording that is this one's twin.
  const Call& twin() const { return *twin_; }

  // Remembers that `tensor` is derived from the parameter that `source` is or is derived from.
  void derive(const at::Tensor& tensor, const at::Tensor& source);
  // The tensor that a transposed parameter is the transpose of; undefined for others.
  at::Tensor transposed(const at::Tensor& tensor) const;
  void remember_transpose(const at::Tensor& tensor, const at::Tensor& source);

 private:
  Status lower_call(const Call& call);
  Status check_unaliased(const Call& call) const;
  bool reads_activations(const Call& call) const;
  // The name, or with the next free number behind it. Each result is given once.
  std::string unique_name(const std::string& name);
  // A float constant of a tensor that both recordings have; expanded where it repeats a row for each sample.
  Result<program::ValueId> shared_constant(const Call& call, const at::Tensor& tensor, const at::Tensor& twin_tensor);

  program::ProgramBuilder builder_;
  int64_t batch_ = 1, twin_batch_ = 1;
  const Call* twin_ = nullptr;
  std::unordered_map<const void*, std::string> names_;
  std::unordered_map<const void*, program::ValueId> values_;     // activations, by tensor
  std::unordered_map<const void*, program::ValueId> constants_;  // by tensor
  std::unordered_map<const void*, at::Tensor> transposes_;
  std::vector<at::Tensor> results_;                   // by node
  std::vector<at::Tensor> kept_;                      // whose addresses stand in the maps
  std::unordered_map<std::string, int> counts_;       // of nodes, by operation, for their names
  std::unordered_set<std::string> taken_;             // names
  std::unordered_map<std::string, int> names_taken_;  // the last number behind a name
};

}  // namespace bitlab::deploy
