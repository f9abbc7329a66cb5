// A program that is being rewritten: who makes a value, who reads it, and nodes that take the place of others.
#pragma once

#include <optional>
#include <vector>

#include "bitlab/format/onnx/internal/makers.h"
#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

class Rewriting {
 public:
  explicit Rewriting(program::Program& program);

  program::Program& p;
  // The node that makes a value with that operation; null where it is none, or another.
  const program::Node* maker(program::ValueId id, program::Op op) const { return makers_.of(id, op); }
  // The one node that reads a value with that operation; null where there are several, none or another, or where it is an output.
  const program::Node* reader(program::ValueId id, program::Op op) const;
  // Floats of a constant that are stored as such; nothing otherwise.
  std::optional<program::FloatData> floats(program::ValueId id) const;
  bool is_number(program::ValueId id, float value) const;  // a constant of one element

  // Of a node of two inputs, the one beside `id`.
  static program::ValueId other(const program::Node& node, program::ValueId id) {
    return node.inputs[node.inputs[0] == id ? 1 : 0];
  }
  // `node` in the place of the one that made its output.
  void replace(program::Node node);
  program::ValueId add_constant(std::string name, std::vector<int64_t> shape, program::Storage storage,
                                program::Constant constant);
  program::ValueId add_floats(std::string name, std::vector<int64_t> shape, std::vector<float> values);

 private:
  void use(const program::Node& node, size_t index);
  Makers makers_;
  std::vector<std::vector<size_t>> readers_;  // by value
};

// Products that are written out as docs/numerics.md has them become ternary_linear, ternary_conv and ternary_embedding again, with the codes and scales
// that the model has: quantizers of the forms that the writer makes, a float product of integers, and what is multiplied and added behind it.
void recover_products(Rewriting& r);

}  // namespace bitlab::format::onnx
