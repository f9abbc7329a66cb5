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

}  // namespace

std::string_view name(DType dtype) {
  constexpr std::array<std::string_view, 4> kNames{"float32", "ternary", "int8", "int64"};
  return kNames.at(static_cast<size_t>(dtype));
}

const Constant* Program::constant(ValueId id) const {
  const auto found = std::find_if(constants.begin(), constants.end(), [id](const Constant& c) { return c.value == id; });
  return found == constants.end() ? nullptr : &*found;
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

// Shapes come as braced lists, by value like the data.  NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::floats(std::string name, std::vector<int64_t> shape, std::vector<float> data) {
  const ValueId id = add(std::move(name), ValueKind::kConstant, DType::kFloat32, constant_shape(shape));
  auto owned = std::make_shared<const std::vector<float>>(std::move(data));
  const FloatData view = *owned;
  program_.constants.push_back({id, view, std::move(owned)});
  return id;
}

// NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::ternary(std::string name, std::vector<int64_t> shape, std::vector<uint8_t> codes,
                                TernaryScales scales) {
  const ValueId id = add(std::move(name), ValueKind::kConstant, DType::kTernary, constant_shape(shape));
  struct Owned {
    std::vector<uint8_t> codes;
    TernaryScales scales;
  };
  auto owned = std::make_shared<const Owned>(Owned{std::move(codes), std::move(scales)});
  const TernaryScales& kept = owned->scales;
  const TernaryData view{owned->codes, kept.scale, kept.scale_neg, kept.group_scale, kept.group};
  program_.constants.push_back({id, view, std::move(owned)});
  return id;
}

// NOLINTNEXTLINE(performance-unnecessary-value-param)
ValueId ProgramBuilder::int8(std::string name, std::vector<int64_t> shape, std::vector<int8_t> t, std::vector<float> scale) {
  const ValueId id = add(std::move(name), ValueKind::kConstant, DType::kInt8, constant_shape(shape));
  struct Owned {
    std::vector<int8_t> t;
    std::vector<float> scale;
  };
  auto owned = std::make_shared<const Owned>(Owned{std::move(t), std::move(scale)});
  const Int8Data view{owned->t, owned->scale};
  program_.constants.push_back({id, view, std::move(owned)});
  return id;
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
  BITLAB_RETURN_IF_ERROR(verify(program_));
  return std::exchange(program_, {});
}

}  // namespace bitlab::program
