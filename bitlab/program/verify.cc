#include "bitlab/program/verify.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "bitlab/base/half.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::program {
namespace {

template <class... Args>
Error corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[verify] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

bool exists(const Program& p, ValueId id) { return id >= 0 && static_cast<size_t>(id) < p.values.size(); }

Status verify_values(const Program& p) {
  std::set<std::string_view> names;
  for (const Value& v : p.values) {
    if (v.name.empty() || !names.insert(v.name).second)
      return corrupt("unique value names, got '{}' again or empty", v.name);
    if (!is_valid(v.shape) || static_cast<int64_t>(v.shape.size()) > kMaxRank)
      return corrupt("at most {} positive sizes, got {} (value={})", kMaxRank, to_string(v.shape), v.name);
    const bool symbolic = std::any_of(v.shape.begin(), v.shape.end(), [](Dim d) { return d.symbolic; });
    if (symbolic && v.kind == ValueKind::kConstant)
      return corrupt("constants of fixed shape, got {} (value={})", to_string(v.shape), v.name);
    if ((v.dtype == DType::kTernary || v.dtype == DType::kInt8) && v.kind != ValueKind::kConstant)
      return corrupt("{} constants only (value={})", name(v.dtype), v.name);
    if (v.dtype == DType::kInt64 && v.kind != ValueKind::kInput) return corrupt("int64 inputs only (value={})", v.name);
  }
  return {};
}

Status verify_finite(const std::string& name, FloatData data) {
  const auto bad = std::find_if(data.begin(), data.end(), [](float v) { return !std::isfinite(v); });
  if (bad == data.end()) return {};
  return corrupt("finite constants, got {} (value={}, index={})", *bad, name, bad - data.begin());
}

Status verify_groups(const Value& v, const TernaryData& data) {
  const int64_t rows = weight_rows(v.shape), depth = weight_depth(v.shape), innermost = v.shape.back().size;
  if (!ternary::is_group(data.group)) return corrupt("groups of 64, 128 or 256, got {} (value={})", data.group, v.name);
  if (v.shape.size() > 2 && innermost % data.group != 0)
    return corrupt("channels in multiples of the group {}, got {} (value={})", data.group, innermost, v.name);
  const int64_t scales = rows * ((depth + data.group - 1) / data.group);
  if (!data.scale.empty() || !data.scale_neg.empty() || static_cast<int64_t>(data.group_scale.size()) != scales)
    return corrupt("{} scales of groups alone, got {} (value={})", scales, data.group_scale.size(), v.name);
  constexpr uint16_t kExponent = 0x7C00;
  const auto bad = std::find_if(data.group_scale.begin(), data.group_scale.end(),
                                [](uint16_t half) { return (half & kExponent) == kExponent; });
  if (bad == data.group_scale.end()) return {};
  return corrupt("finite scales, got {} (value={}, index={})", half_to_float(*bad), v.name, bad - data.group_scale.begin());
}

Status verify_scale(const Value& v, FloatData scale) {
  const int64_t rows = weight_rows(v.shape);
  if (scale.size() != 1 && static_cast<int64_t>(scale.size()) != rows)
    return corrupt("1 or {} scales, got {} (value={})", rows, scale.size(), v.name);
  return verify_finite(v.name, scale);
}

Status verify_scales(const Value& v, const TernaryData& data) {
  if (data.group != 0 || !data.group_scale.empty()) return verify_groups(v, data);
  BITLAB_RETURN_IF_ERROR(verify_scale(v, data.scale));
  if (!data.scale_neg.empty() && data.scale_neg.size() != data.scale.size())
    return corrupt("as many negative scales as positive ones, {}, got {} (value={})", data.scale.size(),
                   data.scale_neg.size(), v.name);
  return verify_finite(v.name, data.scale_neg);
}

// Shape and depth of a weight of integers.
Status verify_matrix(const Value& v) {
  if (v.shape.size() < 2)
    return corrupt("{} weights of rank 2 to 5, got {} (value={})", name(v.dtype), to_string(v.shape), v.name);
  const int64_t most = ternary::max_depth(v.dtype == DType::kInt8), depth = weight_depth(v.shape);
  if (depth > most)
    return corrupt("a depth of at most {}, beyond which int32 sums could overflow, got {} (value={})", most, depth, v.name);
  return {};
}

Status verify_data(const Value& v, const FloatData& data) {
  if (static_cast<int64_t>(data.size()) != elements(v.shape, 1))
    return corrupt("{} floats for {}, got {} (value={})", elements(v.shape, 1), to_string(v.shape), data.size(), v.name);
  return verify_finite(v.name, data);
}

Status verify_data(const Value& v, const TernaryData& data) {
  BITLAB_RETURN_IF_ERROR(verify_matrix(v));
  BITLAB_RETURN_IF_ERROR(verify_scales(v, data));
  if (Status status = ternary::validate_codes(data.codes, weight_rows(v.shape), weight_depth(v.shape)); !status.ok())
    return make_error(status.error().code, "{} (value={})", status.error().message, v.name);
  return {};
}

Status verify_data(const Value& v, const Int8Data& data) {
  BITLAB_RETURN_IF_ERROR(verify_matrix(v));
  BITLAB_RETURN_IF_ERROR(verify_scale(v, data.scale));
  if (static_cast<int64_t>(data.t.size()) != elements(v.shape, 1))
    return corrupt("{} weights for {}, got {} (value={})", elements(v.shape, 1), to_string(v.shape), data.t.size(), v.name);
  const auto bad = std::find(data.t.begin(), data.t.end(), int8_t{-128});
  if (bad == data.t.end()) return {};
  return corrupt("int8 weights in [-127, 127], got -128 (value={}, index={})", v.name, bad - data.t.begin());
}

Status verify_constant(const Program& p, const Constant& constant) {
  if (!exists(p, constant.value) || p.value(constant.value).kind != ValueKind::kConstant)
    return corrupt("data for a constant, got value {}", constant.value);
  const Value& v = p.value(constant.value);
  constexpr DType kTypes[] = {DType::kFloat32, DType::kTernary, DType::kInt8};  // as in the variant
  if (v.dtype != kTypes[constant.data.index()]) return corrupt("data of the constant's type (value={})", v.name);
  return std::visit([&](const auto& data) { return verify_data(v, data); }, constant.data);
}

Status verify_constants(const Program& p) {
  ValueId last = kNone;
  for (const Constant& constant : p.constants) {
    BITLAB_RETURN_IF_ERROR(verify_constant(p, constant));
    if (constant.value <= last)
      return corrupt("data in the order of values, each once, got it again or late (value={})",
                     p.value(constant.value).name);
    last = constant.value;
  }
  for (size_t i = 0; i < p.values.size(); ++i)
    if (p.values[i].kind == ValueKind::kConstant && p.constant(static_cast<ValueId>(i)) == nullptr)
      return corrupt("data for every constant, got none (value={})", p.values[i].name);
  return {};
}

Status verify_ends(const Program& p) {
  std::set<ValueId> listed;
  for (ValueId id : p.inputs)
    if (!exists(p, id) || p.value(id).kind != ValueKind::kInput || !listed.insert(id).second)
      return corrupt("input values as inputs, each once, got value {}", id);
  const auto declared =
      std::count_if(p.values.begin(), p.values.end(), [](const Value& v) { return v.kind == ValueKind::kInput; });
  if (declared != static_cast<int64_t>(p.inputs.size()))
    return corrupt("{} inputs listed, got {}", declared, p.inputs.size());
  if (p.outputs.empty()) return corrupt("an output, got none");
  for (ValueId id : p.outputs)
    if (!exists(p, id) || p.value(id).kind != ValueKind::kResult)
      return corrupt("results of nodes as outputs, got value {}", id);
  return {};
}

Status verify_node(const Program& p, const Node& node, std::vector<bool>& defined) {
  for (ValueId id : node.inputs)
    if (id != kNone && (!exists(p, id) || !defined[static_cast<size_t>(id)]))
      return corrupt("inputs that are defined before, got value {} (node={})", id, node.name);
  BITLAB_RETURN_IF_ERROR(verify_schema(p, node));
  if (!exists(p, node.output) || p.value(node.output).kind != ValueKind::kResult ||
      defined[static_cast<size_t>(node.output)])
    return corrupt("an output that only this node defines, got value {} (node={})", node.output, node.name);
  BITLAB_TRY(const Shape shape, infer_shape(p, node));
  if (shape != p.value(node.output).shape)
    return corrupt("output shape {}, got {} (node={})", to_string(shape), to_string(p.value(node.output).shape), node.name);
  defined[static_cast<size_t>(node.output)] = true;
  return {};
}

bool has_kind(const Attribute& attribute, AttributeKind kind) { return attribute.index() == static_cast<size_t>(kind); }

// What activations are divided by. Constants of a program that is being read have no data yet; verify() comes back to them.
Status verify_step(const Program& p, const Node& node, const InputSchema& expected, ValueId id) {
  const Constant* step = p.constant(id);
  const auto* data = step == nullptr ? nullptr : std::get_if<FloatData>(&step->data);
  if (data == nullptr || data->empty() || (*data)[0] >= ternary::kLeastStep) return {};
  return corrupt("{} of at least {}, got {} (node={})", expected.name, ternary::kLeastStep, (*data)[0], node.name);
}

Status verify_input(const Program& p, const Node& node, const InputSchema& expected, ValueId id) {
  if (id == kNone) {
    if (expected.optional) return {};
    return corrupt("input '{}', got none (node={})", expected.name, node.name);
  }
  const Value& v = p.value(id);
  const bool constant = v.kind == ValueKind::kConstant, is_float = v.dtype == DType::kFloat32;
  struct Rule {
    bool fits;
    const char* what;
  };
  const auto rule = [&]() -> Rule {
    switch (expected.kind) {
      case InputKind::kActivation:
        return {!constant && is_float, "an activation"};
      case InputKind::kFloatConstant:
        return {constant && is_float, "a float constant"};
      case InputKind::kFloat:
        return {is_float, "floats"};
      case InputKind::kTernaryConstant:
        return {v.dtype == DType::kTernary || v.dtype == DType::kInt8, "a ternary or int8 constant"};
      case InputKind::kIndex:
        return {v.dtype == DType::kInt64, "int64 indices"};
      case InputKind::kStep:
        return {constant && is_float, "a float constant"};
    }
    return {false, "an input"};
  }();
  if (rule.fits) return expected.kind == InputKind::kStep ? verify_step(p, node, expected, id) : Status();
  return corrupt("{} as input '{}', got '{}' (node={})", rule.what, expected.name, v.name, node.name);
}

}  // namespace

Status verify_schema(const Program& p, const Node& node) {
  const OpSchema& expected = schema(node.op);
  if (node.inputs.size() != expected.inputs.size())
    return corrupt("{} inputs of {}, got {} (node={})", expected.inputs.size(), expected.name, node.inputs.size(),
                   node.name);
  for (size_t i = 0; i < expected.inputs.size(); ++i)
    BITLAB_RETURN_IF_ERROR(verify_input(p, node, expected.inputs[i], node.inputs[i]));
  for (const AttributeSchema& attribute : expected.attributes) {
    const auto found = node.attributes.find(attribute.name);
    if (found == node.attributes.end() || !has_kind(found->second, attribute.kind))
      return corrupt("attribute '{}' of {} with its type, got none (node={})", attribute.name, expected.name, node.name);
  }
  if (node.attributes.size() != expected.attributes.size())
    return corrupt("{} attributes of {}, got {} (node={})", expected.attributes.size(), expected.name,
                   node.attributes.size(), node.name);
  return {};
}

Status verify(const Program& p) {
  BITLAB_RETURN_IF_ERROR(verify_values(p));
  BITLAB_RETURN_IF_ERROR(verify_constants(p));
  BITLAB_RETURN_IF_ERROR(verify_ends(p));
  std::vector<bool> defined;
  for (const Value& v : p.values) defined.push_back(v.kind != ValueKind::kResult);
  std::set<std::string_view> names;
  for (const Node& node : p.nodes) {
    if (node.name.empty() || !names.insert(node.name).second) return corrupt("unique node names, got '{}'", node.name);
    BITLAB_RETURN_IF_ERROR(verify_node(p, node, defined));
  }
  for (size_t i = 0; i < defined.size(); ++i)
    if (!defined[i]) return corrupt("a node that defines '{}', got none", p.values[i].name);
  return {};
}

}  // namespace bitlab::program
