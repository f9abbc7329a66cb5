// Operations that move values.
#include <algorithm>
#include <limits>

#include "bitlab/format/onnx/internal/operations.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::Node;
using program::Shape;
using program::Sizes;

Result<Names> write_reshape(Writer& w, const Node& node) {
  const Shape &from = w.shape(node, 0), &to = node.attribute<Shape>("shape");
  const std::string x = w.in(node, 0);
  return Names{from == to ? w.g.node("Identity", {x}) : w.reshape(x, from, to)};
}

Result<Names> write_permute(Writer& w, const Node& node) {
  return Names{w.g.node("Transpose", {w.in(node, 0)}, {{"perm", node.attribute<Sizes>("dims")}})};
}

namespace {

constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();

// Where a part of `length` values ends that begins at `start`, int64 [1].
std::string end_of(Writer& w, int64_t start, const Dim& length, int64_t step) {
  if (!length.is_number()) {
    std::string end = w.size(with_factor(length, length.factor * step));
    if (start != 0) end = w.g.node("Add", {end, w.g.ints({start})});
    return end;
  }
  const int64_t end = start + (length.factor - 1) * step + 1;
  return w.g.ints({start < 0 && end >= 0 ? kEnd : end});
}

std::string part(Writer& w, const std::string& x, int64_t dim, int64_t start, const std::string& end, int64_t step = 1) {
  return w.g.node("Slice", {x, w.g.ints({start}), end, w.g.ints({dim}), w.g.ints({step})});
}

}  // namespace

Result<Names> write_slice(Writer& w, const Node& node) {
  const int64_t start = node.attribute<int64_t>("start"), step = node.attribute<int64_t>("step");
  const std::string end = end_of(w, start, node.attribute<Shape>("length")[0], step);
  return Names{part(w, w.in(node, 0), node.attribute<int64_t>("dim"), start, end, step)};
}

// What is in front of the source, the source, and what is behind, where there is any.
Result<Names> write_slice_scatter(Writer& w, const Node& node) {
  const int64_t dim = node.attribute<int64_t>("dim"), start = node.attribute<int64_t>("start");
  const Dim& length = w.shape(node, 1)[static_cast<size_t>(dim)];
  if (node.attribute<int64_t>("step") != 1) return w.refuse(node, "a step of 1");
  const Dim& whole = w.shape(node, 0)[static_cast<size_t>(dim)];
  const bool to_end = start < 0 ? length == Dim(-start) : sum(length, start) == whole;
  const std::string x = w.in(node, 0);
  Names parts;
  if (start != 0) parts.push_back(part(w, x, dim, 0, w.g.ints({start})));
  parts.push_back(w.in(node, 1));
  if (!to_end) parts.push_back(w.g.node("Slice", {x, end_of(w, start, length, 1), w.g.ints({kEnd}), w.g.ints({dim})}));
  return Names{w.g.node("Concat", parts, {{"axis", dim}})};
}

Result<Names> write_gather(Writer& w, const Node& node) {
  return Names{w.g.node("GatherElements", {w.in(node, 0), w.in(node, 1)}, {{"axis", node.attribute<int64_t>("dim")}})};
}

Result<Names> write_scatter(Writer& w, const Node& node) {
  const auto& mode = node.attribute<std::string>("mode");
  const std::string reduction = mode == "set" ? "none" : mode == "minimum" ? "min" : mode == "maximum" ? "max" : mode;
  return Names{w.g.node("ScatterElements", {w.in(node, 0), w.in(node, 1), w.in(node, 2)},
                        {{"axis", node.attribute<int64_t>("dim")}, {"reduction", reduction}})};
}

Result<Names> write_flip(Writer& w, const Node& node) {
  const auto& dims = node.attribute<Sizes>("dims");
  if (dims.empty()) return Names{w.g.node("Identity", {w.in(node, 0)})};
  const auto all = [&](int64_t value) { return w.g.ints(Ints(dims.size(), value)); };
  return Names{
      w.g.node("Slice", {w.in(node, 0), all(-1), all(std::numeric_limits<int64_t>::min()), w.g.ints(dims), all(-1)})};
}

Result<Names> write_take(Writer& w, const Node& node) {
  return Names{w.g.node("Gather", {w.in(node, 0), w.in(node, 1)}, {{"axis", node.attribute<int64_t>("dim")}})};
}

Result<Names> write_cat(Writer& w, const Node& node) {
  Names parts;
  for (size_t i = 0; i < node.inputs.size(); ++i) parts.push_back(w.in(node, i));
  return Names{w.g.node("Concat", parts, {{"axis", node.attribute<int64_t>("dim")}})};
}

Result<Names> write_split(Writer& w, const Node& node) {
  return w.g.nodes("Split", {w.in(node, 0), w.sizes(node.attribute<Shape>("sizes"))}, node.outputs.size(),
                   {{"axis", node.attribute<int64_t>("dim")}});
}

Result<Names> write_expand(Writer& w, const Node& node) {
  return Names{w.g.node("Expand", {w.in(node, 0), w.sizes(node.attribute<Shape>("shape"))})};
}

Result<Names> write_cast(Writer& w, const Node& node) {
  BITLAB_TRY(const program::DType dtype, program::parse_dtype(node.attribute<std::string>("dtype")));
  return Names{w.g.node("Cast", {w.in(node, 0)}, {{"to", static_cast<int64_t>(element_type(dtype))}})};
}

Result<Names> write_positions(Writer& w, const Node& node) {
  const std::string size = w.size(node.attribute<Shape>("size")[0]);
  const std::string one = w.g.integer(1);
  if (node.attribute<int64_t>("continues") == 0 || w.p.states.empty())
    return Names{w.g.node("Range", {w.g.integer(0), w.scalar(size), one})};
  const std::string end = w.g.node("Add", {w.past(), size});
  return Names{w.g.node("Range", {w.scalar(w.past()), w.scalar(end), one})};
}

}  // namespace bitlab::format::onnx
