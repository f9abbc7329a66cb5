#include "bitlab/format/onnx/internal/states.h"

#include <algorithm>
#include <limits>

#include <fmt/ranges.h>

#include "bitlab/format/onnx/internal/cached_attention.h"
#include "bitlab/format/onnx/internal/recover.h"
#include "bitlab/program/internal/attention_input.h"
#include "bitlab/program/kv_state.h"
#include "bitlab/program/print.h"
#include "bitlab/program/verify.h"

namespace bitlab::format::onnx {

using program::Dim;
using program::DType;
using program::Node;
using program::Op;
using program::Program;
using program::Shape;
using program::Sizes;
using program::TensorType;
using program::ValueId;
using program::ValueKind;
namespace attention_input = program::attention_input;

namespace {

// A program whose nodes are written anew, with others between them.
class Renewed {
 public:
  explicit Renewed(Program& program) : p(program) {
    for (const program::Value& value : p.values) names_.insert(value.name);
    for (const Node& node : p.nodes) names_.insert(node.name);
  }
  Program& p;
  std::vector<Node> nodes;

  ValueId add_value(const std::string& wanted, TensorType type, ValueKind kind = ValueKind::kResult) {
    program::Value value;
    static_cast<TensorType&>(value) = std::move(type);
    value.name = unique(wanted), value.kind = kind;
    p.values.push_back(std::move(value));
    return static_cast<ValueId>(p.values.size()) - 1;
  }
  ValueId add(Op op, const std::string& wanted, std::vector<ValueId> inputs, program::Attributes attributes,
              TensorType type) {
    const ValueId id = add_value(wanted, std::move(type));
    put({op, p.value(id).name, std::move(inputs), {id}, std::move(attributes)});
    return id;
  }
  void put(Node node) {
    node.exactness = schema(node.op).exactness;
    program::complete(node);
    nodes.push_back(std::move(node));
  }
  // A scalar of int64.
  ValueId integer(int64_t number) {
    const ValueId id = add_value("number", {DType::kInt64, {}}, ValueKind::kConstant);
    auto bytes = std::make_shared<const std::vector<int64_t>>(1, number);
    const auto* data = reinterpret_cast<const uint8_t*>(bytes->data());
    p.constants.push_back({id, program::RawData{{data, sizeof number}}, std::move(bytes)});
    return id;
  }
  ValueId floats(const Shape& shape, const std::vector<float>& values) {
    const ValueId id = add_value("numbers", {DType::kFloat32, shape}, ValueKind::kConstant);
    auto owned = std::make_shared<const std::vector<float>>(values);
    const program::FloatData view = *owned;
    p.constants.push_back({id, view, std::move(owned)});
    return id;
  }
  // Tokens, or all positions that states hold, along a dimension of [rows, columns].
  ValueId places(const Dim& size, bool continues, const Shape& shape) {
    const ValueId id = add(Op::positions, "positions", {},
                           {{"size", Shape{size}}, {"continues", int64_t{continues ? 1 : 0}}}, {DType::kInt64, {size}});
    return add(Op::reshape, "places", {id}, {{"shape", shape}}, {DType::kInt64, shape});
  }

 private:
  std::string unique(const std::string& wanted) {
    std::string name = wanted;
    for (int64_t& i = suffixes_[wanted]; !names_.insert(name).second;) name = fmt::format("{}_{}", wanted, ++i);
    return name;
  }
  std::set<std::string> names_;
  std::map<std::string, int64_t> suffixes_;
};

// x as [batch, groups, tokens, size].
ValueId in_order(Renewed& r, const OwnTokens& own, const std::string& name, const Dim& tokens) {
  const program::Value x = r.p.value(own.x);
  Sizes dims;
  Shape moved, shape;
  for (const auto& dim : own.dims) {
    shape.emplace_back(dim ? x.shape[*dim] : Dim(1));
    if (!dim) continue;
    dims.push_back(static_cast<int64_t>(*dim));
    moved.push_back(x.shape[*dim]);
  }
  shape[2] = tokens;
  ValueId id = own.x;
  if (!std::is_sorted(dims.begin(), dims.end())) id = r.add(Op::permute, name, {id}, {{"dims", dims}}, {x.dtype, moved});
  if (moved != shape) id = r.add(Op::reshape, name, {id}, {{"shape", shape}}, {x.dtype, shape});
  return id;
}

// Attention with the keys and values of the tokens alone, in the place of `node`; its name.
std::string put_attention(Renewed& r, const Node& node, const CachedAttention& a, const Dim& tokens) {
  const ValueId k = in_order(r, a.k, node.name + ".k", tokens), v = in_order(r, a.v, node.name + ".v", tokens);
  const program::Value q = r.p.value(a.q), y = r.p.value(node.output());
  program::Attributes attributes{{"causal", int64_t{1}}, {"scale", a.scale}};
  if (q.shape == a.shape) {
    r.put({Op::attention, node.name, {a.q, k, v}, node.outputs, std::move(attributes)});
    return node.name;
  }
  Shape whole = a.shape;
  whole[3] = y.shape.back();
  const ValueId apart = r.add(Op::reshape, node.name + ".q", {a.q}, {{"shape", a.shape}}, {q.dtype, a.shape});
  const ValueId all = r.add_value(node.name + ".heads", {y.dtype, whole});
  std::string name = r.p.value(all).name;
  r.put({Op::attention, name, {apart, k, v}, {all}, std::move(attributes)});
  r.put({Op::reshape, node.name, {all}, node.outputs, {{"shape", y.shape}}});
  return name;
}

// What attention over pasts is without them: causal. What else is said of those that see less, by their nodes' names.
using Sights = std::map<std::string, Sight>;
Sights without_pasts(Program& p, const PastInputs& pasts) {
  const Program before = p;
  CachedAttentions found(before, pasts);
  Renewed r(p);
  Sights sights;
  for (const Node& node : before.nodes) {
    if (const auto a = found.of(node)) {
      const std::string name = put_attention(r, node, *a, pasts.tokens);
      if (a->sight != Sight()) sights[name] = a->sight;
      continue;
    }
    const auto offset = found.varies(node.output()) ? std::nullopt : found.offset_of_places(node.output());
    if (!offset) {
      r.nodes.push_back(node);
      continue;
    }
    const program::Value& value = before.value(node.output());
    ValueId id = r.add(Op::positions, "positions", {}, {{"size", Shape{pasts.tokens}}, {"continues", int64_t{0}}},
                       {DType::kInt64, {pasts.tokens}});
    if (*offset != 0)
      id = r.add(Op::add, "places", {id, r.integer(static_cast<int64_t>(*offset))}, {}, {DType::kInt64, {pasts.tokens}});
    Shape shape = value.shape;
    for (Dim& dim : shape)
      if (dim != pasts.tokens) dim = 1;
    id = r.add(Op::reshape, "places", {id}, {{"shape", shape}}, {DType::kInt64, shape});
    if (value.dtype != DType::kInt64)
      id = r.add(Op::cast, "places", {id}, {{"dtype", std::string(program::name(value.dtype))}}, {value.dtype, shape});
    r.put({Op::expand, node.name, {id}, node.outputs, {{"shape", value.shape}}});
  }
  p.nodes = std::move(r.nodes);
  return sights;
}

// Inputs that nothing reads. Error: Unsupported, where a past is read still.
Status drop_inputs(Program& p, const PastInputs& pasts, std::map<ValueId, std::string_view>& names) {
  p.inputs.clear();
  std::set<std::string> past_names;
  for (const ValueId id : pasts.values) past_names.insert(p.value(id).name);
  drop_unneeded(p, names);
  for (size_t i = 0; i < p.values.size(); ++i) {
    const program::Value& value = p.values[i];
    if (past_names.contains(value.name))
      return make_error(ErrorCode::kUnsupported,
                        "[onnx] pasts that causal attention alone reads, got '{}' in something else", value.name);
    if (value.kind == ValueKind::kInput) p.inputs.push_back(static_cast<ValueId>(i));
  }
  return {};
}

// The last symbols that no size has.
void drop_symbols(Program& p) {
  const auto is_used = [&](size_t symbol) {
    const auto uses_it = [&](const program::Value& value) { return uses(value.shape, symbol); };
    if (std::any_of(p.values.begin(), p.values.end(), uses_it)) return true;
    for (const Node& node : p.nodes)
      for (const auto& [key, attribute] : node.attributes)
        if (const auto* shape = std::get_if<Shape>(&attribute); shape != nullptr && uses(*shape, symbol)) return true;
    return false;
  };
  while (p.symbols.size() > 1 && !is_used(p.symbols.size() - 1)) p.symbols.pop_back();
}

// What is added to scores, or bool: of windows the places that a query sees, of slopes what a place is worth, which a softmax makes one with what its
// distance is. Both together: what is added, where it is seen.
ValueId mask_of(Renewed& r, const Sight& sight, const Dim& tokens, const Dim& context) {
  ValueId bias = program::kNone, seen = program::kNone;
  Shape shape{tokens, context};
  if (sight.window != 0) {
    const ValueId query = r.places(tokens, true, {tokens, 1}), key = r.places(context, false, {1, context});
    const ValueId apart = r.add(Op::sub, "apart", {query, key}, {}, {DType::kInt64, shape});
    seen = r.add(Op::less, "window", {apart, r.integer(sight.window)}, {}, {DType::kBool, shape});
  }
  if (!sight.slopes.empty()) {
    const auto heads = static_cast<int64_t>(sight.slopes.size());
    const ValueId place = r.places(context, false, {1, context}), slopes = r.floats({heads, 1, 1}, sight.slopes);
    const ValueId floats =
        r.add(Op::cast, "places", {place}, {{"dtype", std::string("float32")}}, {DType::kFloat32, {1, context}});
    bias = r.add(Op::mul, "bias", {slopes, floats}, {}, {DType::kFloat32, {heads, 1, context}});
    shape.insert(shape.begin(), heads);
  }
  if (bias == program::kNone || seen == program::kNone) return bias == program::kNone ? seen : bias;
  const ValueId hidden = r.floats({}, {-std::numeric_limits<float>::infinity()});
  return r.add(Op::where, "mask", {seen, bias, hidden}, {}, {DType::kFloat32, shape});
}

void add_masks(Program& p, const Sights& sights, const Dim& tokens) {
  Renewed r(p);
  const Dim context = Dim::of_symbol(*context_symbol(p));
  std::map<Sight, ValueId> masks;
  std::vector<Node> nodes = std::move(p.nodes);
  for (const auto& [name, sight] : sights)
    if (!masks.contains(sight)) masks[sight] = mask_of(r, sight, tokens, context);
  for (Node& node : nodes) {
    if (const auto found = sights.find(node.name); found != sights.end())
      node.inputs[attention_input::kMask] = masks[found->second];
    r.nodes.push_back(std::move(node));
  }
  p.nodes = std::move(r.nodes);
}

}  // namespace

Result<Program> with_states(Program p, const PastInputs& pasts, std::map<ValueId, std::string_view> names) {
  const size_t tokens = *single_symbol(pasts.tokens);
  const Sights sights = without_pasts(p, pasts);
  BITLAB_RETURN_IF_ERROR(drop_inputs(p, pasts, names));
  int64_t& most = p.symbols[tokens].max;  // what tables hold, past and all
  if (most < program::kMaxElements) most += pasts.count;
  drop_symbols(p);
  if (tokens >= p.symbols.size())
    return make_error(ErrorCode::kUnsupported, "[onnx] attention over tokens where there are pasts, got none");
  const std::string name = p.symbols[tokens].name;
  BITLAB_TRY(p, add_kv_state(std::move(p), name));
  if (!sights.empty()) add_masks(p, sights, pasts.tokens);
  return tidied(std::move(p), names);
}

std::string outline(const Program& p) {
  std::string text = to_string(p.signature());
  for (const program::Symbol& symbol : p.symbols) text += fmt::format(" {} {} {}\n", symbol.name, symbol.min, symbol.max);
  for (const Node& node : p.nodes) {
    text += fmt::format("{} {} {}", program::name(node.op), fmt::join(node.inputs, " "), fmt::join(node.outputs, " "));
    for (const auto& [key, attribute] : node.attributes) {
      text += " " + key + " ";
      if (const auto* number = std::get_if<int64_t>(&attribute)) text += fmt::to_string(*number);
      if (const auto* number = std::get_if<double>(&attribute)) text += fmt::to_string(*number);
      if (const auto* word = std::get_if<std::string>(&attribute)) text += *word;
      if (const auto* sizes = std::get_if<Sizes>(&attribute)) text += program::to_string(*sizes);
      if (const auto* shape = std::get_if<Shape>(&attribute)) text += p.show(*shape);
    }
    text += "\n";
  }
  for (const program::Constant& constant : p.constants) {
    text += fmt::format("{} {}", constant.value, p.show(p.value(constant.value).shape));
    const auto add_hash = [&](const auto& span) {
      const std::string_view bytes(reinterpret_cast<const char*>(span.data()), span.size_bytes());
      text += fmt::format(" {}", std::hash<std::string_view>()(bytes));
    };
    if (const auto* floats = std::get_if<program::FloatData>(&constant.data)) add_hash(*floats);
    if (const auto* halves = std::get_if<program::HalfData>(&constant.data)) add_hash(halves->bits);
    if (const auto* raw = std::get_if<program::RawData>(&constant.data)) add_hash(raw->bytes);
    if (const auto* ternary = std::get_if<program::TernaryData>(&constant.data)) {
      add_hash(ternary->codes);
      add_hash(ternary->scale);
      add_hash(ternary->scale_neg);
      add_hash(ternary->group_scale);
    }
    if (const auto* t = std::get_if<program::Int8Data>(&constant.data)) add_hash(t->t), add_hash(t->scale);
    text += "\n";
  }
  return text;
}

}  // namespace bitlab::format::onnx
