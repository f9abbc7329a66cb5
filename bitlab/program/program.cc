#include "bitlab/program/program.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "bitlab/base/internal/half.h"
#include "bitlab/program/internal/attention_input.h"
#include "bitlab/program/verify.h"

namespace bitlab::program {
namespace {

template <class T>
std::string_view bytes_of(std::span<const T> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size_bytes()};
}

// Everything that a constant's data consists of, in parts.
std::vector<std::string_view> parts_of(const FloatData& data) { return {bytes_of(data)}; }
std::vector<std::string_view> parts_of(const HalfData& data) { return {bytes_of(data.bits)}; }
std::vector<std::string_view> parts_of(const RawData& data) { return {bytes_of(data.bytes)}; }
std::vector<std::string_view> parts_of(const Int8Data& data) { return {bytes_of(data.t), bytes_of(data.scale)}; }
std::vector<std::string_view> parts_of(const TernaryData& data) {
  return {bytes_of(data.codes), bytes_of(data.scale), bytes_of(data.scale_neg), bytes_of(data.group_scale),
          bytes_of(std::span(&data.group, 1))};
}

constexpr std::array<std::string_view, 5> kStorages{"plain", "float16", "bfloat16", "ternary", "int8"};

}  // namespace

std::string_view name(Storage storage) { return kStorages.at(static_cast<size_t>(storage)); }

Result<Storage> parse_storage(std::string_view name) {
  const auto* const found = std::find(kStorages.begin(), kStorages.end(), name);
  if (found != kStorages.end()) return static_cast<Storage>(found - kStorages.begin());
  return make_error(ErrorCode::kUnknownName, "[program] a storage of plain, float16, bfloat16, ternary, int8, got '{}'",
                    name);
}

float widened(uint16_t bits, Storage storage) {
  return storage == Storage::kFloat16 ? half_to_float(bits) : bfloat_to_float(bits);
}

Signature Program::signature() const {
  Signature signature{symbols, {}, {}};
  for (const ValueId id : inputs) signature.inputs.push_back({value(id).name, value(id)});
  for (const Output& output : outputs) signature.outputs.push_back({output.name, value(output.value)});
  return signature;
}

const Attribute& Node::any_attribute(const char* key) const { return attributes.at(key); }

const Constant* Program::constant(ValueId id) const {
  const auto found = std::lower_bound(constants.begin(), constants.end(), id,
                                      [](const Constant& c, ValueId wanted) { return c.value < wanted; });
  return found == constants.end() || found->value != id ? nullptr : &*found;
}

std::vector<float> Program::floats(ValueId id) const {
  const Constant* found = constant(id);
  std::vector<float> numbers;
  if (found == nullptr) return numbers;
  if (const auto* plain = std::get_if<FloatData>(&found->data)) numbers.assign(plain->begin(), plain->end());
  if (const auto* halves = std::get_if<HalfData>(&found->data))
    for (const uint16_t bits : halves->bits) numbers.push_back(widened(bits, value(id).storage));
  return numbers;
}

bool Program::is_exact() const {
  return std::none_of(nodes.begin(), nodes.end(), [](const Node& n) { return n.exactness == Exactness::kBounded; });
}

std::optional<Dim> appended_positions(const Program& program) {
  for (const Node& node : program.nodes)
    if (node.op == Op::attention && node.inputs[attention_input::kKeyState] != kNone)
      return program.value(node.inputs[attention_input::kKey]).shape[2];
  return std::nullopt;
}

std::optional<size_t> context_symbol(const Program& program) {
  for (size_t i = 0; i < program.symbols.size(); ++i)
    if (program.symbols[i].is_context) return i;
  return std::nullopt;
}

std::string output_name(const std::string& node, size_t output) {
  return output == 0 ? node : fmt::format("{}:{}", node, output);
}

void complete(Node& node) {
  const OpSchema& expected = schema(node.op);
  const auto& inputs = expected.inputs;
  while (node.inputs.size() < inputs.size() && inputs[node.inputs.size()].optional) node.inputs.push_back(kNone);
  for (const AttributeSchema& attribute : expected.attributes)
    if (attribute.otherwise) node.attributes.try_emplace(attribute.name, *attribute.otherwise);
  for (const AttributeSchema& attribute : expected.attributes) {
    const auto found = node.attributes.find(attribute.name);
    const Sizes* sizes = found == node.attributes.end() ? nullptr : std::get_if<Sizes>(&found->second);
    if (attribute.kind == AttributeKind::kShape && sizes != nullptr) found->second = Shape(sizes->begin(), sizes->end());
  }
}

int64_t weight_rows(const Shape& shape) { return shape.front().factor; }

int64_t weight_depth(const Shape& shape) {
  int64_t depth = 1;
  for (size_t i = 1; i < shape.size(); ++i) depth *= shape[i].factor;
  return depth;
}

void ProgramBuilder::declare(const Symbol& symbol) {
  this->symbol(symbol.name);
  *std::find_if(program_.symbols.begin(), program_.symbols.end(), [&](const Symbol& s) { return s.name == symbol.name; }) =
      symbol;
}

void ProgramBuilder::at_least(const Dim& dim, int64_t least) {
  if (!dim.is_number() && !uses(dim, 0)) raise_least(Sum{{dim}, 1 - least}, program_.symbols);
}

ValueId ProgramBuilder::add(std::string name, ValueKind kind, TensorType type, Storage storage) {
  for (const Dim& dim : type.shape)
    for (const Sum& sum : dim.sums) raise_least(sum, program_.symbols);
  program_.values.push_back({std::move(type), std::move(name), kind, storage});
  return static_cast<ValueId>(program_.values.size()) - 1;
}

ValueId ProgramBuilder::input(std::string name, Shape shape, DType dtype) {
  const ValueId id = add(std::move(name), ValueKind::kInput, {dtype, std::move(shape)});
  program_.inputs.push_back(id);
  return id;
}

ValueId ProgramBuilder::state(std::string name, Shape shape) {
  const ValueId id = add(std::move(name), ValueKind::kState, {DType::kFloat32, std::move(shape)});
  program_.states.push_back(id);
  return id;
}

template <class Data>
ValueId ProgramBuilder::add_constant(std::string name, DType dtype, Storage storage, const std::vector<int64_t>& sizes,
                                     Data data, std::shared_ptr<const void> owner) {
  const TensorType type{dtype, {sizes.begin(), sizes.end()}};
  const std::vector<std::string_view> parts = parts_of(data);
  size_t hash = std::hash<std::string>()(
      fmt::format("{} {} {}", bitlab::program::name(dtype), bitlab::program::name(storage), to_string(sizes)));
  for (const std::string_view part : parts) hash = hash * 31 + std::hash<std::string_view>()(part);
  const auto [first, last] = constants_.equal_range(hash);
  for (auto i = first; i != last; ++i) {
    const Value& other = program_.value(i->second);
    const auto* known = std::get_if<Data>(&program_.constant(i->second)->data);
    if (known != nullptr && other == type && other.storage == storage && parts_of(*known) == parts) return i->second;
  }
  const ValueId id = add(std::move(name), ValueKind::kConstant, type, storage);
  program_.constants.push_back({id, data, std::move(owner)});
  constants_.emplace(hash, id);
  return id;
}

// Shapes come as braced lists, by value like the data.  NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::floats(std::string name, std::vector<int64_t> shape, std::vector<float> data) {
  auto owned = std::make_shared<const std::vector<float>>(std::move(data));
  const FloatData view = *owned;
  return add_constant(std::move(name), DType::kFloat32, Storage::kPlain, shape, view, std::move(owned));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::halves(std::string name, std::vector<int64_t> shape, std::vector<uint16_t> bits, Storage storage) {
  auto owned = std::make_shared<const std::vector<uint16_t>>(std::move(bits));
  const HalfData view{*owned};
  return add_constant(std::move(name), DType::kFloat32, storage, shape, view, std::move(owned));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::raw(std::string name, DType dtype, std::vector<int64_t> shape, std::vector<uint8_t> bytes) {
  auto owned = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
  const RawData view{*owned};
  return add_constant(std::move(name), dtype, Storage::kPlain, shape, view, std::move(owned));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::ternary(std::string name, std::vector<int64_t> shape, std::vector<uint8_t> codes,
                                TernaryScales scales) {
  struct Owned {
    std::vector<uint8_t> codes;
    TernaryScales scales;
  };
  auto owned = std::make_shared<const Owned>(Owned{std::move(codes), std::move(scales)});
  const TernaryScales& kept = owned->scales;
  const TernaryData view{owned->codes, kept.scale, kept.scale_neg, kept.group_scale, kept.group};
  return add_constant(std::move(name), DType::kFloat32, Storage::kTernary, shape, view, std::move(owned));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::int8(std::string name, std::vector<int64_t> shape, std::vector<int8_t> t, std::vector<float> scale) {
  struct Owned {
    std::vector<int8_t> t;
    std::vector<float> scale;
  };
  auto owned = std::make_shared<const Owned>(Owned{std::move(t), std::move(scale)});
  const Int8Data view{owned->t, owned->scale};
  return add_constant(std::move(name), DType::kFloat32, Storage::kInt8, shape, view, std::move(owned));
}

Result<std::vector<ValueId>> ProgramBuilder::nodes(Op op, std::string name, std::vector<ValueId> inputs,
                                                   Attributes attributes) {
  Node node{op, std::move(name), std::move(inputs), {}, std::move(attributes), schema(op).exactness};
  complete(node);
  BITLAB_RETURN_IF_ERROR(verify_schema(program_, node));
  BITLAB_TRY(std::vector<TensorType> types, infer_types(program_, node));
  for (size_t i = 0; i < types.size(); ++i)
    node.outputs.push_back(add(output_name(node.name, i), ValueKind::kResult, std::move(types[i])));
  program_.nodes.push_back(std::move(node));
  return program_.nodes.back().outputs;
}

Result<ValueId> ProgramBuilder::node(Op op, std::string name, std::vector<ValueId> inputs, Attributes attributes) {
  BITLAB_TRY(const std::vector<ValueId> outputs, nodes(op, std::move(name), std::move(inputs), std::move(attributes)));
  return outputs.front();
}

Result<Program> ProgramBuilder::finish(std::vector<Output> outputs) {
  program_.outputs = std::move(outputs);
  constants_.clear();
  BITLAB_RETURN_IF_ERROR(verify(program_));
  return std::exchange(program_, {});
}

Result<Program> ProgramBuilder::finish(const std::vector<ValueId>& outputs) {
  std::vector<Output> named;
  for (const ValueId id : outputs) named.push_back({outputs.size() == 1 ? "output" : program_.value(id).name, id});
  return finish(std::move(named));
}

}  // namespace bitlab::program
