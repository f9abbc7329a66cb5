#include "bitlab/deploy/torchscript/torchscript.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include <sstream>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/frontend/sugared_value.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/deploy/signature.h"
#include "bitlab/deploy/torchscript/internal/methods.h"
#include "bitlab/deploy/torchscript/internal/writer.h"
#include "bitlab/program/verify.h"
#include "bitlab/ternary/codes.h"

namespace bitlab::deploy {
namespace torchscript {
namespace {

using program::Dim;
using program::Node;
using program::Op;
using program::Program;
using program::Shape;
using program::Value;
using program::ValueId;

// An expression, or what makes one.
struct ScriptRow {
  Op op;
  std::string_view expression;  // empty: the emitter's
  Emitter emitter;
};
constexpr ScriptRow kScriptRows[] = {
#define BITLAB_SCRIPT(op, expression) {Op::op, expression, nullptr},
#define BITLAB_SCRIPT_WRITER(op) {Op::op, "", script_##op},
#include "bitlab/deploy/torchscript/ops.def"
};

// What names cannot be: words of Python, names that the text uses, attributes of torch.nn.Module.
constexpr std::string_view kReservedWords[] = {
    "False",      "None",     "True",  "and",      "as",      "assert",    "async",   "await",    "break",
    "class",      "continue", "def",   "del",      "elif",    "else",      "except",  "finally",  "for",
    "from",       "global",   "if",    "import",   "in",      "is",        "lambda",  "nonlocal", "not",
    "or",         "pass",     "raise", "return",   "try",     "while",     "with",    "yield",    "self",
    "torch",      "bitlab",   "List",  "Optional", "Tensor",  "Tuple",     "bool",    "float",    "int",
    "list",       "range",    "print", "len",      "forward", "training",  "double",  "half",     "type",
    "to",         "cpu",      "cuda",  "train",    "eval",    "apply",     "buffers", "children", "modules",
    "parameters", "name",     "code",  "graph",    "save",    "zero_grad", "compile", "bfloat16", "state_dict"};

at::Tensor copy_of(const void* data, std::vector<int64_t> sizes, at::ScalarType type) {
  const at::Tensor copy = at::empty(sizes, type);
  if (copy.nbytes() != 0) std::memcpy(copy.mutable_data_ptr(), data, copy.nbytes());
  return copy;
}

// Letters, digits and underscores, not beginning with a digit.
std::string script_identifier(std::string_view name) {
  std::string text;
  for (const char c : name) text += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text[0])) != 0) text.insert(0, "_");
  return text;
}

std::string unique_among(std::unordered_set<std::string>& taken, std::string_view wanted) {
  const std::string base = script_identifier(wanted);
  std::string name = base;
  const auto is_reserved = [&] {
    return find_method(name) != nullptr ||
           std::find(std::begin(kReservedWords), std::end(kReservedWords), name) != std::end(kReservedWords);
  };
  for (int i = 1; is_reserved() || !taken.insert(name).second; ++i) name = fmt::format("{}_{}", base, i);
  return name;
}

std::string in_quotes(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < ' ') {
      result += fmt::format("\\x{:02x}", c);
    } else {
      if (c == '"' || c == '\\') result += '\\';
      result += c;
    }
  }
  return result + "\"";
}

// With a point or an exponent, so that it is no integer.
std::string number_text(double number) {
  std::string text = fmt::format("{:.17g}", number);
  return text.find_first_of(".en") == std::string::npos ? text + ".0" : text;
}

// What names outside of the text are: torch has the operators of ATen, bitlab those of BitLab.
struct ScriptResolver : torch::jit::Resolver {
  std::shared_ptr<torch::jit::SugaredValue> resolveValue(const std::string& name, torch::jit::GraphFunction&,
                                                         const torch::jit::SourceRange&) override {
    if (name == "torch") return std::make_shared<torch::jit::BuiltinModule>("aten");
    if (name == "bitlab") return std::make_shared<torch::jit::BuiltinModule>("bitlab");
    return nullptr;
  }
  torch::jit::TypePtr resolveType(const std::string&, const torch::jit::SourceRange&) override { return nullptr; }
};

std::string joined(const std::vector<std::string>& parts) { return fmt::format("{}", fmt::join(parts, ", ")); }

}  // namespace

int script_dtype(program::DType dtype) { return static_cast<int>(scalar_type(dtype)); }

std::string Writer::unique(std::string_view wanted) { return unique_among(taken_, wanted); }

std::string Writer::buffer(const std::string& wanted, at::Tensor tensor, bool is_parameter) {
  const std::string name = unique_among(taken_buffers_, wanted);
  is_parameter = is_parameter && tensor.scalar_type() == at::kFloat;
  script_.buffers.push_back({name, std::move(tensor), is_parameter});
  return "self." + name;
}

at::Tensor Writer::tensor(ValueId id) const {
  const Value& v = p.value(id);
  const auto& data = p.constant(id)->data;
  const std::vector<int64_t> sizes = shape_at(v.shape, program::kOnes);
  if (const auto* raw = std::get_if<program::RawData>(&data)) return copy_of(raw->bytes.data(), sizes, scalar_type(v.dtype));
  if (const auto* halves = std::get_if<program::HalfData>(&data))
    return copy_of(halves->bits.data(), sizes, v.storage == program::Storage::kFloat16 ? at::kHalf : at::kBFloat16);
  return copy_of(std::get<program::FloatData>(data).data(), sizes, at::kFloat);
}

std::string Writer::as_float(std::string expression, const at::Tensor& stored) {
  return stored.is_floating_point() && stored.scalar_type() != at::kFloat ? fmt::format("torch.to({}, 6)", expression)
                                                                          : expression;
}

std::string Writer::constant(ValueId id, bool is_parameter) {
  const at::Tensor stored = tensor(id);
  const Value& v = p.value(id);
  const std::string name = buffer(v.name, stored, is_parameter);
  return v.dtype == program::DType::kFloat32 ? as_float(name, stored) : name;
}

Writer::Weight Writer::weight(ValueId id) {
  if (const auto found = weights_.find(id); found != weights_.end()) return found->second;
  const Value& v = p.value(id);
  const int64_t rows = program::weight_rows(v.shape), depth = program::weight_depth(v.shape);
  const auto floats = [&](const char* part, std::span<const float> scale) {
    if (scale.empty()) return std::string("None");
    return buffer(v.name + part, copy_of(scale.data(), {static_cast<int64_t>(scale.size())}, at::kFloat));
  };
  Weight weight;
  const auto& data = p.constant(id)->data;
  if (const auto* int8 = std::get_if<program::Int8Data>(&data)) {
    const std::string codes = buffer(v.name, copy_of(int8->t.data(), {rows, depth}, at::kChar));
    weight.operands = joined({codes, floats(".scale", int8->scale), "None"});
    return weights_[id] = weight;
  }
  const auto& ternary = std::get<program::TernaryData>(data);
  weight.group = ternary.group;
  const std::string codes = buffer(v.name, copy_of(ternary.codes.data(), {rows, ternary::code_row_bytes(depth)}, at::kByte));
  if (ternary.group == 0) {
    const std::string scale = floats(".scale", ternary.scale);
    weight.operands = joined({codes, scale, floats(".scale_neg", ternary.scale_neg)});
  } else {
    const int64_t groups = ceil_div(depth, ternary.group);
    weight.operands =
        joined({codes, buffer(v.name + ".scale", copy_of(ternary.group_scale.data(), {rows, groups}, at::kHalf)), "None"});
  }
  return weights_[id] = weight;
}

std::string Writer::in(const Node& node, size_t input) {
  if (!has(node, input)) return "None";
  std::string& name = names_[node.inputs[input]];
  if (name.empty()) {  // a constant: nothing else is not there yet
    const bool is_parameter = program::schema(node.op).input(input).kind == program::InputKind::kFloatConstant;
    name = constant(node.inputs[input], is_parameter);
  }
  return name;
}

std::string Writer::size(const Dim& dim) {
  std::string product = dim.factor == 1 && !dim.is_number() ? "" : std::to_string(dim.factor);
  for (size_t i = 0; i < p.symbols.size(); ++i)
    for (int power = 0; power < dim.powers[i]; ++power) product += (product.empty() ? "" : " * ") + symbols_.at(i);
  for (const program::Sum& sum : dim.sums) {
    std::string total;
    for (const Dim& term : sum.terms) total += (total.empty() ? "" : " + ") + size(term);
    if (sum.offset != 0) total += fmt::format(" {} {}", sum.offset < 0 ? '-' : '+', std::abs(sum.offset));
    if (sum.divisor != 1) total = fmt::format("({}) // {}", total, sum.divisor);
    product += fmt::format("{}({})", product.empty() ? "" : " * ", total);
  }
  return product;
}

std::string Writer::sizes(const Shape& shape) {
  std::vector<std::string> parts;
  for (const Dim& dim : shape) parts.push_back(size(dim));
  return "[" + joined(parts) + "]";
}

std::string Writer::attribute(const Node& node, const std::string& name) {
  const program::Attribute& value = node.attributes.at(name);
  if (const auto* integer = std::get_if<int64_t>(&value)) return std::to_string(*integer);
  if (const auto* number = std::get_if<double>(&value)) return number_text(*number);
  if (const auto* text = std::get_if<std::string>(&value)) return in_quotes(*text);
  if (const auto* shape = std::get_if<Shape>(&value)) return sizes(*shape);
  return fmt::format("[{}]", fmt::join(std::get<program::Sizes>(value), ", "));
}

std::string Writer::fill(const Node& node, std::string_view expression) {
  const program::OpSchema& schema = program::schema(node.op);
  const auto filled = [&](const std::string& name) {
    if (name == "n") return std::to_string(shape(node, 0).size() - 2);
    if (name == "ours") return ours();
    for (size_t i = 0; i < schema.inputs.size(); ++i) {
      if (schema.inputs[i].name != name) continue;
      if (!schema.inputs[i].variadic) return in(node, i);
      std::vector<std::string> parts;
      for (size_t part = i; part < node.inputs.size(); ++part) parts.push_back(in(node, part));
      return "[" + joined(parts) + "]";
    }
    return attribute(node, name);
  };
  std::string text;
  for (size_t open; (open = expression.find('{')) != std::string_view::npos;) {
    const size_t close = expression.find('}', open);
    text += expression.substr(0, open);
    text += filled(std::string(expression.substr(open + 1, close - open - 1)));
    expression.remove_prefix(close + 1);
  }
  return text.append(expression);
}

Status Writer::add_inputs() {
  std::vector<std::string> parameters{"self"};
  const auto add_input = [&](ValueId id) {
    names_[id] = unique(p.value(id).name);
    parameters.push_back(names_[id] + ": Tensor");
  };
  for (const ValueId id : p.inputs) add_input(id);
  for (const ValueId id : p.states) add_input(id);
  const auto read_size = [&](size_t symbol, ValueId id, size_t axis, int64_t factor) {
    symbols_.at(symbol) = unique(p.symbols[symbol].name);
    add(fmt::format("{} = {}.size({}){}", symbols_.at(symbol), names_[id], axis,
                    factor == 1 ? "" : fmt::format(" // {}", factor)));
  };
  for (const ValueId id : p.inputs) {
    const Shape& shape = p.value(id).shape;
    for (size_t axis = 0; axis < shape.size(); ++axis)
      if (const auto symbol = single_symbol(shape[axis]); symbol && symbols_.at(*symbol).empty())
        read_size(*symbol, id, axis, shape[axis].factor);
  }
  if (!p.states.empty()) {
    const size_t context = *context_symbol(p);
    const Shape& state = p.value(p.states[0]).shape;
    const auto axis = std::find(state.begin(), state.end(), Dim::of_symbol(context)) - state.begin();
    past_ = unique("past");
    add(fmt::format("{} = {}.size({})", past_, names_[p.states[0]], axis));
    symbols_.at(context) = unique(p.symbols[context].name);
    add(fmt::format("{} = {} + {}", symbols_.at(context), past_, size(*appended_positions(p))));
  }
  parameters_ = joined(parameters);
  for (size_t i = 0; i < p.symbols.size(); ++i)
    for (const Value& v : p.values)
      if (uses(v.shape, i) && symbols_.at(i).empty())
        return make_error(ErrorCode::kUnsupported, "[torchscript] sizes that an input tells, got {} (symbol={})",
                          p.show(v.shape), p.symbols[i].name);
  return {};
}

void Writer::find_products_of_inputs() {
  if (!trainable) return;
  std::map<ValueId, const Node*> makers;
  std::map<ValueId, int> reads;
  for (const Node& node : p.nodes) {
    for (const ValueId id : node.outputs) makers[id] = &node;
    for (const ValueId id : node.inputs) ++reads[id];
  }
  for (const program::Output& output : p.outputs) ++reads[output.value];
  for (const Node& node : p.nodes) {
    if (node.op != Op::recurrent) continue;
    const auto maker = makers.find(node.inputs[0]);
    if (maker == makers.end() || maker->second->op != Op::linear || reads[node.inputs[0]] != 1) continue;
    products_of_inputs_[&node] = maker->second;
    written_with_others_.insert(maker->second);
  }
}

const Node* Writer::product_of_inputs(const Node& recurrent) const {
  const auto found = products_of_inputs_.find(&recurrent);
  return found == products_of_inputs_.end() ? nullptr : found->second;
}

Status Writer::add_node(const Node& node) {
  if (written_with_others_.contains(&node)) return {};
  const auto* const row =
      std::find_if(std::begin(kScriptRows), std::end(kScriptRows), [&](const ScriptRow& r) { return r.op == node.op; });
  if (row == std::end(kScriptRows)) return refuse(node, "an operation that TorchScript has");
  std::string expression;
  if (row->emitter == nullptr) {
    expression = fill(node, row->expression);
  } else {
    BITLAB_TRY(expression, row->emitter(*this, node));
  }
  std::vector<std::string> results;
  for (const ValueId id : node.outputs) results.push_back(names_[id] = unique(p.value(id).name));
  const bool is_recurrent = node.op == Op::ternary_recurrent || node.op == Op::recurrent;
  if (is_recurrent && results.size() == 2) results.push_back(unique("unused"));  // a GRU has no c
  add(joined(results) + " = " + expression);
  return {};
}

std::string Writer::returned() {
  std::vector<std::string> values, entries;
  bool is_tuple = p.states.empty();
  for (size_t i = 0; i < p.outputs.size(); ++i) {
    const program::Output& output = p.outputs[i];
    values.push_back(in(Node{Op::reshape, output.name, {output.value}, {}, {}}, 0));
    entries.push_back(in_quotes(output.name) + ": " + values.back());
    is_tuple &= output.name == fmt::format("output_{}", i);
  }
  if (values.size() == 1 && p.states.empty()) return values[0];
  for (const ValueId id : p.states) {
    const auto next = next_states_.find(id);
    entries.push_back(in_quotes(p.value(id).name + ".next") + ": " +
                      (next == next_states_.end() ? names_[id] : next->second));
  }
  return is_tuple ? "(" + joined(values) + ")" : "{" + joined(entries) + "}";
}

// Those that forward() calls, and those that these call.
std::string Writer::methods(const std::string& forward) const {
  std::string text = forward;
  std::unordered_set<std::string> there;
  constexpr std::string_view kCall = "self.";
  for (size_t at = 0; (at = text.find(kCall, at)) != std::string::npos; at += kCall.size()) {
    const size_t begin = at + kCall.size(), end = text.find_first_of("(, )\n[]", begin);
    const std::string name = text.substr(begin, end - begin);
    if (end == std::string::npos || text[end] != '(' || !there.insert(name).second) continue;
    if (const Method* method = find_method(name); method != nullptr) text += method->source;  // no part of a text in quotes
  }
  return text;
}

Result<Script> Writer::script() {
  find_products_of_inputs();
  BITLAB_RETURN_IF_ERROR(add_inputs());
  for (const Node& node : p.nodes) BITLAB_RETURN_IF_ERROR(add_node(node));
  add("return " + returned());
  script_.source = methods(fmt::format("def forward({}):\n{}", parameters_, body_));
  return std::move(script_);
}

}  // namespace torchscript

Result<Script> to_script(const program::Program& program, std::string_view variant, bool trainable) {
  constexpr std::string_view kPacked = "packed", kPortable = "portable";
  if (variant != kPacked && variant != kPortable)
    return make_error(ErrorCode::kUnknownName, "[torchscript] a variant of {{{} {}}}, got '{}'", kPacked, kPortable,
                      variant);
  BITLAB_RETURN_IF_ERROR(verify(program));
  return torchscript::Writer(program, variant == kPacked, trainable).script();
}

Result<torch::jit::Module> to_torchscript(const program::Program& program, std::string_view variant, bool trainable) {
  BITLAB_TRY(const Script script, to_script(program, variant, trainable));
  torch::jit::Module module("__torch__.bitlab.Network");
  for (const Script::Buffer& buffer : script.buffers) {
    if (trainable && buffer.is_parameter) {
      module.register_parameter(buffer.name, buffer.tensor.requires_grad_(), false);
    } else {
      module.register_buffer(buffer.name, buffer.tensor);
    }
  }
  module.define(script.source, std::make_shared<torchscript::ScriptResolver>());
  module.eval();
  return module;
}

Result<std::string> torchscript_bytes(const program::Program& program, std::string_view variant) {
  BITLAB_TRY(const torch::jit::Module module, to_torchscript(program, variant));
  std::ostringstream bytes;
  module.save(bytes, {program.metadata.begin(), program.metadata.end()});
  return std::move(bytes).str();
}

Result<std::string> to_mobile(const program::Program& program, std::string_view variant) {
  BITLAB_TRY(const torch::jit::Module module, to_torchscript(program, variant));
  std::ostringstream bytes;
  module._save_for_mobile(bytes, {program.metadata.begin(), program.metadata.end()});
  return std::move(bytes).str();
}

}  // namespace bitlab::deploy
