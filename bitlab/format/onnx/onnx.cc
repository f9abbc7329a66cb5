#include "bitlab/format/onnx/onnx.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include <fmt/format.h>

#include "bitlab/base/version.h"
#include "bitlab/format/onnx/internal/operations.h"
#include "bitlab/program/verify.h"

namespace bitlab::format::onnx {
namespace {

using program::Dim;
using program::Node;
using program::Op;
using program::Program;
using program::Shape;
using program::Value;
using program::ValueId;
using program::ValueKind;

// A writer of one node of that type.
struct Row {
  Op op;
  std::string_view type;  // empty: the emitter's
  Emitter emitter;
};
constexpr Row kRows[] = {
#define BITLAB_ONNX_NODE(op, type) {Op::op, type, nullptr},
#define BITLAB_ONNX(op) {Op::op, "", write_##op},
#include "bitlab/format/onnx/ops.def"
};

struct VariantFacts {
  Variant variant;
  int64_t opset, ir_version;  // the first with what it needs
};

Result<VariantFacts> variant_of(std::string_view name) {
  constexpr int64_t kOpset = 21, kIr = 10, kInt2Opset = 25, kInt2Ir = 13;
  if (name.empty() || name == "float") return VariantFacts{Variant::kFloat, kOpset, kIr};
  if (name == "matmulnbits") return VariantFacts{Variant::kMatMulNBits, kOpset, kIr};
  if (name == "int2") return VariantFacts{Variant::kInt2, kInt2Opset, kInt2Ir};
  if (name == "int8") return VariantFacts{Variant::kInt8, kOpset, kIr};
  return make_error(ErrorCode::kUnknownName, "[onnx] a variant of {{{}}}, got '{}'", kVariants, name);
}

ProtobufMessage entry(std::string_view key, std::string_view value) { return ProtobufMessage().text(1, key).text(2, value); }

ElementType half_type(const Value& v) {
  return v.storage == program::Storage::kFloat16 ? ElementType::kFloat16 : ElementType::kBFloat16;
}

}  // namespace

Order permuted(const Ints& sizes, const std::vector<size_t>& dims) {
  Order order;
  Ints strides(sizes.size(), 1);
  for (size_t i = sizes.size(); i-- > 1;) strides[i - 1] = strides[i] * sizes[i];
  for (const size_t dim : dims) order.sizes.push_back(sizes[dim]);
  const int64_t count = std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
  order.from.resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    int64_t rest = i, from = 0;
    for (size_t d = dims.size(); d-- > 0; rest /= order.sizes[d]) from += rest % order.sizes[d] * strides[dims[d]];
    order.from[static_cast<size_t>(i)] = static_cast<size_t>(from);
  }
  return order;
}

Order conv_order(const Ints& sizes, int64_t groups, bool transposed) {
  // As [groups, rows / groups, kernel..., channels / groups].
  Ints parts{groups, sizes[0] / groups};
  parts.insert(parts.end(), sizes.begin() + 1, sizes.end());
  std::vector<size_t> dims{0, 1, parts.size() - 1};
  if (transposed) std::swap(dims[1], dims[2]);
  for (size_t axis = 2; axis + 1 < parts.size(); ++axis) dims.push_back(axis);
  Order order = permuted(parts, dims);
  order.sizes[1] *= order.sizes[0];
  order.sizes.erase(order.sizes.begin());
  return order;
}

std::string Writer::constant(ValueId id, const Order& order) {
  const Value& v = p.value(id);
  const auto& data = p.constant(id)->data;
  if (const auto* halves = std::get_if<program::HalfData>(&data)) {
    const std::string bits =
        g.tensor(v.name, half_type(v), order.sizes, bytes_of(std::span<const uint16_t>(reordered(halves->bits, order))));
    return g.node("Cast", {bits}, {{"to", static_cast<int64_t>(ElementType::kFloat)}});
  }
  return g.floats(v.name, order.sizes, reordered(std::get<program::FloatData>(data), order));
}

std::string Writer::constant(ValueId id, const Ints& sizes) {
  Order order{sizes, std::vector<size_t>(static_cast<size_t>(elements(p.value(id).shape, program::kOnes)))};
  std::iota(order.from.begin(), order.from.end(), size_t{0});
  return constant(id, order);
}

std::string Writer::plain(ValueId id) {
  const Value& v = p.value(id);
  const Ints sizes = shape_at(v.shape, program::kOnes);
  if (const auto* bytes = std::get_if<program::RawData>(&p.constant(id)->data))
    return g.tensor(v.name, element_type(v.dtype), sizes, bytes_of(bytes->bytes));
  return constant(id, sizes);
}

std::string Writer::in(const Node& node, size_t input) {
  const ValueId id = node.inputs[input];
  std::string& tensor = tensors_[id];
  if (tensor.empty()) tensor = plain(id);  // only constants are not there yet
  return tensor;
}

std::string Writer::size(const Dim& dim) {
  if (dim.is_number()) return g.ints({dim.factor});
  std::string product;
  for (size_t i = 0; i < p.symbols.size(); ++i)
    for (int power = 0; power < dim.powers[i]; ++power)
      product = product.empty() ? symbols_[i] : g.node("Mul", {product, symbols_[i]});
  for (const program::Sum& sum : dim.sums) {
    const std::string part = size(sum);
    product = product.empty() ? part : g.node("Mul", {product, part});
  }
  return dim.factor == 1 ? product : g.node("Mul", {product, g.ints({dim.factor})});
}

std::string Writer::size(const program::Sum& sum) {
  std::string total = size(sum.terms[0]);
  for (size_t i = 1; i < sum.terms.size(); ++i) total = g.node("Add", {total, size(sum.terms[i])});
  if (sum.offset != 0) total = g.node("Add", {total, g.ints({sum.offset})});
  return sum.divisor == 1 ? total : g.node("Div", {total, g.ints({sum.divisor})});
}

std::string Writer::sizes(const Shape& shape) {
  if (is_fixed(shape)) return g.ints(shape_at(shape, program::kOnes));
  Names parts;
  for (const Dim& dim : shape) parts.push_back(size(dim));
  return parts.size() == 1 ? parts[0] : g.node("Concat", parts, {{"axis", int64_t{0}}});
}

// Sizes that stay are 0, and one that is a product of symbols is -1, so that most shapes are constants.
std::string Writer::reshape(const std::string& x, const Shape& from, const Shape& to) {
  if (from == to) return x;
  Ints numbers;
  int64_t left_over = 0;
  for (size_t i = 0; i < to.size(); ++i) {
    const bool stays = i < from.size() && from[i] == to[i];
    numbers.push_back(to[i].is_number() ? to[i].factor : stays ? 0 : -1);
    left_over += numbers.back() == -1 ? 1 : 0;
  }
  return g.node("Reshape", {x, left_over <= 1 ? g.ints(numbers) : sizes(to)});
}

std::string Writer::past() { return past_; }

program::TensorType Writer::past_type(const Value& state) const {
  program::TensorType type = state;
  const size_t context = *context_symbol(p);
  for (Dim& dim : type.shape)
    if (dim == Dim::of_symbol(context)) dim = Dim::of_symbol(port_symbols_.size() - 1);
  return type;
}

void Writer::add_inputs() {
  port_symbols_ = p.symbols;
  if (context_symbol(p)) {
    std::string name = fmt::format("past_{}", p.symbols[*context_symbol(p)].name);
    while (std::any_of(p.symbols.begin(), p.symbols.end(), [&](const auto& s) { return s.name == name; })) name += "_";
    port_symbols_.push_back({std::move(name)});
  }
  for (const ValueId id : p.inputs) {
    tensors_[id] = g.unique(p.value(id).name);
    g.add_input(tensors_[id], p.value(id), p.symbols);
  }
  for (const ValueId id : p.states) {
    tensors_[id] = g.unique(p.value(id).name);
    g.add_input(tensors_[id], past_type(p.value(id)), port_symbols_);
  }
  g.begin("sizes");
  const auto part = [&](ValueId id, size_t axis) {
    const auto begin = static_cast<int64_t>(axis);
    return g.node("Shape", {tensors_[id]}, {{"start", begin}, {"end", begin + 1}});
  };
  for (const ValueId id : p.inputs) {
    const Shape& shape = p.value(id).shape;
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      const std::optional<size_t> symbol = single_symbol(shape[axis]);
      if (!symbol || !symbols_[*symbol].empty()) continue;
      symbols_[*symbol] = part(id, axis);
      if (shape[axis].factor != 1) symbols_[*symbol] = g.node("Div", {symbols_[*symbol], g.ints({shape[axis].factor})});
    }
  }
  if (p.states.empty()) return;
  const size_t context = *context_symbol(p);
  const Shape& state = p.value(p.states[0]).shape;
  const auto axis = std::find(state.begin(), state.end(), Dim::of_symbol(context)) - state.begin();
  past_ = part(p.states[0], static_cast<size_t>(axis));
  symbols_[context] = g.node("Add", {past_, size(*appended_positions(p))});
}

Status Writer::add_node(const Node& node) {
  const auto* const row = std::find_if(std::begin(kRows), std::end(kRows), [&](const Row& r) { return r.op == node.op; });
  if (row == std::end(kRows)) return refuse(node, "an operation that ONNX has");
  g.begin(node.name);
  Names results;
  if (row->emitter == nullptr) {
    Names inputs;
    for (size_t i = 0; i < node.inputs.size(); ++i) inputs.push_back(in(node, i));
    results.push_back(g.node(row->type, inputs));
  } else {
    BITLAB_TRY(results, row->emitter(*this, node));
  }
  for (size_t i = 0; i < node.outputs.size(); ++i) {
    const ValueId id = node.outputs[i];
    const auto output = output_names_.find(id);
    const std::string name = output == output_names_.end() ? g.unique(p.value(id).name) : output->second;
    tensors_[id] = g.rename(results[i], name) ? name : results[i];
    if (output == output_names_.end() && tensors_[id] == name) g.add_value(name, p.value(id), p.symbols);
  }
  return {};
}

Status Writer::add_outputs() {
  g.begin("outputs");
  for (const program::Output& output : p.outputs) {
    const auto own = output_names_.find(output.value);
    Node reader{Op::reshape, output.name, {output.value}, {}, {}};
    if (own == output_names_.end() || own->second != output.name || tensors_[output.value] != output.name) {
      const std::string copy = g.node("Identity", {in(reader, 0)});
      g.rename(copy, output.name);
    }
    g.add_output(output.name, p.value(output.value), p.symbols);
  }
  for (const ValueId id : p.states) {
    const auto next = next_states_.find(id);
    const std::string name = g.unique(p.value(id).name + ".next");
    const std::string copy = g.node("Identity", {next == next_states_.end() ? tensors_[id] : next->second});
    g.rename(copy, name);
    program::TensorType type = p.value(id);
    if (next == next_states_.end()) type = past_type(p.value(id));
    g.add_output(name, type, port_symbols_);
  }
  return {};
}

Result<std::string> Writer::model() {
  add_inputs();
  for (const program::Output& output : p.outputs) {
    if (g.unique(output.name) != output.name)
      return make_error(ErrorCode::kUnsupported, "[onnx] outputs with other names than inputs, got '{}' twice", output.name);
    if (p.value(output.value).kind == ValueKind::kResult) output_names_.try_emplace(output.value, output.name);
  }
  for (const Node& node : p.nodes) BITLAB_RETURN_IF_ERROR(add_node(node));
  BITLAB_RETURN_IF_ERROR(add_outputs());
  return g.message("bitlab").bytes();
}

Result<std::string> serialize(const Program& program, std::string_view variant) {
  BITLAB_RETURN_IF_ERROR(verify(program));
  BITLAB_TRY(const VariantFacts facts, variant_of(variant));
  BITLAB_TRY(const std::string graph, Writer(program, facts.variant).model());
  ProtobufMessage model;
  model.number(1, facts.ir_version).text(2, "bitlab").text(3, version()).text(7, graph);
  model.message(8, ProtobufMessage().text(1, "").number(2, facts.opset));
  if (facts.variant == Variant::kMatMulNBits) model.message(8, ProtobufMessage().text(1, "com.microsoft").number(2, 1));
  for (const auto& [key, value] : program.metadata) model.message(14, entry(key, value));
  constexpr size_t kMost = std::numeric_limits<int32_t>::max();
  if (model.bytes().size() > kMost)
    return make_error(ErrorCode::kUnsupported, "[onnx] at most {} bytes, got {}", kMost, model.bytes().size());
  return model.bytes();
}

}  // namespace bitlab::format::onnx
