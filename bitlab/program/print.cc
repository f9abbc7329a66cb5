#include "bitlab/program/print.h"

#include <algorithm>

#include <fmt/format.h>

namespace bitlab::program {
namespace {

std::string text_of(const Program& p, const Attribute& attribute) {
  if (const auto* shape = std::get_if<Shape>(&attribute)) return p.show(*shape);
  if (const auto* number = std::get_if<int64_t>(&attribute)) return std::to_string(*number);
  if (const auto* real = std::get_if<double>(&attribute)) return fmt::format("{}", *real);
  if (const auto* sizes = std::get_if<Sizes>(&attribute)) return fmt::format("({})", fmt::join(*sizes, ", "));
  return std::get<std::string>(attribute);
}

std::string typed(const Program& p, const Value& v) {
  return fmt::format("{}: {}{}{}", v.name, v.storage == Storage::kPlain ? name(v.dtype) : name(v.storage), p.show(v.shape),
                     v.kind == ValueKind::kState ? " (state)" : "");
}

std::string print_node(const Program& p, const Node& node) {
  std::string arguments, results;
  const auto append = [](std::string& list, const std::string& text) { list += (list.empty() ? "" : ", ") + text; };
  const OpSchema& ops = schema(node.op);
  for (size_t i = 0; i < node.inputs.size(); ++i)
    if (node.inputs[i] != kNone) append(arguments, fmt::format("{}={}", ops.input(i).name, p.value(node.inputs[i]).name));
  for (const AttributeSchema& attribute : ops.attributes)
    append(arguments, fmt::format("{}={}", attribute.name, text_of(p, node.attributes.at(attribute.name))));
  for (const ValueId id : node.outputs) append(results, typed(p, p.value(id)));
  return fmt::format("{} = {}({})  # {}", results, ops.name, arguments, name(node.exactness));
}

// "tokens in [1, 2048]"; a symbol that nothing uses is left out.
std::string print_symbols(const Program& p) {
  std::string text;
  for (size_t i = 0; i < p.symbols.size(); ++i) {
    if (std::none_of(p.values.begin(), p.values.end(), [&](const Value& v) { return uses(v.shape, i); })) continue;
    const Symbol& s = p.symbols[i];
    text += fmt::format("symbol {} from {}{}{}\n", s.name, s.min, s.max == kMaxElements ? "" : fmt::format(" to {}", s.max),
                        s.is_context ? " (context)" : "");
  }
  return text;
}

}  // namespace

std::string print(const Program& p) {
  std::string text;
  for (const auto& [key, value] : p.metadata) text += fmt::format("# {}: {}\n", key, value);
  text += print_symbols(p);
  for (ValueId id : p.inputs) text += fmt::format("input {}\n", typed(p, p.value(id)));
  for (ValueId id : p.states) text += fmt::format("state {}\n", typed(p, p.value(id)));
  for (const Constant& c : p.constants) text += fmt::format("constant {}\n", typed(p, p.value(c.value)));
  for (const Node& node : p.nodes) text += print_node(p, node) + "\n";
  for (const Output& output : p.outputs) text += fmt::format("output {} = {}\n", output.name, p.value(output.value).name);
  return text;
}

}  // namespace bitlab::program
