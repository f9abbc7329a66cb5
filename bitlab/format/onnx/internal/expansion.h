// An operator as nodes of others, which are read in its place.
#pragma once

#include <deque>

#include "bitlab/format/onnx/internal/reader.h"

namespace bitlab::format::onnx {

inline ModelAttribute with_integer(std::string_view name, int64_t value) {
  ModelAttribute attribute;
  attribute.name = name, attribute.integer = value;
  return attribute;
}
inline ModelAttribute with_number(std::string_view name, float value) {
  ModelAttribute attribute;
  attribute.name = name, attribute.number = value;
  return attribute;
}
inline ModelAttribute with_text(std::string_view name, std::string_view value) {
  ModelAttribute attribute;
  attribute.name = name, attribute.text = value;
  return attribute;
}

class Expansion {
 public:
  explicit Expansion(Reader& r) : r_(r) {}

  // Names of an input of the node, empty where it is left out, and of what is given.
  std::string_view input(size_t i) { return r_.has(i) ? given(r_.operand(i)) : std::string_view(); }
  std::string_view given(Operand operand) {
    graph_.inputs.emplace_back(name(), std::move(operand));
    return graph_.inputs.back().first;
  }
  // Names of a node's outputs.
  std::vector<std::string_view> nodes(std::string_view type, std::vector<std::string_view> inputs, size_t outputs,
                                      std::vector<ModelAttribute> attributes = {}) {
    ModelNode node{r_.node().name, type, {}, std::move(inputs), {}, std::move(attributes)};
    for (size_t i = 0; i < outputs; ++i) node.outputs.push_back(name());
    return nodes_.emplace_back(std::move(node)).outputs;
  }
  std::string_view node(std::string_view type, std::vector<std::string_view> inputs,
                        std::vector<ModelAttribute> attributes = {}) {
    return nodes(type, std::move(inputs), 1, std::move(attributes))[0];
  }
  // What is left out of `outputs` (an empty name) is nothing.
  Result<Operands> results(std::vector<std::string_view> outputs) {
    graph_.nodes = &nodes_;
    graph_.outputs = std::move(outputs);
    return r_.inner(graph_);
  }

 private:
  std::string_view name() { return names_.emplace_back(fmt::format("{}.{}", r_.node().type, names_.size())); }

  Reader& r_;
  std::deque<std::string> names_;
  std::vector<ModelNode> nodes_;
  InnerGraph graph_;
};

}  // namespace bitlab::format::onnx
