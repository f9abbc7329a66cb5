#include "bitlab/format/onnx/internal/reader.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Op;
using program::Shape;
using program::ValueId;
using program::ValueKind;

namespace {

const Operand kAbsent{};
constexpr int64_t kMostMultiple = 1024;

// The symbol of a term, but for the batch, is to make the term a multiple of the divisor, too. More than kMostMultiple stands for any larger one.
void want_multiple(Multiples& wanted, const program::Symbols& symbols, const Dim& term, int64_t divisor) {
  const std::optional<size_t> index = single_symbol(term);
  if (!index || *index == 0 || divisor > kMostMultiple) return;
  int64_t& multiple = wanted.try_emplace(symbols[*index].name, 1).first->second;
  multiple = std::min(std::lcm(multiple, divisor / std::gcd(divisor, term.factor)), kMostMultiple + 1);
}

// What nodes other than Concat read, those of inner graphs too.
void add_read_names(const ModelGraph& graph, std::set<std::string_view>& names, int depth) {
  constexpr int kMost = 16;
  for (const ModelNode& node : graph.nodes) {
    if (node.type != "Concat") names.insert(node.inputs.begin(), node.inputs.end());
    for (const ModelAttribute& attribute : node.attributes) {
      if (attribute.graph == nullptr || depth == kMost) continue;
      for (const ModelPort& port : attribute.graph->outputs) names.insert(port.name);
      add_read_names(*attribute.graph, names, depth + 1);
    }
  }
}

template <class T>
std::vector<uint8_t> raw_bytes(const std::vector<T>& values) {
  const auto* data = reinterpret_cast<const uint8_t*>(values.data());
  return {data, data + values.size() * sizeof(T)};
}

}  // namespace

std::optional<DType> dtype_of(ElementType type) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kInt64, DType::kInt32, DType::kBool})
    if (element_type(dtype) == type) return dtype;
  return std::nullopt;
}

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

bool all_known(const Reader& r, size_t least) {
  for (size_t i = 0; i < std::max(least, r.node().inputs.size()); ++i)
    if ((i < least || r.has(i)) && r.tensor(i) == nullptr) return false;
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

std::optional<SizeList> Reader::sizes_as_floats(size_t input) const {
  if (const auto* id = std::get_if<ValueId>(&operand(input))) {
    const auto found = sizes_of_floats_.find(*id);
    return found == sizes_of_floats_.end() ? std::nullopt : std::optional(found->second);
  }
  const Tensor* found = tensor(input);
  const bool is_one = found != nullptr && found->type == ElementType::kFloat && found->count() == 1;
  const double number = is_one ? found->number(0) : 0.5;
  if (number != std::floor(number) || std::fabs(number) > static_cast<double>(program::kMaxElements)) return std::nullopt;
  return SizeList{{static_cast<int64_t>(number)}, found->sizes.empty()};
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

Result<bool> Reader::flag(std::string_view attribute) const {
  const int64_t given = integer(attribute, 0);
  if (given == 0 || given == 1) return given == 1;
  return corrupt("{} of 0 or 1, got {}", attribute, given);
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

bool Reader::is_only_joined() {
  if (!read_names_) {
    read_names_.emplace();
    for (const ModelPort& port : model_.outputs) read_names_->insert(port.name);
    add_read_names(model_, *read_names_, 0);
  }
  return depth_ == 0 && !read_names_->contains(node_->outputs.front());
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
  const std::string base(wanted.empty() ? "value" : wanted);
  if (names_.insert(base).second) return base;
  std::string name;
  for (int64_t& i = suffixes_[base]; name.empty() || !names_.insert(name).second;) name = fmt::format("{}_{}", base, ++i);
  return name;
}

Result<ValueId> Reader::number(double value, DType dtype) {
  BITLAB_TRY(const Tensor tensor, folding.of_numbers(element_type(dtype), {}, [&](int64_t) { return value; }));
  return constant(tensor, fmt::format("number_{}", value));
}

Result<ValueId> Reader::constant(const Tensor& tensor, std::string_view name) {
  const auto dtype = tensor.type == ElementType::kDouble ? DType::kFloat32 : dtype_of(tensor.type);
  const bool is_narrow = is_integer(tensor.type) && size_of(tensor.type) <= 2;
  if (!dtype && !is_narrow)
    return refuse("values of float32, int64, int32, bool, got {} in '{}'", name_of(tensor.type), name);
  if (elements_of(tensor.sizes) == 0) return refuse("values, got none in '{}'", name);
  for (int64_t i = 0; i < tensor.count(); ++i)
    if (std::isnan(tensor.number(i))) return refuse("constants that are numbers, got NaN in '{}'", name);
  const std::string_view given = tensor.name.empty() ? name : tensor.name;
  const std::string own = unique(given.empty() ? fmt::format("{}/constant", scope_) : std::string(given));
  if (tensor.stored != tensor.type) {
    std::vector<uint16_t> bits(static_cast<size_t>(tensor.count()));
    std::memcpy(bits.data(), tensor.bytes.data(), tensor.bytes.size());
    const auto kept = tensor.stored == ElementType::kFloat16 ? program::Storage::kFloat16 : program::Storage::kBFloat16;
    return builder_.halves(own, tensor.sizes, std::move(bits), kept);
  }
  if (dtype && *dtype != DType::kFloat32) {
    const ValueId id = builder_.raw(own, *dtype, tensor.sizes, {tensor.bytes.begin(), tensor.bytes.end()});
    if (is_integer(tensor.type)) integers_[id] = tensor;
    return id;
  }
  const ValueId id = builder_.floats(own, tensor.sizes, tensor.floats());
  if (is_narrow) keep_as(id, tensor.type);
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
    const Dim size = with_factor(dim, std::abs(dim.factor));
    BITLAB_TRY(ValueId part, positions(size, {1, size}));
    BITLAB_TRY(part, emit(Op::max, {part}));
    BITLAB_TRY(part, with(Op::add, part, 1));
    BITLAB_TRY(parts.emplace_back(), dim.factor < 0 ? with(Op::mul, part, -1) : Result<ValueId>(part));
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
  const bool makes_ones = are_ones(op, inputs);
  if (makes_ones && op == Op::take) {
    BITLAB_TRY(const ValueId taken, taken_of_ones(inputs[0], inputs[1], std::get<int64_t>(attributes.at("dim"))));
    return std::vector<ValueId>{taken};
  }
  const std::string name = unique(fmt::format("{}/{}", scope_, program::name(op)));
  auto ids = builder_.nodes(op, name, std::move(inputs), std::move(attributes));
  if (!ids.ok()) return refuse("what the program can say, got: {}", ids.error().message);
  for (const ValueId id : *ids) makers_[id] = builder_.peek().nodes.size() - 1;
  if (makes_ones) ones_.insert(ids->begin(), ids->end());
  return ids;
}

const Tensor* Reader::integers_of(ValueId id) const {
  const auto found = integers_.find(id);
  return found == integers_.end() ? nullptr : &found->second;
}

const program::Node* Reader::maker(ValueId id) const {
  const auto found = makers_.find(id);
  return found == makers_.end() ? nullptr : &builder_.peek().nodes[found->second];
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

Result<ValueId> Reader::positions(const Dim& size) {
  return emit(Op::positions, {}, {{"size", Shape{size}}, {"continues", int64_t{0}}});
}

Result<ValueId> Reader::positions(const Dim& size, const Shape& shape) {
  BITLAB_TRY(const ValueId id, positions(size));
  return reshape(id, shape);
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
  const Shape& shape = shape_of(x);
  if (dim < 0 || dim >= static_cast<int64_t>(shape.size())) return corrupt("a dimension {}, got {}", dim, show(shape));
  if (start == 0 && step == 1 && shape[static_cast<size_t>(dim)] == length) return x;
  return emit(Op::slice, {x}, {{"dim", dim}, {"start", start}, {"length", Shape{length}}, {"step", step}});
}

Result<ValueId> Reader::stack(const std::vector<ValueId>& parts, int64_t dim) {
  std::vector<ValueId> apart;
  for (const ValueId part : parts) {
    Shape shape = shape_of(part);
    if (shape != shape_of(parts[0]))
      return refuse("parts of one shape, got {} and {}", show(shape_of(parts[0])), show(shape));
    shape.insert(shape.begin() + dim, 1);
    BITLAB_TRY(const ValueId value, as_activation(part));
    BITLAB_TRY(apart.emplace_back(), reshape(value, shape));
  }
  return apart.size() == 1 ? Result<ValueId>(apart[0]) : emit(Op::cat, apart, {{"dim", dim}});
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

void Reader::prefer_multiple(const Dim& dim, int64_t of) {
  if (of >= 2) want_multiple(preferred_, builder_.peek().symbols, dim, of);
}

Multiples Reader::unrounded() const {
  Multiples result = preferred_;
  const program::Symbols& symbols = builder_.peek().symbols;
  const Multiples& own_multiples = guess_.multiples;
  for (const program::Value& value : builder_.peek().values)
    for (const Dim& dim : value.shape)
      for (const program::Sum& sum : dim.sums)
        for (const Dim& term : sum.terms) want_multiple(result, symbols, term, sum.divisor);
  for (auto& [name, multiple] : result) {
    const auto own = own_multiples.find(name);
    multiple = multiple > kMostMultiple ? 1 : multiple * (own == own_multiples.end() ? 1 : own->second);
  }
  return result;
}

bool Reader::may_bound(const Dim& dim, int64_t most) {
  const std::optional<size_t> index = single_symbol(dim);
  if (!index || *index == 0 || most < dim.factor) return false;
  guess_.met_bound = true;
  if (guess_.bounds) bound(dim, most);
  return guess_.bounds;
}

void Reader::bound(const Dim& dim, int64_t most) {
  if (dim.sums.size() == 1 && dim.sums[0].terms.size() == 1 &&
      counts_places(dim.sums[0].offset)) {  // a multiple, and a number
    const Dim& term = dim.sums[0].terms[0];
    const auto moved = sum(term, dim.sums[0].offset);
    if (moved && *moved == dim) return bound(term, most - dim.sums[0].offset);
  }
  const std::optional<size_t> index = single_symbol(dim);
  if (!index || dim.factor < 1 || most < dim.factor) return;
  program::Symbol symbol = builder_.peek().symbols[*index];
  symbol.max = std::max(symbol.min, std::min(symbol.max, most / dim.factor));
  builder_.declare(symbol);
}

}  // namespace bitlab::format::onnx
