// Readers of control flow that is known while a model is read.
#include "bitlab/format/onnx/internal/readers.h"

namespace bitlab::format::onnx {

namespace {

Result<const ModelGraph*> body_of(const Reader& r, std::string_view attribute) {
  const ModelAttribute* found = r.node().find(attribute);
  if (found == nullptr || found->graph == nullptr) return r.corrupt("a graph as {}, got none", attribute);
  return found->graph.get();
}

InnerGraph inner_of(const ModelGraph& graph) {
  InnerGraph inner{&graph.nodes, &graph.tensors, {}, {}};
  for (const ModelPort& port : graph.outputs) inner.outputs.push_back(port.name);
  return inner;
}

}  // namespace

Result<Operands> read_if(Reader& r) {
  BITLAB_TRY(const Tensor condition, r.known(0, "conditions"));
  if (condition.count() != 1) return r.corrupt("one condition, got {}", condition.count());
  BITLAB_TRY(const ModelGraph* const graph, body_of(r, condition.integer(0) != 0 ? "then_branch" : "else_branch"));
  return r.inner(inner_of(*graph));
}

}  // namespace bitlab::format::onnx
