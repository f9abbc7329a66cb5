#include "bitlab/program/verify.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <set>

#include "bitlab/base/internal/half.h"
#include "bitlab/program/internal/attention_input.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::program {
namespace {

template <class... Args>
Failure corrupt(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kCorrupt, "[verify] {}", fmt::vformat(format, fmt::make_format_args(args...)));
}

bool exists(const Program& p, ValueId id) { return id >= 0 && static_cast<size_t>(id) < p.values.size(); }

Status verify_symbols(const Program& p) {
  if (p.symbols.empty() || p.symbols.size() > kMaxSymbols)
    return corrupt("1 to {} symbols, the batch first, got {}", kMaxSymbols, p.symbols.size());
  std::set<std::string_view> names;
  for (size_t i = 0; i < p.symbols.size(); ++i) {
    const Symbol& s = p.symbols[i];
    const bool is_name = !s.name.empty() && std::isalpha(static_cast<unsigned char>(s.name[0])) != 0 &&
                         s.name.find_first_of("*^ ,[]") == std::string::npos;
    if (!is_name || !names.insert(s.name).second) return corrupt("unique names of symbols, got '{}'", s.name);
    if (s.min < (i == 0 ? 0 : 1) || s.max < s.min || s.max > kMaxElements)
      return corrupt("a range inside 1 to 2^40, from 0 for the batch, got {} to {} (symbol={})", s.min, s.max, s.name);
  }
  const auto contexts = std::count_if(p.symbols.begin(), p.symbols.end(), [](const Symbol& s) { return s.is_context; });
  if (contexts != (p.states.empty() ? 0 : 1))
    return corrupt("one symbol that is the context of {} states, none without states, got {}", p.states.size(), contexts);
  return {};
}

// Integer weights and floats in fewer bytes are float32 constants.
Status verify_storage(const Value& v) {
  constexpr std::array kKinds{"an input", "a constant", "a state", "a result"};
  if (v.storage == Storage::kPlain || (v.kind == ValueKind::kConstant && v.dtype == DType::kFloat32)) return {};
  return corrupt("storage {} for a float32 constant, got {} of {} (value={})", name(v.storage),
                 kKinds.at(static_cast<size_t>(v.kind)), name(v.dtype), v.name);
}

// A sum is a size of every sample alike, 1 at least, and can be read again.
Status verify_sums(const Program& p, const Value& v, const Dim& dim) {
  const std::optional<size_t> context = context_symbol(p);
  for (const Sum& sum : dim.sums) {
    if (uses(sum, 0) || (context && uses(sum, *context)))
      return corrupt("sums without the batch and the context, got {} (value={})", p.show(dim), v.name);
    if (sum.at(sizes_at(&Symbol::min, p.symbols)) < 1)
      return corrupt("sizes of at least 1, got {} at the least of its symbols (value={})", p.show(dim), v.name);
  }
  if (dim.sums.empty()) return {};
  const Result<Dim> read = parse_dim(p.show(dim), p.symbols);
  if (read.ok() && *read == dim) return {};
  return corrupt("names of symbols that can be told from sums, got {} (value={})", p.show(dim), v.name);
}

Status verify_values(const Program& p) {
  std::set<std::string_view> names;
  for (const Value& v : p.values) {
    if (v.name.empty() || !names.insert(v.name).second)
      return corrupt("unique value names, got '{}' again or empty", v.name);
    if (!is_valid(v.shape) || static_cast<int64_t>(v.shape.size()) > kMaxRank)
      return corrupt("at most {} positive sizes, got {} (value={})", kMaxRank, p.show(v.shape), v.name);
    for (size_t i = p.symbols.size(); i < kMaxSymbols; ++i)
      if (uses(v.shape, i)) return corrupt("symbols that are declared, got {} (value={})", p.show(v.shape), v.name);
    for (const Dim& dim : v.shape) BITLAB_RETURN_IF_ERROR(verify_sums(p, v, dim));
    if (!is_fixed(v.shape) && v.kind == ValueKind::kConstant)
      return corrupt("constants of fixed shape, got {} (value={})", p.show(v.shape), v.name);
    BITLAB_RETURN_IF_ERROR(verify_storage(v));
  }
  return {};
}

Status verify_finite(const std::string& name, FloatData data) {
  const auto bad = std::find_if(data.begin(), data.end(), [](float v) { return !std::isfinite(v); });
  if (bad == data.end()) return {};
  return corrupt("finite scales, got {} (value={}, index={})", *bad, name, bad - data.begin());
}

Status verify_groups(const Value& v, const TernaryData& data) {
  const int64_t rows = weight_rows(v.shape), depth = weight_depth(v.shape), innermost = v.shape.back().factor;
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

// The shape of a constant, which has no symbols.
std::string show(const Value& v) { return to_string(v.shape, {}); }

// Shape and depth of a weight of integers.
Status verify_matrix(const Value& v) {
  if (v.shape.size() < 2 || v.shape.size() > kMaxImageRank)
    return corrupt("{} weights of rank 2 to {}, got {} (value={})", name(v.storage), kMaxImageRank, show(v), v.name);
  const int64_t most = ternary::max_depth(v.storage == Storage::kInt8), depth = weight_depth(v.shape);
  if (depth > most)
    return corrupt("a depth of at most {}, beyond which int32 sums could overflow, got {} (value={})", most, depth, v.name);
  return {};
}

Status verify_count(const Value& v, size_t found, std::string_view what) {
  const int64_t expected = elements(v.shape, kOnes);
  if (static_cast<int64_t>(found) == expected) return {};
  return corrupt("{} {} for {}, got {} (value={})", expected, what, show(v), found, v.name);
}

// Infinity is a number, as masks have it.
Status verify_data(const Value& v, const FloatData& data) {
  BITLAB_RETURN_IF_ERROR(verify_count(v, data.size(), "floats"));
  const auto bad = std::find_if(data.begin(), data.end(), [](float value) { return std::isnan(value); });
  if (bad == data.end()) return {};
  return corrupt("constants that are numbers, got {} (value={}, index={})", *bad, v.name, bad - data.begin());
}

Status verify_data(const Value& v, const HalfData& data) {
  BITLAB_RETURN_IF_ERROR(verify_count(v, data.bits.size(), "floats"));
  constexpr uint16_t kMagnitude = 0x7FFF;
  const uint16_t infinity = v.storage == Storage::kFloat16 ? 0x7C00 : 0x7F80;
  const auto bad =
      std::find_if(data.bits.begin(), data.bits.end(), [&](uint16_t bits) { return (bits & kMagnitude) > infinity; });
  if (bad == data.bits.end()) return {};
  return corrupt("constants that are numbers, got {} of bits {:#06x} (value={}, index={})", name(v.storage), *bad, v.name,
                 bad - data.bits.begin());
}

// Of bool, bytes of 0 and 1: what kernels read as such must be one.
Status verify_data(const Value& v, const RawData& data) {
  if (data.bytes.size() % static_cast<size_t>(size_of(v.dtype)) != 0)
    return corrupt("whole elements of {}, got {} bytes (value={})", name(v.dtype), data.bytes.size(), v.name);
  BITLAB_RETURN_IF_ERROR(verify_count(v, data.bytes.size() / static_cast<size_t>(size_of(v.dtype)), "elements"));
  if (v.dtype != DType::kBool) return {};
  const auto bad = std::find_if(data.bytes.begin(), data.bytes.end(), [](uint8_t byte) { return byte > 1; });
  if (bad == data.bytes.end()) return {};
  return corrupt("bool values of 0 and 1, got {} (value={}, index={})", *bad, v.name, bad - data.bytes.begin());
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
  BITLAB_RETURN_IF_ERROR(verify_count(v, data.t.size(), "weights"));
  const auto bad = std::find(data.t.begin(), data.t.end(), int8_t{-128});
  if (bad == data.t.end()) return {};
  return corrupt("int8 weights in [-127, 127], got -128 (value={}, index={})", v.name, bad - data.t.begin());
}

// Whether the data is of the kind that type and storage say.
bool fits(const Value& v, const Constant& constant) {
  switch (v.storage) {
    case Storage::kPlain:
      return v.dtype == DType::kFloat32 ? std::holds_alternative<FloatData>(constant.data)
                                        : std::holds_alternative<RawData>(constant.data);
    case Storage::kFloat16:
    case Storage::kBFloat16:
      return std::holds_alternative<HalfData>(constant.data);
    case Storage::kTernary:
      return std::holds_alternative<TernaryData>(constant.data);
    case Storage::kInt8:
      return std::holds_alternative<Int8Data>(constant.data);
  }
  return false;
}

Status verify_constant(const Program& p, const Constant& constant) {
  if (!exists(p, constant.value) || p.value(constant.value).kind != ValueKind::kConstant)
    return corrupt("data for a constant, got value {}", constant.value);
  const Value& v = p.value(constant.value);
  constexpr std::array kKinds{"floats", "floats of 16 bits", "ternary codes", "int8 weights", "raw bytes"};
  if (!fits(v, constant))
    return corrupt("data of a {} constant in storage {}, got {} (value={})", name(v.dtype), name(v.storage),
                   kKinds.at(constant.data.index()), v.name);
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

// The values of a kind are those that a list has, each once.
Status verify_list(const Program& p, const std::vector<ValueId>& list, ValueKind kind, std::string_view what) {
  std::set<ValueId> listed;
  for (const ValueId id : list)
    if (!exists(p, id) || p.value(id).kind != kind || !listed.insert(id).second)
      return corrupt("{} values as {}s, each once, got value {}", what, what, id);
  const auto declared = std::count_if(p.values.begin(), p.values.end(), [&](const Value& v) { return v.kind == kind; });
  if (declared == static_cast<int64_t>(list.size())) return {};
  return corrupt("{} {}s listed, got {}", declared, what, list.size());
}

// A state has the context as one of its sizes, and numbers or the batch as the others.
Status verify_states(const Program& p) {
  for (const ValueId id : p.states) {
    const Value& v = p.value(id);
    const Dim expected = Dim::of_symbol(context_symbol(p).value_or(0));
    const auto is_other = [](const Dim& dim) { return dim.is_number() || dim == kBatch; };
    const auto contexts = std::count(v.shape.begin(), v.shape.end(), expected);
    const auto others = std::count_if(v.shape.begin(), v.shape.end(), is_other);
    if (v.dtype != DType::kFloat32 || contexts != 1 || others + 1 != static_cast<int64_t>(v.shape.size()))
      return corrupt("a float32 state of numbers, the batch and one context, got {}{} (value={})", name(v.dtype),
                     p.show(v.shape), v.name);
  }
  return {};
}

Status verify_ends(const Program& p) {
  BITLAB_RETURN_IF_ERROR(verify_list(p, p.inputs, ValueKind::kInput, "input"));
  BITLAB_RETURN_IF_ERROR(verify_list(p, p.states, ValueKind::kState, "state"));
  BITLAB_RETURN_IF_ERROR(verify_states(p));
  if (p.outputs.empty()) return corrupt("an output, got none");
  std::set<std::string_view> names;
  for (const Output& output : p.outputs) {
    if (!exists(p, output.value) || p.value(output.value).kind != ValueKind::kResult)
      return corrupt("results of nodes as outputs, got value {}", output.value);
    if (output.name.empty() || !names.insert(output.name).second)
      return corrupt("unique names of outputs, got '{}'", output.name);
  }
  return {};
}

// A node's outputs are results that it alone defines, of the types that its rule says.
Status verify_outputs(const Program& p, const Node& node, std::vector<bool>& defined) {
  BITLAB_TRY(const std::vector<TensorType> types, infer_types(p, node));
  if (types.size() != node.outputs.size())
    return corrupt("{} outputs, got {} (node={})", types.size(), node.outputs.size(), node.name);
  for (size_t i = 0; i < types.size(); ++i) {
    const ValueId id = node.outputs[i];
    if (!exists(p, id) || p.value(id).kind != ValueKind::kResult || defined[static_cast<size_t>(id)])
      return corrupt("an output that only this node defines, got value {} (node={})", id, node.name);
    const Value& v = p.value(id);
    if (types[i] != v)
      return corrupt("output {} {}, got {} {} (node={})", name(types[i].dtype), p.show(types[i].shape), name(v.dtype),
                     p.show(v.shape), node.name);
    defined[static_cast<size_t>(id)] = true;
  }
  return {};
}

Status verify_node(const Program& p, const Node& node, std::vector<bool>& defined) {
  for (ValueId id : node.inputs)
    if (id != kNone && (!exists(p, id) || !defined[static_cast<size_t>(id)]))
      return corrupt("inputs that are defined before, got value {} (node={})", id, node.name);
  BITLAB_RETURN_IF_ERROR(verify_schema(p, node));
  return verify_outputs(p, node, defined);
}

// A state belongs to one node: two that append to it would each see what the other wrote. All are appended to alike.
Status verify_state_readers(const Program& p) {
  std::set<ValueId> read;
  const std::optional<Dim> appended = appended_positions(p);
  for (const Node& node : p.nodes)
    for (const ValueId id : node.inputs) {
      if (id == kNone || p.value(id).kind != ValueKind::kState) continue;
      if (!read.insert(id).second)
        return corrupt("states that one node reads, got '{}' again (node={})", p.value(id).name, node.name);
      const Dim& keys = p.value(node.inputs[attention_input::kKey]).shape[2];
      if (keys != *appended)
        return corrupt("{} positions that each node appends to its states, got {} (node={})", p.show(*appended),
                       p.show(keys), node.name);
    }
  if (read.size() == p.states.size()) return {};
  return corrupt("a node that reads each of {} states, got {}", p.states.size(), read.size());
}

// In the order of AttributeKind and of Attribute.
constexpr std::array kKindsOfAttributes{"an integer", "a list of integers", "a text", "a float", "a shape"};

bool has_kind(const Attribute& attribute, AttributeKind kind) { return attribute.index() == static_cast<size_t>(kind); }

// What activations are divided by. Constants of a program that is being read have no data yet; verify() comes back to them.
Status verify_step(const Program& p, const Node& node, const InputSchema& expected, ValueId id) {
  const Constant* step = p.constant(id);
  if (step == nullptr) return {};
  const auto* floats = std::get_if<FloatData>(&step->data);
  const auto* halves = std::get_if<HalfData>(&step->data);
  std::optional<float> found;
  if (floats != nullptr && !floats->empty()) found = floats->front();
  if (halves != nullptr && !halves->bits.empty()) found = widened(halves->bits.front(), p.value(id).storage);
  if (!found || *found >= ternary::kLeastStep) return {};
  return corrupt("{} of at least {}, got {} (node={})", expected.name, ternary::kLeastStep, *found, node.name);
}

struct InputRule {
  bool fits;
  const char* what;
};

InputRule rule_of(InputKind kind, const Value& v) {
  const bool is_constant = v.kind == ValueKind::kConstant, is_state = v.kind == ValueKind::kState;
  const bool is_weight = v.storage == Storage::kTernary || v.storage == Storage::kInt8;
  const bool is_plain = !is_weight && !is_state, is_float = v.dtype == DType::kFloat32 && is_plain;
  switch (kind) {
    case InputKind::kActivation:
      return {!is_constant && is_float, "a float32 activation"};
    case InputKind::kFloatConstant:
    case InputKind::kStep:
      return {is_constant && is_float, "a float32 constant"};
    case InputKind::kFloat:
      return {is_float, "float32 values"};
    case InputKind::kAny:
      return {is_plain, "an activation or a constant that is no weight of integers"};
    case InputKind::kTernaryConstant:
      return {is_weight, "a ternary or int8 constant"};
    case InputKind::kIndex:
      return {!is_constant && v.dtype == DType::kInt64, "int64 indices"};
    case InputKind::kMask:
      return {is_float || (is_plain && v.dtype == DType::kBool), "a float32 or bool mask"};
    case InputKind::kState:
      return {is_state, "a state"};
  }
  return {false, "an input"};
}

Status verify_input(const Program& p, const Node& node, const InputSchema& expected, ValueId id) {
  if (id == kNone) {
    if (expected.optional) return {};
    return corrupt("input '{}', got none (node={})", expected.name, node.name);
  }
  const Value& v = p.value(id);
  const InputRule rule = rule_of(expected.kind, v);
  if (rule.fits) return expected.kind == InputKind::kStep ? verify_step(p, node, expected, id) : Status();
  return corrupt("{} as input '{}', got '{}' (node={})", rule.what, expected.name, v.name, node.name);
}

}  // namespace

Status verify_schema(const Program& p, const Node& node) {
  const OpSchema& expected = schema(node.op);
  const bool fits =
      expected.is_variadic() ? node.inputs.size() >= expected.inputs.size() : node.inputs.size() == expected.inputs.size();
  if (!fits)
    return corrupt("{} inputs of {}, got {} (node={})", expected.inputs.size(), expected.name, node.inputs.size(),
                   node.name);
  for (size_t i = 0; i < node.inputs.size(); ++i)
    BITLAB_RETURN_IF_ERROR(verify_input(p, node, expected.input(i), node.inputs[i]));
  for (const AttributeSchema& attribute : expected.attributes) {
    const auto found = node.attributes.find(attribute.name);
    if (found == node.attributes.end() || !has_kind(found->second, attribute.kind))
      return corrupt("attribute '{}' of {}, {}, got {} (node={})", attribute.name, expected.name,
                     kKindsOfAttributes.at(static_cast<size_t>(attribute.kind)),
                     found == node.attributes.end() ? "none" : kKindsOfAttributes.at(found->second.index()), node.name);
  }
  if (node.attributes.size() != expected.attributes.size())
    return corrupt("{} attributes of {}, got {} (node={})", expected.attributes.size(), expected.name,
                   node.attributes.size(), node.name);
  return {};
}

Status verify(const Program& p) {
  BITLAB_RETURN_IF_ERROR(verify_symbols(p));
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
  BITLAB_RETURN_IF_ERROR(verify_state_readers(p));
  for (size_t i = 0; i < defined.size(); ++i)
    if (!defined[i]) return corrupt("a node that defines '{}', got none", p.values[i].name);
  return {};
}

}  // namespace bitlab::program
