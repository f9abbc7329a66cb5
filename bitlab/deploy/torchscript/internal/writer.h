// What the operations' writers share: the program, and the names that its values have become.
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "bitlab/deploy/torchscript/torchscript.h"

namespace bitlab::deploy::torchscript {

class Writer {
 public:
  Writer(const program::Program& program, bool is_packed, bool is_trainable)
      : p(program), packed(is_packed), trainable(is_trainable) {}
  Result<Script> script();

  const program::Program& p;
  const bool packed, trainable;

  // Where the module is to be trained: the product of inputs of a recurrent node, which has no other reader and is written together with it. Null: none.
  const program::Node* product_of_inputs(const program::Node& recurrent) const;
  static bool has(const program::Node& node, size_t input) {
    return input < node.inputs.size() && node.inputs[input] != program::kNone;
  }
  const program::Value& value(const program::Node& node, size_t input) const { return p.value(node.inputs[input]); }
  const program::Shape& shape(const program::Node& node, size_t input) const { return value(node, input).shape; }
  // An input as an expression; None where it is left out.
  std::string in(const program::Node& node, size_t input);
  // An attribute as an expression: a number, a list, a text in quotes. Symbols are variables.
  std::string attribute(const program::Node& node, const std::string& name);
  std::string size(const program::Dim& dim);
  std::string sizes(const program::Shape& shape);
  // The names of a node's inputs and attributes, {n} and {ours}, in a text in braces replaced by what they are (ops.def).
  std::string fill(const program::Node& node, std::string_view expression);
  // How many positions the states hold before the run.
  std::string past() const { return past_; }
  // A last argument: the device of the inputs.
  std::string device() const { return p.inputs.empty() ? "" : ", device=" + names_.at(p.inputs[0]) + ".device"; }
  // Where BitLab's operators are.
  std::string ours() const { return packed ? "bitlab" : "self"; }

  // A constant of floats, or of plain bytes, as it is stored, and an expression of it as what the program computes with.
  at::Tensor tensor(program::ValueId id) const;
  static std::string as_float(std::string expression, const at::Tensor& stored);

  // A buffer of the module with the name, or with a number behind it where it is taken, as an expression.
  std::string buffer(const std::string& wanted, at::Tensor tensor, bool is_parameter = false);
  void add(const std::string& statement) { body_ += "    " + statement + "\n"; }
  // The name of a variable.
  std::string unique(std::string_view wanted);
  // What a state is behind the run.
  void set_next_state(program::ValueId state, std::string variable) { next_states_[state] = std::move(variable); }
  // What a weight of integers is to BitLab's operators: "codes, scale, scale_neg", and the group.
  struct Weight {
    std::string operands;
    int64_t group = 0;
  };
  Weight weight(program::ValueId id);

  static Error refuse(const program::Node& node, std::string_view why) {
    return make_error(ErrorCode::kUnsupported, "[torchscript] {}, got {} (node={})", why, name(node.op), node.name);
  }

 private:
  void find_products_of_inputs();
  Status add_inputs();
  Status add_node(const program::Node& node);
  std::string returned();
  std::string constant(program::ValueId id, bool is_parameter);
  std::string methods(const std::string& forward) const;

  Script script_;
  std::string parameters_, body_;
  std::map<program::ValueId, std::string> names_;  // expressions, by value
  std::map<program::ValueId, Weight> weights_;
  std::map<program::ValueId, std::string> next_states_;
  std::map<const program::Node*, const program::Node*> products_of_inputs_;  // by recurrent node
  std::unordered_set<const program::Node*> written_with_others_;
  std::unordered_set<std::string> taken_, taken_buffers_;
  std::array<std::string, program::kMaxSymbols> symbols_;  // variables
  std::string past_ = "0";
};

// A dtype as LibTorch numbers it.
int script_dtype(program::DType dtype);

using Emitter = Result<std::string> (*)(Writer& w, const program::Node& node);  // the expression of a node's results

#define BITLAB_SCRIPT_WRITER(op) Result<std::string> script_##op(Writer& w, const program::Node& node);
#include "bitlab/deploy/torchscript/ops.def"

}  // namespace bitlab::deploy::torchscript
