#include "bitlab/program/op.h"

#include <algorithm>
#include <array>
#include <utility>

namespace bitlab::program {
namespace {

constexpr std::array kInputKinds{std::pair{std::string_view(""), InputKind::kActivation},
                                 std::pair{std::string_view("const"), InputKind::kFloatConstant},
                                 std::pair{std::string_view("float"), InputKind::kFloat},
                                 std::pair{std::string_view("any"), InputKind::kAny},
                                 std::pair{std::string_view("ternary"), InputKind::kTernaryConstant},
                                 std::pair{std::string_view("index"), InputKind::kIndex},
                                 std::pair{std::string_view("mask"), InputKind::kMask},
                                 std::pair{std::string_view("state"), InputKind::kState},
                                 std::pair{std::string_view("step"), InputKind::kStep}};
constexpr std::array kAttributeKinds{
    std::pair{std::string_view("int"), AttributeKind::kInt}, std::pair{std::string_view("sizes"), AttributeKind::kSizes},
    std::pair{std::string_view("text"), AttributeKind::kText}, std::pair{std::string_view("float"), AttributeKind::kFloat},
    std::pair{std::string_view("shape"), AttributeKind::kShape}};

constexpr std::array<std::string_view, 3> kExactness{"same_kernel", "ieee_exact", "bounded"};

// ops.def is part of the program: an unknown kind there is a mistake that every test sees.
template <class Names>
auto kind_of(std::string_view text, const Names& names) {
  const size_t colon = text.find(':');
  const std::string_view kind = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  const auto* const found = std::find_if(names.begin(), names.end(), [&](const auto& row) { return row.first == kind; });
  if (found == names.end())
    BITLAB_THROW(make_error(ErrorCode::kInternal, "[program] a kind that op.cc lists, got '{}' in ops.def", text));
  return found->second;
}

InputSchema parse_input(std::string text) {
  const bool optional = text.ends_with('?'), variadic = text.ends_with('*');
  if (optional || variadic) text.pop_back();
  return {text.substr(0, text.find(':')), kind_of(text, kInputKinds), optional, variadic};
}

AttributeSchema parse_attribute(const std::string& text) {
  const size_t equals = text.find('=');
  const auto kind = kind_of(std::string_view(text).substr(0, equals), kAttributeKinds);
  const auto otherwise =
      equals == std::string::npos ? std::nullopt : std::optional<int64_t>(std::stoll(text.substr(equals + 1)));
  return {text.substr(0, text.find(':')), kind, otherwise};
}

template <class Function>
void for_each_word(std::string_view text, Function function) {
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    if (!word.empty()) function(word);
    text.remove_prefix(std::min(text.size(), word.size() + 1));
  }
}

// ops.def as one text, each word with a zero behind it, as pointers would take more than the words; and what is no text.
constexpr char kOpWords[] =
#define BITLAB_OP(name, exactness, layout, inputs, attributes) #name "\0" inputs "\0" attributes "\0"
#include "bitlab/program/ops.def"
#undef BITLAB_OP
    ;
struct Kinds {
  Exactness exactness : 8;
  ImageLayout layout : 8;
};
constexpr Kinds kOpKinds[] = {
#define BITLAB_OP(name, exactness, layout, inputs, attributes) {Exactness::exactness, ImageLayout::layout},
#include "bitlab/program/ops.def"
#undef BITLAB_OP
};

std::vector<OpSchema> parse_schemas() {
  std::vector<OpSchema> schemas;
  const char* words = kOpWords;
  const auto next = [&] {
    const std::string_view text = words;
    words += text.size() + 1;
    return text;
  };
  for (const Kinds& kinds : kOpKinds) {
    OpSchema& schema = schemas.emplace_back(OpSchema{std::string(next()), kinds.exactness, kinds.layout, {}, {}});
    for_each_word(next(), [&](std::string_view item) { schema.inputs.push_back(parse_input(std::string(item))); });
    for_each_word(next(), [&](std::string_view item) { schema.attributes.push_back(parse_attribute(std::string(item))); });
  }
  return schemas;
}

}  // namespace

std::optional<size_t> OpSchema::weight() const {
  const auto found = std::find_if(inputs.begin(), inputs.end(),
                                  [](const InputSchema& input) { return input.kind == InputKind::kTernaryConstant; });
  return found == inputs.end() ? std::nullopt : std::optional(static_cast<size_t>(found - inputs.begin()));
}

std::span<const OpSchema> op_schemas() {
  static const std::vector<OpSchema> schemas = parse_schemas();
  return schemas;
}

const OpSchema& schema(Op op) { return op_schemas()[static_cast<size_t>(op)]; }
std::string_view name(Op op) { return schema(op).name; }

std::string_view name(Exactness exactness) { return kExactness.at(static_cast<size_t>(exactness)); }

Result<Exactness> parse_exactness(std::string_view name) {
  const auto* const found = std::find(kExactness.begin(), kExactness.end(), name);
  if (found != kExactness.end()) return static_cast<Exactness>(found - kExactness.begin());
  return make_error(ErrorCode::kUnknownName, "[program] an exactness of same_kernel, ieee_exact, bounded, got '{}'", name);
}

Result<Op> parse_op(std::string_view name) {
  const auto schemas = op_schemas();
  for (size_t i = 0; i < schemas.size(); ++i)
    if (schemas[i].name == name) return static_cast<Op>(i);
  return make_error(ErrorCode::kUnknownName, "[program] an operation of ops.def, got '{}'", name);
}

}  // namespace bitlab::program
