// What a reader makes of a whole model: its inputs, its nodes one by one, those of functions and branches in their place, and its outputs.
#include <algorithm>
#include <cctype>

#include "bitlab/format/onnx/internal/reader.h"
#include "bitlab/format/onnx/internal/recover.h"
#include "bitlab/format/onnx/internal/states.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Program;
using program::Shape;
using program::ValueId;
using program::ValueKind;

namespace {

bool is_half(ElementType type) { return type == ElementType::kFloat16 || type == ElementType::kBFloat16; }

bool is_symbol_name(std::string_view name) {
  return !name.empty() && std::isalpha(static_cast<unsigned char>(name[0])) != 0 &&
         name.find_first_of("*^+/() ,[]") == std::string_view::npos;
}

std::string symbol_name(std::string_view text) {
  std::string name(text);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return is_symbol_name(name) ? name : "size_" + name;
}

}  // namespace

// A name is a symbol, the batch the first one. What are expressions of names, as "2*batch", come behind these.
Result<Dim> Reader::size_of_port(const ModelPort& port, size_t axis) {
  const ModelPort::Size& size = port.shape[axis];
  if (const auto* number = std::get_if<int64_t>(&size)) {
    if (*number > 0) return Dim(*number);
    if (*number == 0)
      return make_error(ErrorCode::kUnsupported, "[onnx] sizes of at least 1, got 0 (value={}, axis={})", port.name, axis);
  }
  const auto* text = std::get_if<std::string_view>(&size);
  const std::string unknown = fmt::format("{}_{}", port.name, axis);
  const std::string_view wanted = text == nullptr ? unknown : *text;
  if (!guess_.batch.empty() && wanted == guess_.batch) return program::kBatch;
  const program::Symbols& symbols = builder_.peek().symbols;
  if (text != nullptr && !is_symbol_name(wanted) && guess_.multiples.empty())
    if (const Result<Dim> product = parse_dim(wanted, symbols); product.ok()) return product;
  std::string name = symbol_name(wanted);
  if (name == symbols[0].name) name += "_";
  const bool is_new = std::none_of(symbols.begin(), symbols.end(), [&](const auto& s) { return s.name == name; });
  if (is_new && symbols.size() == program::kMaxSymbols)
    return make_error(ErrorCode::kUnsupported,
                      "[onnx] at most {} sizes that differ from run to run, got '{}' too (value={})", program::kMaxSymbols,
                      wanted, port.name);
  const auto multiple = guess_.multiples.find(name);
  return with_factor(builder_.symbol(name), multiple == guess_.multiples.end() ? 1 : multiple->second);
}

Status Reader::declare_symbols() {
  for (const ModelPort& port : model_.inputs) {
    if (guess_.pasts != nullptr && guess_.pasts->has(port.name)) continue;
    for (size_t axis = 0; axis < port.shape.size(); ++axis) {
      const auto* text = std::get_if<std::string_view>(&port.shape[axis]);
      if (text != nullptr && is_symbol_name(*text)) BITLAB_RETURN_IF_ERROR(size_of_port(port, axis));
    }
  }
  return {};
}

Result<ValueId> Reader::input_of(const ModelPort& port, DType dtype) {
  if (!port.has_shape)
    return make_error(ErrorCode::kUnsupported, "[onnx] inputs with a shape, got none (value={})", port.name);
  Shape shape;
  for (size_t axis = 0; axis < port.shape.size(); ++axis) {
    BITLAB_TRY(shape.emplace_back(), size_of_port(port, axis));
  }
  if (!is_valid(shape) || shape.size() > static_cast<size_t>(program::kMaxRank))
    return make_error(ErrorCode::kUnsupported, "[onnx] at most {} sizes and 2^40 values, got {} (value={})",
                      program::kMaxRank, show(shape), port.name);
  names_.insert(std::string(port.name));
  const ValueId id = builder_.input(std::string(port.name), shape, dtype);
  return is_half(port.type) ? cast(id, DType::kFloat32) : Result<ValueId>(id);
}

Status Reader::add_inputs() {
  const ModelNode none{"inputs", "input", "", {}, {}, {}};
  node_ = &none, scope_ = "inputs";
  for (const NamedTensor& named : model_.tensors) whole_.operands[named.name] = named.tensor;
  BITLAB_RETURN_IF_ERROR(declare_symbols());
  for (const ModelPort& port : model_.inputs) {
    if (whole_.operands.contains(port.name) || (guess_.pasts != nullptr && guess_.pasts->has(port.name))) continue;
    const auto dtype = dtype_of(port.type);
    if (!dtype)
      return make_error(ErrorCode::kUnsupported,
                        "[onnx] inputs of float32, float16, bfloat16, int64, int32, bool, got {} (value={})",
                        name_of(port.type), port.name);
    BITLAB_TRY(whole_.operands[port.name], input_of(port, *dtype));
  }
  return guess_.pasts == nullptr ? Status() : add_pasts();
}

Operand* Reader::find(std::string_view name) const {
  for (Scope* scope = names_of_; scope != nullptr; scope = scope->around) {
    const auto found = scope->operands.find(name);
    if (found != scope->operands.end()) return &found->second;
  }
  return nullptr;
}

std::optional<ElementType> Reader::narrow(std::string_view name) const {
  const auto* id = name.empty() ? nullptr : std::get_if<ValueId>(find(name));
  const auto found = id == nullptr ? narrow_.end() : narrow_.find(*id);
  return found == narrow_.end() ? std::nullopt : std::optional(found->second);
}

namespace {

// Integers of eight bits that are computed can be moved, multiplied and dequantized.
constexpr std::string_view kMovements[] = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat",
                                           "Split",    "Slice",   "Gather",  "Expand",  "Tile",      "MaxPool",   "Pad"};
bool is_movement(std::string_view type) {
  return std::find(std::begin(kMovements), std::end(kMovements), type) != std::end(kMovements);
}
bool takes_narrow(const ModelNode& node) {
  constexpr std::string_view kOthers[] = {"DequantizeLinear", "Cast",  "Shape", "MatMulInteger",
                                          "ConvInteger",      "QGemm", "If"};
  return is_movement(node.type) || node.type.starts_with("QLinear") || node.type.ends_with("IntegerToFloat") ||
         std::find(std::begin(kOthers), std::end(kOthers), node.type) != std::end(kOthers);
}

}  // namespace

// Sums become int32 where something else than a product's scale reads them.
Status Reader::settle_inputs(const ModelNode& node) {
  if (takes_narrow(node)) return {};
  for (const std::string_view input : node.inputs) {
    const auto type = narrow(input);
    if (!type) continue;
    if (*type != ElementType::kInt32) return refuse("an operation of floats on '{}', got {}", input, name_of(*type));
    BITLAB_TRY(*find(input), cast(std::get<ValueId>(*find(input)), DType::kInt32));
  }
  return {};
}

const ModelFunction* Reader::function_of(const ModelNode& node) const {
  const auto found = std::find_if(model_.functions.begin(), model_.functions.end(), [&](const ModelFunction& function) {
    return function.name == node.type && function.domain == node.domain;
  });
  return found == model_.functions.end() ? nullptr : &*found;
}

// A node of a function with the attributes that its call gives.
ModelNode Reader::with_attributes(const ModelNode& node) const {
  ModelNode given = node;
  given.attributes.clear();
  for (const ModelAttribute& attribute : node.attributes) {
    if (attribute.reference.empty()) {
      given.attributes.push_back(attribute);
      continue;
    }
    const ModelAttribute* from = names_of_->call == nullptr ? nullptr : names_of_->call->find(attribute.reference);
    if (from == nullptr && names_of_->function != nullptr)
      for (const ModelAttribute& other : names_of_->function->defaults)
        if (other.name == attribute.reference) from = &other;
    if (from == nullptr) continue;  // left out
    given.attributes.push_back(*from);
    given.attributes.back().name = attribute.name;
  }
  return given;
}

Result<Operands> Reader::inner(const InnerGraph& graph) {
  constexpr int kMostDepth = 16;
  constexpr int64_t kMostNodes = 65536;
  if (depth_ == kMostDepth) return refuse("graphs in at most {} others, got one in more", kMostDepth);
  inner_nodes_ += 1 + static_cast<int64_t>(graph.nodes->size());
  if (inner_nodes_ > kMostNodes) return refuse("at most {} nodes of inner graphs, got more", kMostNodes);
  const bool is_function = graph.function != nullptr;
  Scope scope;
  scope.around = is_function ? nullptr : names_of_;
  scope.function = is_function ? graph.function : names_of_->function;
  scope.call = is_function ? node_ : names_of_->call;
  if (graph.tensors != nullptr)
    for (const NamedTensor& named : *graph.tensors) scope.operands[named.name] = named.tensor;
  for (const auto& [name, operand] : graph.inputs) scope.operands[name] = operand;

  const ModelNode* const outer_node = node_;
  const std::string outer_scope = scope_;
  const int64_t outer_opset = opset_;
  Scope* const outer_names = names_of_;
  if (is_function && graph.function->opset != 0) opset_ = graph.function->opset;
  names_of_ = &scope, ++depth_;
  Operands results;
  Status status;
  for (const ModelNode& node : *graph.nodes)
    if (status = add_node(node); !status.ok()) break;
  for (const std::string_view output : graph.outputs) {
    const Operand* found = find(output);
    results.push_back(found == nullptr ? Operand() : *found);
  }
  node_ = outer_node, scope_ = outer_scope, opset_ = outer_opset, names_of_ = outer_names, --depth_;
  if (!status.ok()) return status.error();
  return results;
}

Result<Operands> Reader::call(const ModelFunction& function) {
  InnerGraph body{&function.nodes, nullptr, {}, function.outputs, &function};
  for (size_t i = 0; i < function.inputs.size(); ++i) body.inputs.emplace_back(function.inputs[i], operand(i));
  return inner(body);
}

Status Reader::add_node(const ModelNode& node) {
  std::optional<ModelNode> given;
  if (std::any_of(node.attributes.begin(), node.attributes.end(), [](const auto& a) { return !a.reference.empty(); }))
    given = with_attributes(node);
  node_ = given ? &*given : &node;
  scope_ = node.name.empty() ? node.outputs.front() : node.name;
  for (const std::string_view input : node.inputs) {
    if (input.empty() || find(input) != nullptr) continue;
    return corrupt("inputs that are defined before, got '{}'", input);
  }
  if (const ModelFunction* function = function_of(node)) {
    BITLAB_TRY(Operands results, call(*function));
    return add_results(node, std::move(results));
  }
  const OperatorReader read = reader_of(node.domain, node.type);
  if (read == nullptr)
    return refuse("an operator that the program has, got {}{}{}", node.domain, node.domain.empty() ? "" : ".", node.type);
  BITLAB_RETURN_IF_ERROR(settle_inputs(node));
  BITLAB_TRY(Operands results, read(*this));
  return add_results(node, std::move(results));
}

Status Reader::add_results(const ModelNode& node, Operands results) {
  const bool has_type = is_movement(node.type) && !node.inputs.empty() && !node.inputs[0].empty();
  const bool is_narrow = has_type && narrow(node.inputs[0]).has_value();
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    if (node.outputs[i].empty()) continue;
    if (i >= results.size() || std::holds_alternative<std::monostate>(results[i]))
      return refuse("{} outputs, got one named '{}', too", std::min(i, results.size()), node.outputs[i]);
    const auto* id = std::get_if<ValueId>(&results[i]);
    if (id != nullptr && is_narrow) keep_as(*id, type(0));
    if (id != nullptr && depth_ == 0 && of(*id).kind == ValueKind::kResult) wanted_names_.try_emplace(*id, node.outputs[i]);
    if (auto* known = std::get_if<Tensor>(&results[i]); known != nullptr && is_half(known->type))
      known->type = ElementType::kFloat;  // models in halves are computed in float32
    if (!names_of_->operands.emplace(node.outputs[i], std::move(results[i])).second)
      return corrupt("names that are defined once, got '{}' again", node.outputs[i]);
  }
  return {};
}

// An output in the type that the model says.
Result<ValueId> Reader::as_declared(ValueId id, const ModelPort& port) {
  const auto narrow = narrow_.find(id);
  const bool is_sum = narrow != narrow_.end() && narrow->second == ElementType::kInt32;
  if (port.type == ElementType::kDouble || (narrow != narrow_.end() && !is_sum))
    return refuse("outputs of float32, float16, bfloat16, int64, int32, bool, got '{}'", port.name);
  if (is_sum) return cast(id, DType::kInt32);
  if (!is_half(port.type) || of(id).dtype != DType::kFloat32) return id;
  BITLAB_TRY(id, as_activation(id));
  return cast(id, *dtype_of(port.type));
}

Result<Program> Reader::finish() {
  std::vector<program::Output> outputs;
  const ModelNode none{"outputs", "output", "", {}, {}, {}};
  node_ = &none, scope_ = "outputs";
  for (const ModelPort& port : model_.outputs) {
    if (guess_.pasts != nullptr && guess_.pasts->continues_into(port.name)) continue;
    const Operand* found = find(port.name);
    if (found == nullptr) return corrupt("outputs that are defined, got '{}'", port.name);
    BITLAB_TRY(ValueId id, computed(*found, port.name));
    BITLAB_TRY(id, as_declared(id, port));
    if (of(id).kind != ValueKind::kResult) {
      const Shape shape = shape_of(id);
      BITLAB_TRY(id, emit(Op::expand, {id}, {{"shape", shape}}));
    }
    wanted_names_.try_emplace(id, port.name);
    outputs.push_back({std::string(port.name), id});
  }
  for (const auto& [key, value] : model_.metadata) builder_.metadata(std::string(key), std::string(value));
  Result<Program> built = builder_.finish(std::move(outputs));
  if (!built.ok()) return built;
  if (!guess_.batch.empty() && is_symbol_name(guess_.batch)) built->symbols[0].name = guess_.batch;
  if (guess_.pasts != nullptr) return with_states(*std::move(built), {pasts_, guess_.past, tokens_}, wanted_names_);
  return tidied(*std::move(built), wanted_names_);
}

Result<Program> Reader::program() {
  BITLAB_RETURN_IF_ERROR(add_inputs());
  for (const ModelNode& node : model_.nodes) BITLAB_RETURN_IF_ERROR(add_node(node));
  return finish();
}

}  // namespace bitlab::format::onnx
