#include "bitlab/program/program.h"

#include <algorithm>
#include <array>

#include "bitlab/program/verify.h"

namespace bitlab::program {
namespace {

Shape constant_shape(const std::vector<int64_t>& sizes) {
  Shape shape;
  for (int64_t size : sizes) shape.push_back({size, false});
  return shape;
}

template <class T>
std::string_view bytes_of(std::span<const T> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size_bytes()};
}

// Everything that a constant's data consists of, in parts.
std::vector<std::string_view> parts_of(const FloatData& data) { return {bytes_of(data)}; }
std::vector<std::string_view> parts_of(const Int8Data& data) { return {bytes_of(data.t), bytes_of(data.scale)}; }
std::vector<std::string_view> parts_of(const TernaryData& data) {
  return {bytes_of(data.codes), bytes_of(data.scale), bytes_of(data.scale_neg), bytes_of(data.group_scale),
          bytes_of(std::span(&data.group, 1))};
}

}  // namespace

std::string_view name(DType dtype) {
  constexpr std::array<std::string_view, 4> kNames{"float32", "ternary", "int8", "int64"};
  return kNames.at(static_cast<size_t>(dtype));
}

const Constant* Program::constant(ValueId id) const {
  const auto found = std::lower_bound(constants.begin(), constants.end(), id,
                                      [](const Constant& c, ValueId wanted) { return c.value < wanted; });
  return found == constants.end() || found->value != id ? nullptr : &*found;
}

bool Program::is_exact() const {
  return std::none_of(nodes.begin(), nodes.end(),
                      [](const Node& n) { return schema(n.op).exactness == Exactness::kBounded; });
}

void complete_inputs(Node& node) {
  const auto& inputs = schema(node.op).inputs;
  while (node.inputs.size() < inputs.size() && inputs[node.inputs.size()].optional) node.inputs.push_back(kNone);
}

int64_t weight_rows(const Shape& shape) { return shape.front().size; }

int64_t weight_depth(const Shape& shape) {
  int64_t depth = 1;
  for (size_t i = 1; i < shape.size(); ++i) depth *= shape[i].size;
  return depth;
}

ValueId ProgramBuilder::add(std::string name, ValueKind kind, DType dtype, Shape shape) {
  program_.values.push_back({std::move(name), kind, dtype, std::move(shape)});
  return static_cast<ValueId>(program_.values.size()) - 1;
}

ValueId ProgramBuilder::input(std::string name, Shape shape, DType dtype) {
  const ValueId id = add(std::move(name), ValueKind::kInput, dtype, std::move(shape));
  program_.inputs.push_back(id);
  return id;
}

template <class Data>
ValueId ProgramBuilder::add_constant(std::string name, DType dtype, const std::vector<int64_t>& sizes, Data data,
                                     std::shared_ptr<const void> storage) {
  const Shape shape = constant_shape(sizes);
  const std::vector<std::string_view> parts = parts_of(data);
  size_t hash = std::hash<std::string>()(fmt::format("{}{}", bitlab::program::name(dtype), to_string(shape)));
  for (const std::string_view part : parts) hash = hash * 31 + std::hash<std::string_view>()(part);
  const auto [first, last] = constants_.equal_range(hash);
  for (auto i = first; i != last; ++i) {
    const auto* known = std::get_if<Data>(&program_.constant(i->second)->data);
    if (known != nullptr && program_.value(i->second).shape == shape && parts_of(*known) == parts) return i->second;
  }
  const ValueId id = add(std::move(name), ValueKind::kConstant, dtype, shape);
  program_.constants.push_back({id, data, std::move(storage)});
  constants_.emplace(hash, id);
  return id;
}

// Shapes come as braced lists, by value like the data.  NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::floats(std::string name, std::vector<int64_t> shape, std::vector<float> data) {
  auto owned = std::make_shared<const std::vector<float>>(std::move(data));
  const FloatData view = *owned;
  return add_constant(std::move(name), DType::kFloat32, shape, view, std::move(owned));
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
  return add_constant(std::move(name), DType::kTernary, shape, view, std::move(owned));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::int8(std::string name, std::vector<int64_t> shape, std::vector<int8_t> t, std::vector<float> scale) {
  struct Owned {
    std::vector<int8_t> t;
    std::vector<float> scale;
  };
  auto owned = std::make_shared<const Owned>(Owned{std::move(t), std::move(scale)});
  const Int8Data view{owned->t, owned->scale};
  return add_constant(std::move(name), DType::kInt8, shape, view, std::move(owned));
}

Result<ValueId> ProgramBuilder::node(Op op, std::string name, std::vector<ValueId> inputs,
                                     std::map<std::string, Attribute> attributes) {
  Node node{op, std::move(name), std::move(inputs), kNone, std::move(attributes)};
  complete_inputs(node);
  BITLAB_RETURN_IF_ERROR(verify_schema(program_, node));
  BITLAB_TRY(Shape shape, infer_shape(program_, node));
  node.output = add(node.name, ValueKind::kResult, DType::kFloat32, std::move(shape));
  program_.nodes.push_back(std::move(node));
  return program_.nodes.back().output;
}

Result<Program> ProgramBuilder::finish(std::vector<ValueId> outputs) {
  program_.outputs = std::move(outputs);
  constants_.clear();
  BITLAB_RETURN_IF_ERROR(verify(program_));
  return std::exchange(program_, {});
}

}  // namespace bitlab::program
