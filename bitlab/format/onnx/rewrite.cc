#include "bitlab/format/onnx/internal/rewrite.h"

#include <algorithm>
#include <span>

namespace bitlab::format::onnx {

using program::Node;
using program::Op;
using program::Program;
using program::ValueId;

namespace {

template <class T>
bool same_bytes(std::span<const T> a, std::span<const T> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}
bool same_data(const program::FloatData& a, const program::FloatData& b) { return same_bytes(a, b); }
bool same_data(const program::HalfData& a, const program::HalfData& b) { return same_bytes(a.bits, b.bits); }
bool same_data(const program::RawData& a, const program::RawData& b) { return same_bytes(a.bytes, b.bytes); }
bool same_data(const program::Int8Data& a, const program::Int8Data& b) {
  return same_bytes(a.t, b.t) && same_bytes(a.scale, b.scale);
}
bool same_data(const program::TernaryData& a, const program::TernaryData& b) {
  return same_bytes(a.codes, b.codes) && same_bytes(a.scale, b.scale) && same_bytes(a.scale_neg, b.scale_neg) &&
         same_bytes(a.group_scale, b.group_scale) && a.group == b.group;
}

// A layer that is used twice is written twice.
bool is_same(const program::Constant& a, const program::Constant& b) {
  return std::visit(
      [&](const auto& data) {
        const auto* other = std::get_if<std::decay_t<decltype(data)>>(&b.data);
        return other != nullptr && same_data(data, *other);
      },
      a.data);
}

}  // namespace

Rewriting::Rewriting(Program& program) : p(program), makers_(program), readers_(p.values.size()) {
  for (size_t i = 0; i < p.nodes.size(); ++i) use(p.nodes[i], i);
}

void Rewriting::use(const Node& node, size_t index) {
  for (const ValueId id : node.inputs)
    if (id != program::kNone) readers_[static_cast<size_t>(id)].push_back(index);
}

const Node* Rewriting::reader(ValueId id, Op op) const {
  const auto& readers = readers_[static_cast<size_t>(id)];
  const bool is_output = std::any_of(p.outputs.begin(), p.outputs.end(), [&](const auto& o) { return o.value == id; });
  if (readers.size() != 1 || is_output || p.nodes[readers[0]].op != op) return nullptr;
  return &p.nodes[readers[0]];
}

std::optional<program::FloatData> Rewriting::floats(ValueId id) const {
  const program::Constant* constant = id == program::kNone ? nullptr : p.constant(id);
  const auto* data = constant == nullptr ? nullptr : std::get_if<program::FloatData>(&constant->data);
  return data == nullptr ? std::nullopt : std::optional(*data);
}

bool Rewriting::is_number(ValueId id, float value) const {
  const auto data = floats(id);
  return data && data->size() == 1 && (*data)[0] == value;
}

void Rewriting::replace(Node node) {
  const auto index = static_cast<size_t>(makers_.place(node.output()));
  for (const ValueId id : p.nodes[index].inputs)
    if (id != program::kNone) std::erase(readers_[static_cast<size_t>(id)], index);
  node.exactness = schema(node.op).exactness;
  program::complete(node);
  p.nodes[index] = std::move(node);
  makers_.set(index);
  use(p.nodes[index], index);
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): data as it comes
ValueId Rewriting::add_constant(std::string name, std::vector<int64_t> shape, program::Storage storage,
                                program::Constant constant) {
  program::Value value;
  value.shape.assign(shape.begin(), shape.end());
  for (const program::Constant& other : p.constants)
    if (p.value(other.value).storage == storage && p.value(other.value) == static_cast<const program::TensorType&>(value) &&
        is_same(other, constant))
      return other.value;
  const auto id = static_cast<ValueId>(p.values.size());
  value.name = std::move(name);
  value.kind = program::ValueKind::kConstant;
  value.storage = storage;
  p.values.push_back(std::move(value));
  constant.value = id;
  p.constants.push_back(std::move(constant));
  readers_.emplace_back();
  return id;
}

ValueId Rewriting::add_floats(std::string name, std::vector<int64_t> shape, std::vector<float> values) {
  auto owned = std::make_shared<const std::vector<float>>(std::move(values));
  const program::FloatData view = *owned;
  return add_constant(std::move(name), std::move(shape), program::Storage::kPlain, {program::kNone, view, std::move(owned)});
}

}  // namespace bitlab::format::onnx
