#include "bitlab/format/onnx/internal/reader.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "bitlab/format/onnx/internal/recover.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Program;
using program::Shape;
using program::ValueId;
using program::ValueKind;

namespace {

const Operand kAbsent{};

std::optional<DType> dtype_of(ElementType type) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt64, DType::kInt32, DType::kBool})
    if (element_type(dtype) == type) return dtype;
  return std::nullopt;
}

template <class T>
std::vector<uint8_t> raw_bytes(const std::vector<T>& values) {
  const auto* data = reinterpret_cast<const uint8_t*>(values.data());
  return {data, data + values.size() * sizeof(T)};
}

bool is_half(ElementType type) { return type == ElementType::kFloat16 || type == ElementType::kBFloat16; }

// Models in halves are computed in float32.
Tensor in_float32(Tensor tensor) {
  if (is_half(tensor.type)) tensor.type = ElementType::kFloat;
  return tensor;
}

}  // namespace

Tensor tensor_of(const Ints& integers, bool is_scalar) {
  auto owned = std::make_shared<const std::vector<uint8_t>>(raw_bytes(integers));
  Tensor tensor{ElementType::kInt64, ElementType::kInt64, {}, *owned, nullptr};
  if (!is_scalar) tensor.sizes = {static_cast<int64_t>(integers.size())};
  tensor.owner = std::move(owned);
  return tensor;
}

Operand operand_of(SizeList sizes) {
  if (!program::is_fixed(sizes.values)) return sizes;
  return tensor_of(shape_at(sizes.values, program::kOnes), sizes.is_scalar);
}

std::optional<Dim> divided(const Dim& a, const Dim& b) {
  if (b.factor == 0 || a.factor % b.factor != 0) return std::nullopt;
  Dim quotient = with_factor(a, a.factor / b.factor);
  for (size_t i = 0; i < program::kMaxSymbols; ++i) {
    if (a.powers[i] < b.powers[i]) return std::nullopt;
    quotient.powers[i] = static_cast<uint8_t>(a.powers[i] - b.powers[i]);
  }
  return quotient;
}

bool all_known(const Reader& r) {
  for (size_t i = 0; i < r.node().inputs.size(); ++i)
    if (r.has(i) && r.tensor(i) == nullptr) return false;
  return true;
}

Status check_floats(const Reader& r, size_t input) {
  if (r.type(input) == ElementType::kFloat) return {};
  return r.refuse("float32 values, got {}", name_of(r.type(input)));
}

// --- the node that is read

const Operand& Reader::operand(size_t input) const {
  if (!has(input)) return kAbsent;
  return *find(node_->inputs[input]);
}

ElementType Reader::type(size_t input) const {
  const Operand& x = operand(input);
  if (const auto* tensor = std::get_if<Tensor>(&x)) return tensor->type;
  const auto* id = std::get_if<ValueId>(&x);
  if (id == nullptr) return ElementType::kInt64;
  const auto narrow = narrow_.find(*id);
  return narrow == narrow_.end() ? element_type(of(*id).dtype) : narrow->second;
}

Shape Reader::shape(size_t input) const {
  const Operand& x = operand(input);
  if (const auto* tensor = std::get_if<Tensor>(&x)) return {tensor->sizes.begin(), tensor->sizes.end()};
  if (const auto* id = std::get_if<ValueId>(&x)) return shape_of(*id);
  const auto* list = std::get_if<SizeList>(&x);
  if (list == nullptr || list->is_scalar) return {};
  return {static_cast<int64_t>(list->values.size())};
}

Result<Tensor> Reader::known(size_t input, std::string_view what) const {
  if (const Tensor* found = tensor(input)) return *found;
  return refuse("{} as constants, got '{}', which is computed", what, has(input) ? node_->inputs[input] : "nothing");
}

std::optional<SizeList> Reader::sizes(size_t input) const {
  if (const auto* list = std::get_if<SizeList>(&operand(input))) return *list;
  constexpr int64_t kMost = 1024;
  const Tensor* found = tensor(input);
  const bool is_list = found != nullptr && (found->type == ElementType::kInt64 || found->type == ElementType::kInt32) &&
                       found->sizes.size() <= 1 && found->count() <= kMost;
  if (!is_list) return std::nullopt;
  const std::vector<int64_t> numbers = found->integers();
  return SizeList{{numbers.begin(), numbers.end()}, found->sizes.empty()};
}

Result<Ints> Reader::integers(size_t input, std::string_view what) const {
  BITLAB_TRY(const Tensor tensor, known(input, what));
  if (is_integer(tensor.type)) return tensor.integers();
  return corrupt("integers as {}, got {}", what, name_of(tensor.type));
}

int64_t Reader::integer(std::string_view attribute, int64_t otherwise) const {
  const ModelAttribute* found = node_->find(attribute);
  return found == nullptr ? otherwise : found->integer;
}

float Reader::number(std::string_view attribute, float otherwise) const {
  const ModelAttribute* found = node_->find(attribute);
  return found == nullptr ? otherwise : found->number;
}

std::string Reader::text(std::string_view attribute, std::string_view otherwise) const {
  const ModelAttribute* found = node_->find(attribute);
  return std::string(found == nullptr ? otherwise : found->text);
}

std::optional<Ints> Reader::list(std::string_view attribute) const {
  const ModelAttribute* found = node_->find(attribute);
  return found == nullptr ? std::nullopt : std::optional(found->integers);
}

std::vector<std::string_view> Reader::texts(std::string_view attribute) const {
  const ModelAttribute* found = node_->find(attribute);
  return found == nullptr ? std::vector<std::string_view>() : found->texts;
}

Result<int64_t> Reader::axis(int64_t dim, size_t rank) const {
  const auto all = static_cast<int64_t>(rank);
  if (dim >= -all && dim < all) return dim < 0 ? dim + all : dim;
  return corrupt("an axis of {} dimensions, got {}", rank, dim);
}

Error Reader::failure(ErrorCode code, std::string_view why) const {
  return make_error(code, "[onnx] {} (node={}, operator={})", why, scope_, node_->type);
}

// --- the program

std::string Reader::unique(std::string_view wanted) {
  std::string name(wanted.empty() ? "value" : wanted);
  for (int i = 1; !names_.insert(name).second; ++i) name = fmt::format("{}_{}", wanted, i);
  return name;
}

Result<ValueId> Reader::number(double value, DType dtype) {
  BITLAB_TRY(const Tensor tensor, folding.of_numbers(element_type(dtype), {}, [&](int64_t) { return value; }));
  return constant(tensor, fmt::format("number_{}", value));
}

// Constants are finite; infinite ones are twice the largest number, chosen where they are.
Result<ValueId> Reader::constant(const Tensor& tensor, std::string_view name) {
  const auto dtype = tensor.type == ElementType::kDouble ? DType::kFloat32 : dtype_of(tensor.type);
  const bool is_narrow = tensor.type == ElementType::kInt8 || tensor.type == ElementType::kUint8;
  if (!dtype && !is_narrow)
    return refuse("values of float32, int64, int32, bool, got {} in '{}'", name_of(tensor.type), name);
  if (elements_of(tensor.sizes) == 0) return refuse("values, got none in '{}'", name);
  const std::string_view given = tensor.name.empty() ? name : tensor.name;
  const std::string own = unique(given.empty() ? fmt::format("{}/constant", scope_) : std::string(given));
  const auto is_finite = [&] {
    for (int64_t i = 0; i < tensor.count(); ++i)
      if (!std::isfinite(tensor.number(i))) return false;
    return true;
  };
  if (tensor.stored != tensor.type && is_finite()) {
    std::vector<uint16_t> bits(static_cast<size_t>(tensor.count()));
    std::memcpy(bits.data(), tensor.bytes.data(), tensor.bytes.size());
    const auto kept = tensor.stored == ElementType::kFloat16 ? program::Storage::kFloat16 : program::Storage::kBFloat16;
    return builder_.halves(own, tensor.sizes, std::move(bits), kept);
  }
  if (dtype && *dtype != DType::kFloat32)
    return builder_.raw(own, *dtype, tensor.sizes, {tensor.bytes.begin(), tensor.bytes.end()});
  std::vector<float> values = tensor.floats();
  constexpr float kMost = std::numeric_limits<float>::max();
  std::vector<uint8_t> above, below;
  for (const float v : values) {
    if (std::isnan(v)) return refuse("constants that are numbers, got NaN in '{}'", name);
    above.push_back(v > kMost ? 1 : 0), below.push_back(v < -kMost ? 1 : 0);
  }
  for (float& v : values) v = std::clamp(v, -kMost, kMost);
  ValueId id = builder_.floats(own, tensor.sizes, std::move(values));
  if (is_narrow) keep_as(id, tensor.type);
  for (const auto& [places, sign] : {std::pair{&above, 1.0}, std::pair{&below, -1.0}}) {
    if (std::find(places->begin(), places->end(), 1) == places->end()) continue;
    BITLAB_TRY(ValueId infinite, number(sign * double{kMost}, DType::kFloat32));
    BITLAB_TRY(infinite, emit(Op::expand, {infinite}, {{"shape", Shape{1}}}));
    BITLAB_TRY(infinite, with(Op::mul, infinite, 2));
    BITLAB_TRY(infinite, reshape(infinite, {}));
    const ValueId where = builder_.raw(unique(own + ".infinite"), DType::kBool, tensor.sizes, *places);
    BITLAB_TRY(id, emit(Op::where, {where, infinite, id}));
  }
  return id;
}

// A size as a value is one more than the last of as many positions.
Result<ValueId> Reader::computed(const Operand& operand, std::string_view name) {
  if (const auto* id = std::get_if<ValueId>(&operand)) return *id;
  if (const auto* known = std::get_if<Tensor>(&operand)) return constant(*known, name);
  const auto* list = std::get_if<SizeList>(&operand);
  if (list == nullptr) return corrupt("an input, got none");
  std::vector<ValueId> parts;
  for (const Dim& dim : list->values) {
    if (dim.is_number()) {
      BITLAB_TRY(parts.emplace_back(), constant(tensor_of({dim.factor})));
      continue;
    }
    BITLAB_TRY(ValueId part, emit(Op::positions, {}, {{"size", Shape{dim}}, {"continues", int64_t{0}}}));
    BITLAB_TRY(part, reshape(part, {1, dim}));
    BITLAB_TRY(part, emit(Op::max, {part}));
    BITLAB_TRY(parts.emplace_back(), with(Op::add, part, 1));
  }
  if (list->is_scalar) return reshape(parts.front(), {});
  return parts.size() == 1 ? Result<ValueId>(parts[0]) : emit(Op::cat, parts, {{"dim", int64_t{0}}});
}

Result<ValueId> Reader::value(size_t input) {
  if (!has(input)) return corrupt("input {}, got none", input);
  return computed(operand(input), node_->inputs[input]);
}

Result<ValueId> Reader::as_activation(ValueId id) {
  if (of(id).kind != ValueKind::kConstant) return id;
  const Shape shape = shape_of(id);
  return emit(Op::expand, {id}, {{"shape", shape}});
}

Result<ValueId> Reader::activation(size_t input) {
  BITLAB_TRY(const ValueId id, value(input));
  return as_activation(id);
}

Result<std::vector<ValueId>> Reader::emit_all(Op op, std::vector<ValueId> inputs, program::Attributes attributes) {
  constexpr size_t kMost = 32768;  // behind what a node of the model may become
  if (builder_.peek().nodes.size() >= kMost + 16 * model_.nodes.size())
    return refuse("a program of at most {} operations, got more", builder_.peek().nodes.size());
  const std::string name = unique(fmt::format("{}/{}", scope_, program::name(op)));
  auto ids = builder_.nodes(op, name, std::move(inputs), std::move(attributes));
  if (!ids.ok()) return refuse("what the program can say, got: {}", ids.error().message);
  return ids;
}

Result<ValueId> Reader::emit(Op op, std::vector<ValueId> inputs, program::Attributes attributes) {
  BITLAB_TRY(const std::vector<ValueId> ids, emit_all(op, std::move(inputs), std::move(attributes)));
  return ids.front();
}

Result<ValueId> Reader::with(Op op, ValueId x, double value) {
  BITLAB_TRY(const ValueId b, number(value, of(x).dtype));
  return emit(op, {x, b});
}

Result<ValueId> Reader::reshape(ValueId x, const Shape& shape) {
  if (shape_of(x) == shape) return x;
  return emit(Op::reshape, {x}, {{"shape", shape}});
}

Result<ValueId> Reader::permute(ValueId x, const Ints& dims) {
  if (std::is_sorted(dims.begin(), dims.end())) return x;
  return emit(Op::permute, {x}, {{"dims", dims}});
}

Result<ValueId> Reader::expand(ValueId x, const Shape& shape) {
  if (shape_of(x) == shape) return x;
  return emit(Op::expand, {x}, {{"shape", shape}});
}

Result<ValueId> Reader::cast(ValueId x, DType dtype) {
  if (of(x).dtype == dtype) return x;
  return emit(Op::cast, {x}, {{"dtype", std::string(program::name(dtype))}});
}

Result<ValueId> Reader::to_last(ValueId x, int64_t dim) {
  Ints dims(shape_of(x).size());
  std::iota(dims.begin(), dims.end(), int64_t{0});
  std::rotate(dims.begin() + dim, dims.begin() + dim + 1, dims.end());
  return permute(x, dims);
}

Result<ValueId> Reader::from_last(ValueId x, int64_t dim) {
  Ints dims(shape_of(x).size());
  std::iota(dims.begin(), dims.end(), int64_t{0});
  std::rotate(dims.begin() + dim, dims.end() - 1, dims.end());
  return permute(x, dims);
}

Result<ValueId> Reader::slice(ValueId x, int64_t dim, int64_t start, const Dim& length, int64_t step) {
  if (start == 0 && step == 1 && shape_of(x)[static_cast<size_t>(dim)] == length) return x;
  return emit(Op::slice, {x}, {{"dim", dim}, {"start", start}, {"length", Shape{length}}, {"step", step}});
}

Result<ValueId> Reader::padded(ValueId x, const Ints& before, const Ints& behind, float value) {
  const DType dtype = of(x).dtype;
  for (size_t dim = 0; dim < before.size(); ++dim) {
    if (before[dim] == 0 && behind[dim] == 0) continue;
    std::vector<ValueId> parts;
    for (const int64_t size : {before[dim], int64_t{0}, behind[dim]}) {
      if (parts.size() == (before[dim] == 0 ? 0U : 1U) && size == 0) {
        parts.push_back(x);
        continue;
      }
      if (size == 0) continue;
      Shape shape = shape_of(x);
      shape[dim] = size;
      BITLAB_TRY(const ValueId edge, number(value, dtype));
      BITLAB_TRY(parts.emplace_back(), emit(Op::expand, {edge}, {{"shape", shape}}));
    }
    BITLAB_TRY(x, emit(Op::cat, parts, {{"dim", static_cast<int64_t>(dim)}}));
  }
  return x;
}

Result<ValueId> Reader::unmarked(ValueId id) {
  if (!narrow_.contains(id)) return id;
  const Shape shape = shape_of(id);
  return emit(Op::reshape, {id}, {{"shape", shape}});
}

void Reader::bound(const Dim& dim, int64_t most) {
  const std::optional<size_t> index = single_symbol(dim);
  if (!index || dim.factor < 1 || most < dim.factor) return;
  program::Symbol symbol = builder_.peek().symbols[*index];
  symbol.max = std::max(symbol.min, std::min(symbol.max, most / dim.factor));
  builder_.declare(symbol);
}

// --- the model

namespace {

bool is_symbol_name(std::string_view name) {
  return !name.empty() && std::isalpha(static_cast<unsigned char>(name[0])) != 0 &&
         name.find_first_of("*^ ,[]") == std::string_view::npos;
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
  if (!batch_.empty() && wanted == batch_) return program::kBatch;
  const program::Symbols& symbols = builder_.peek().symbols;
  if (text != nullptr && !is_symbol_name(wanted))
    if (const Result<Dim> product = parse_dim(wanted, symbols); product.ok()) return product;
  std::string name = symbol_name(wanted);
  if (name == symbols[0].name) name += "_";
  const bool is_new = std::none_of(symbols.begin(), symbols.end(), [&](const auto& s) { return s.name == name; });
  if (is_new && symbols.size() == program::kMaxSymbols)
    return make_error(ErrorCode::kUnsupported,
                      "[onnx] at most {} sizes that differ from run to run, got '{}' too (value={})", program::kMaxSymbols,
                      wanted, port.name);
  return builder_.symbol(name);
}

Status Reader::declare_symbols() {
  for (const ModelPort& port : model_.inputs)
    for (size_t axis = 0; axis < port.shape.size(); ++axis) {
      const auto* text = std::get_if<std::string_view>(&port.shape[axis]);
      if (text != nullptr && is_symbol_name(*text)) BITLAB_RETURN_IF_ERROR(size_of_port(port, axis));
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
    if (whole_.operands.contains(port.name)) continue;
    const auto dtype = dtype_of(port.type);
    if (!dtype)
      return make_error(ErrorCode::kUnsupported,
                        "[onnx] inputs of float32, float16, bfloat16, int64, int32, bool, got {} (value={})",
                        name_of(port.type), port.name);
    BITLAB_TRY(whole_.operands[port.name], input_of(port, *dtype));
  }
  return {};
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
constexpr std::string_view kMovements[] = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose",
                                           "Concat",   "Split",   "Slice",   "Gather",  "Expand",    "Tile",
                                           "MaxPool",  "Pad"};
bool is_movement(std::string_view type) {
  return std::find(std::begin(kMovements), std::end(kMovements), type) != std::end(kMovements);
}
bool takes_narrow(const ModelNode& node) {
  constexpr std::string_view kOthers[] = {"DequantizeLinear", "Cast", "Shape", "MatMulInteger", "ConvInteger", "QGemm", "If"};
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
    results.push_back(found == nullptr ? kAbsent : *found);
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
    if (auto* known = std::get_if<Tensor>(&results[i])) *known = in_float32(std::move(*known));
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
  if (!batch_.empty() && is_symbol_name(batch_)) built->symbols[0].name = batch_;
  return tidied(*std::move(built), wanted_names_);
}

Result<Program> Reader::program() {
  BITLAB_RETURN_IF_ERROR(add_inputs());
  for (const ModelNode& node : model_.nodes) BITLAB_RETURN_IF_ERROR(add_node(node));
  return finish();
}

}  // namespace bitlab::format::onnx
