#include "bitlab/program/print.h"

#include <fmt/format.h>

namespace bitlab::program {
namespace {

std::string text_of(const Attribute& attribute) {
  if (const auto* number = std::get_if<int64_t>(&attribute)) return std::to_string(*number);
  if (const auto* real = std::get_if<double>(&attribute)) return fmt::format("{}", *real);
  if (const auto* sizes = std::get_if<Sizes>(&attribute)) return fmt::format("({})", fmt::join(*sizes, ", "));
  return std::get<std::string>(attribute);
}

std::string typed(const Value& v) { return fmt::format("{}: {}{}", v.name, name(v.dtype), to_string(v.shape)); }

std::string print_node(const Program& p, const Node& node) {
  std::string arguments;
  const auto append = [&](std::string_view key, std::string_view text) {
    arguments += fmt::format("{}{}={}", arguments.empty() ? "" : ", ", key, text);
  };
  const OpSchema& ops = schema(node.op);
  for (size_t i = 0; i < node.inputs.size(); ++i)
    if (node.inputs[i] != kNone) append(ops.inputs[i].name, p.value(node.inputs[i]).name);
  for (const AttributeSchema& attribute : ops.attributes)
    append(attribute.name, text_of(node.attributes.at(attribute.name)));
  return fmt::format("{} = {}({})  # {}", typed(p.value(node.output)), ops.name, arguments, name(ops.exactness));
}

}  // namespace

std::string print(const Program& p) {
  std::string text;
  for (const auto& [key, value] : p.metadata) text += fmt::format("# {}: {}\n", key, value);
  for (ValueId id : p.inputs) text += fmt::format("input {}\n", typed(p.value(id)));
  for (const Constant& c : p.constants) text += fmt::format("constant {}\n", typed(p.value(c.value)));
  for (const Node& node : p.nodes) text += print_node(p, node) + "\n";
  for (ValueId id : p.outputs) text += fmt::format("output {}\n", p.value(id).name);
  return text;
}

}  // namespace bitlab::program
