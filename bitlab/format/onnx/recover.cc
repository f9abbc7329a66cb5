#include "bitlab/format/onnx/internal/recover.h"

#include <algorithm>
#include <set>
#include <string>

#include "bitlab/format/onnx/internal/rewrite.h"
#include "bitlab/program/verify.h"

namespace bitlab::format::onnx {
namespace {

using program::Node;
using program::Op;
using program::Program;
using program::Value;
using program::ValueId;
using program::ValueKind;

// Reshapes and expansions to what is there already: their readers read what is in front.
void drop_copies(Program& p) {
  std::vector<ValueId> same(p.values.size());
  for (size_t i = 0; i < same.size(); ++i) same[i] = static_cast<ValueId>(i);
  for (Node& node : p.nodes) {
    for (ValueId& id : node.inputs)
      if (id != program::kNone) id = same[static_cast<size_t>(id)];
    if (node.op != Op::reshape && node.op != Op::expand) continue;
    const Value &from = p.value(node.inputs[0]), &to = p.value(node.output());
    if (from.kind == ValueKind::kResult && from.shape == to.shape && from.dtype == to.dtype)
      same[static_cast<size_t>(node.output())] = node.inputs[0];
  }
  for (program::Output& output : p.outputs) output.value = same[static_cast<size_t>(output.value)];
}

// The values that outputs depend on, and inputs.
std::vector<bool> needed_values(const Program& p) {
  std::vector<bool> needed(p.values.size(), false);
  for (const ValueId id : p.inputs) needed[static_cast<size_t>(id)] = true;
  for (const ValueId id : p.states) needed[static_cast<size_t>(id)] = true;
  for (const program::Output& output : p.outputs) needed[static_cast<size_t>(output.value)] = true;
  for (auto node = p.nodes.rbegin(); node != p.nodes.rend(); ++node) {
    const bool is_needed =
        std::any_of(node->outputs.begin(), node->outputs.end(), [&](ValueId id) { return needed[static_cast<size_t>(id)]; });
    if (!is_needed) continue;
    for (const ValueId id : node->outputs) needed[static_cast<size_t>(id)] = true;
    for (const ValueId id : node->inputs)
      if (id != program::kNone) needed[static_cast<size_t>(id)] = true;
  }
  return needed;
}

// The model's names, which nodes of one output have, too.
void rename(Program& p, const std::map<ValueId, std::string_view>& names) {
  std::set<std::string> taken;
  for (const Value& value : p.values) taken.insert(value.name);
  for (const Node& node : p.nodes) taken.insert(node.name);
  for (Node& node : p.nodes) {
    const auto found = names.find(node.output());
    if (node.outputs.size() != 1 || found == names.end()) continue;
    std::string name(found->second);
    if (name.empty() || !taken.insert(name).second) continue;
    p.values[static_cast<size_t>(node.output())].name = name;
    node.name = std::move(name);
  }
}

// linear(x, w) + b as linear(x, w, b).
void join_biases(Rewriting& r) {
  for (size_t i = 0; i < r.p.nodes.size(); ++i) {
    const Node node = r.p.nodes[i];
    if (node.op != Op::linear || node.inputs[2] != program::kNone) continue;
    const Node* added = r.reader(node.output(), Op::add);
    if (added == nullptr) continue;
    const ValueId bias = Rewriting::other(*added, node.output());
    const program::Shape row{r.p.value(node.output()).shape.back()};
    if (!r.floats(bias) || r.p.value(bias).shape != row) continue;
    r.replace({Op::linear, added->name, {node.inputs[0], node.inputs[1], bias}, added->outputs, {}});
  }
}

}  // namespace

void drop_unneeded(Program& p, std::map<ValueId, std::string_view>& names) {
  const std::vector<bool> needed = needed_values(p);
  std::vector<ValueId> place(p.values.size(), program::kNone);
  std::vector<Value> values;
  for (size_t i = 0; i < needed.size(); ++i) {
    if (!needed[i]) continue;
    place[i] = static_cast<ValueId>(values.size());
    values.push_back(std::move(p.values[i]));
  }
  const auto moved = [&](ValueId& id) {
    if (id != program::kNone) id = place[static_cast<size_t>(id)];
  };
  std::erase_if(p.nodes, [&](const Node& node) { return !needed[static_cast<size_t>(node.output())]; });
  std::erase_if(p.constants, [&](const auto& constant) { return !needed[static_cast<size_t>(constant.value)]; });
  for (Node& node : p.nodes) {
    std::for_each(node.inputs.begin(), node.inputs.end(), moved);
    std::for_each(node.outputs.begin(), node.outputs.end(), moved);
  }
  for (program::Constant& constant : p.constants) moved(constant.value);
  for (ValueId& id : p.inputs) moved(id);
  for (ValueId& id : p.states) moved(id);
  for (program::Output& output : p.outputs) moved(output.value);
  std::map<ValueId, std::string_view> kept;
  for (const auto& [id, name] : names)
    if (needed[static_cast<size_t>(id)]) kept[place[static_cast<size_t>(id)]] = name;
  names = std::move(kept);
  p.values = std::move(values);
}

Result<Program> tidied(Program program, const std::map<ValueId, std::string_view>& names) {
  std::map<ValueId, std::string_view> kept = names;
  drop_copies(program);
  drop_unneeded(program, kept);
  Rewriting rewriting(program);
  recover_products(rewriting);
  join_biases(rewriting);
  drop_unneeded(program, kept);
  rename(program, kept);
  BITLAB_RETURN_IF_ERROR(verify(program));
  return program;
}

}  // namespace bitlab::format::onnx
