#include "bitlab/program/op.h"

#include <array>
#include <sstream>

namespace bitlab::program {
namespace {

InputSchema parse_input(std::string text) {
  InputSchema input{"", InputKind::kActivation, text.ends_with('?')};
  if (input.optional) text.pop_back();
  const size_t colon = text.find(':');
  const std::string kind = colon == std::string::npos ? "" : text.substr(colon + 1);
  if (kind == "const") input.kind = InputKind::kFloatConstant;
  if (kind == "float") input.kind = InputKind::kFloat;
  if (kind == "ternary") input.kind = InputKind::kTernaryConstant;
  if (kind == "index") input.kind = InputKind::kIndex;
  if (kind == "step") input.kind = InputKind::kStep;
  input.name = text.substr(0, colon);
  return input;
}

AttributeSchema parse_attribute(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string kind = text.substr(colon + 1);
  return {text.substr(0, colon), kind == "int"     ? AttributeKind::kInt
                                 : kind == "sizes" ? AttributeKind::kSizes
                                 : kind == "float" ? AttributeKind::kFloat
                                                   : AttributeKind::kText};
}

OpSchema parse_schema(const char* name, Exactness exactness, ImageLayout layout, const char* inputs,
                      const char* attributes) {
  OpSchema schema{name, exactness, layout, {}, {}};
  std::istringstream input_list(inputs), attribute_list(attributes);
  for (std::string item; input_list >> item;) schema.inputs.push_back(parse_input(item));
  for (std::string item; attribute_list >> item;) schema.attributes.push_back(parse_attribute(item));
  return schema;
}

}  // namespace

std::optional<size_t> OpSchema::weight() const {
  const auto found = std::find_if(inputs.begin(), inputs.end(),
                                  [](const InputSchema& input) { return input.kind == InputKind::kTernaryConstant; });
  return found == inputs.end() ? std::nullopt : std::optional(static_cast<size_t>(found - inputs.begin()));
}

std::span<const OpSchema> op_schemas() {
  static const std::vector<OpSchema> schemas{
#define BITLAB_OP(name, exactness, layout, inputs, attributes) \
  parse_schema(#name, Exactness::exactness, ImageLayout::layout, inputs, attributes),
#include "bitlab/program/ops.def"
#undef BITLAB_OP
  };
  return schemas;
}

const OpSchema& schema(Op op) { return op_schemas()[static_cast<size_t>(op)]; }
std::string_view name(Op op) { return schema(op).name; }

std::string_view name(Exactness exactness) {
  constexpr std::array<std::string_view, 3> kNames{"same_kernel", "ieee_exact", "bounded"};
  return kNames.at(static_cast<size_t>(exactness));
}

Result<Op> parse_op(std::string_view name) {
  const auto schemas = op_schemas();
  for (size_t i = 0; i < schemas.size(); ++i)
    if (schemas[i].name == name) return static_cast<Op>(i);
  return make_error(ErrorCode::kUnknownName, "[program] an operation of ops.def, got '{}'", name);
}

}  // namespace bitlab::program
