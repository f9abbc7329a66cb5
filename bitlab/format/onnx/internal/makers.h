// Which node makes a value of a program.
#pragma once

#include <vector>

#include "bitlab/program/program.h"

namespace bitlab::format::onnx {

class Makers {
 public:
  explicit Makers(const program::Program& program) : p_(program), nodes_(program.values.size(), -1) {
    for (size_t i = 0; i < p_.nodes.size(); ++i) set(i);
  }

  // The place of the node among the program's; -1: none, as of what comes later than the last set().
  int64_t place(program::ValueId id) const {
    const auto at = static_cast<size_t>(id);
    return id == program::kNone || at >= nodes_.size() ? -1 : nodes_[at];
  }
  // Null where no node makes the value, or one with another operation.
  const program::Node* of(program::ValueId id) const {
    const int64_t at = place(id);
    return at < 0 ? nullptr : &p_.nodes[static_cast<size_t>(at)];
  }
  const program::Node* of(program::ValueId id, program::Op op) const {
    const program::Node* node = of(id);
    return node == nullptr || node->op != op ? nullptr : node;
  }
  // The node in this place makes its outputs.
  void set(size_t place) {
    nodes_.resize(p_.values.size(), -1);
    for (const program::ValueId id : p_.nodes[place].outputs) nodes_[static_cast<size_t>(id)] = static_cast<int64_t>(place);
  }

 private:
  const program::Program& p_;
  std::vector<int64_t> nodes_;  // by value
};

}  // namespace bitlab::format::onnx
