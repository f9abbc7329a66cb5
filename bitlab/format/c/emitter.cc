#include "bitlab/format/c/internal/emitter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include <fmt/format.h>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/internal/half.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/trits.h"

namespace bitlab::format::c {

using program::kNone;
using program::Node;
using program::Op;
using program::Program;
using program::Value;
using program::ValueId;
using program::ValueKind;

std::string_view name(Type type) {
  constexpr std::array<std::string_view, 6> kNames{"float", "int64_t", "int32_t", "uint8_t", "int8_t", "int16_t"};
  return kNames.at(static_cast<size_t>(type));
}

int64_t size_of(Type type) {
  constexpr std::array<int64_t, 6> kSizes{4, 8, 4, 1, 1, 2};
  return kSizes.at(static_cast<size_t>(type));
}

bool is_in_integers(std::string_view variant) { return variant.starts_with("integer"); }

std::string_view packing_of(std::string_view variant) {
  if (!is_in_integers(variant)) return variant;
  return variant == "integer" ? "2bit" : "base3";
}

Result<Type> type_of(const Value& value) {
  switch (value.dtype) {
    case program::DType::kFloat32:
      return Type::kFloat;
    case program::DType::kInt64:
      return Type::kInt64;
    case program::DType::kInt32:
      return Type::kInt32;
    case program::DType::kBool:
      return Type::kBool;
    default:
      return make_error(ErrorCode::kUnsupported, "[c] values of float32, int64, int32 or bool, got {} (value={})",
                        program::name(value.dtype), value.name);
  }
}

namespace {

// Whether a result may lie where an input of its type and shape does: each element of it is written when nothing of the input before it is read again.
bool overwrites(Op op) {
  return program::schema(op).layout == program::ImageLayout::kKept || op == Op::batch_norm || op == Op::softmax ||
         op == Op::layer_norm || op == Op::rms_norm;
}

}  // namespace

void Roots::share(ValueId from, ValueId to) {
  const ValueId root = of(from);
  root_[static_cast<size_t>(to)] = root;
  auto& last = lives_[static_cast<size_t>(root)].last;
  last = std::max(last, lives_[static_cast<size_t>(to)].last);
}

Roots::Roots(const Program& p, const program::SymbolSizes& sizes, const std::vector<Type>& types) : lives_(p.values.size()) {
  for (size_t i = 0; i < p.values.size(); ++i) root_.push_back(static_cast<ValueId>(i));
  const auto count = static_cast<int64_t>(p.nodes.size());
  for (int64_t i = 0; i < count; ++i) {
    const Node& node = p.nodes[static_cast<size_t>(i)];
    for (const ValueId id : node.outputs) lives_[static_cast<size_t>(id)] = {i, i};
    for (const ValueId id : node.inputs)
      if (id != kNone) lives_[static_cast<size_t>(id)].last = i;
  }
  for (const program::Output& output : p.outputs) lives_[static_cast<size_t>(output.value)].last = count;
  for (int64_t i = 0; i < count; ++i) {
    const Node& node = p.nodes[static_cast<size_t>(i)];
    if (node.op == Op::reshape) {
      share(node.inputs[0], node.output());
      continue;
    }
    for (const ValueId id : node.inputs) {
      if (id == kNone || !overwrites(node.op)) continue;
      const Value &x = p.value(id), &y = p.value(node.output());
      if (p.value(of(id)).kind != ValueKind::kResult || life(of(id)).last != i ||
          types[static_cast<size_t>(id)] != types[static_cast<size_t>(node.output())] ||
          shape_at(x.shape, sizes) != shape_at(y.shape, sizes))
        continue;
      share(id, node.output());
      break;
    }
  }
}

namespace {

std::vector<Type> types_in_c(const Program& p, const IntegerPlan* plan) {
  std::vector<Type> types;
  for (const Value& value : p.values) {
    const auto type = type_of(value);
    types.push_back(type.ok() ? *type : Type::kFloat);  // run() refuses others
    if (plan == nullptr || value.kind == ValueKind::kConstant) continue;
    const int64_t bytes = plan->grids[types.size() - 1].bytes();
    types.back() = bytes == 1 ? Type::kInt8 : bytes == 2 ? Type::kInt16 : Type::kInt32;
  }
  return types;
}

}  // namespace

Emitter::Emitter(const Program& program, const Options& options, const IntegerPlan* plan)
    : p_(program),
      options_(options),
      plan_(plan),
      types_(types_in_c(program, plan)),
      ports_(port_names(program)),
      roots_(program, options.sizes, types_),
      helpers_(packing_of(options.variant)),
      exact_(plan == nullptr) {}

std::string Emitter::memory(Type type, int64_t offset) const {
  switch (type) {
    case Type::kInt64:
      return fmt::format("(arena64 + {})", offset / 8);
    case Type::kInt32:
      return fmt::format("({} + {})", plan_ != nullptr ? "arena" : "arena32", offset / 4);
    case Type::kInt16:
      return fmt::format("(arena16 + {})", offset / 2);
    case Type::kFloat:
      return fmt::format("(arena + {})", offset / 4);
    default:
      return fmt::format("(({} *)arena + {})", name(type), offset);
  }
}

namespace {

int64_t rounded(Type type, int64_t count) { return round_up(count * size_of(type), 8); }

}  // namespace

size_t Emitter::block_of(Type type) const {
  const bool is_third = plan_ == nullptr ? type == Type::kInt32 : type == Type::kInt16;
  return is_third ? 2 : type == Type::kInt64 ? 1 : 0;
}

std::string Emitter::scratch(Type type, int64_t count) {
  return memory(type, memory_.at(block_of(type)).place(rounded(type, count), {node_, node_}));
}

void Emitter::place(size_t node) {
  for (const ValueId id : p_.nodes[node].outputs) {
    const ValueId root = roots_.of(id);
    if (root != id || pointers_.contains(root)) continue;
    const Type kind = type(root);
    pointers_[root] = memory(kind, memory_.at(block_of(kind)).place(rounded(kind, count(root)), roots_.life(root)));
  }
}

std::string Emitter::pointer(ValueId id) {
  if (id == kNone) return "NULL";
  const ValueId root = roots_.of(id);
  return p_.value(root).kind == ValueKind::kConstant ? floats(root) : pointers_.at(root);
}

std::string Emitter::constant(std::string_view type, std::string_view initializer) {
  std::string text = fmt::format("{} $ = {};\n", type, initializer);
  auto [at, is_new] = known_.try_emplace(std::move(text), "");
  if (!is_new) return at->second;
  const size_t mark = at->first.find('$');
  at->second = fmt::format("c{}", ++names_);
  const bool is_array = type.ends_with("[]");
  constants_ += "static const " + std::string(type.substr(0, type.size() - (is_array ? 2 : 0))) + " " + at->second +
                (is_array ? "[]" : "") + at->first.substr(mark + 1);
  return at->second;
}

std::string Emitter::array(std::string_view type, const std::vector<std::string>& numbers, int64_t bytes) {
  constexpr size_t kLine = 16;
  std::string text = "{";
  for (size_t i = 0; i < numbers.size(); ++i)
    text.append(i % kLine == 0 ? "\n  " : " ").append(numbers[i]).append(i + 1 == numbers.size() ? "\n" : ",");
  const int64_t names = names_;
  std::string found = constant(fmt::format("{}[]", type), text + "}");
  if (names_ != names) flash_ += bytes;
  return found;
}

namespace {

// The number itself: 0x1.8p+1f.
std::string literal(float value) {
  if (std::isinf(value)) return value > 0 ? "INFINITY" : "-INFINITY";
  return fmt::format("{:a}f", value);
}

template <class T>
T element(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

std::vector<std::string> elements_of(std::span<const uint8_t> bytes, int64_t size) {
  std::vector<std::string> numbers;
  for (size_t i = 0; i < bytes.size(); i += static_cast<size_t>(size)) {
    const int64_t value = size == 8   ? element<int64_t>(&bytes[i])
                          : size == 4 ? int64_t{element<int32_t>(&bytes[i])}
                                      : int64_t{bytes[i]};
    // The least number has no literal.
    numbers.push_back(value == std::numeric_limits<int64_t>::min()   ? "INT64_MIN"
                      : value == std::numeric_limits<int32_t>::min() ? "INT32_MIN"
                                                                     : std::to_string(value));
  }
  return numbers;
}

std::vector<std::string> literals(std::span<const float> values) {
  std::vector<std::string> numbers;
  for (const float value : values) numbers.push_back(literal(value));
  return numbers;
}

}  // namespace

std::string Emitter::floats(ValueId id) {
  const program::Constant& c = *p_.constant(id);
  if (const auto* raw = std::get_if<program::RawData>(&c.data)) {
    const Type kind = type(id);
    return array(name(kind), elements_of(raw->bytes, size_of(kind)), count(id) * size_of(kind));
  }
  return array("float", literals(p_.floats(id)), count(id) * 4);
}

Emitter::Weights Emitter::weights(ValueId weight) {
  const Value& value = p_.value(weight);
  const int64_t rows = program::weight_rows(value.shape), depth = program::weight_depth(value.shape);
  const program::Constant& c = *p_.constant(weight);
  if (const auto* kept = std::get_if<program::Int8Data>(&c.data)) {
    std::vector<std::string> numbers;
    for (const int8_t t : kept->t) numbers.push_back(std::to_string(t));
    return {array("int8_t", numbers, rows * depth), "int8", depth};
  }
  const auto& ternary = std::get<program::TernaryData>(c.data);
  std::vector<uint8_t> packed(ternary.codes.begin(), ternary.codes.end());
  int64_t row_bytes = ternary::code_row_bytes(depth);
  if (packing_of(options_.variant) == "base3") {
    row_bytes = ternary::trit_row_bytes(depth);
    packed.resize(static_cast<size_t>(ternary::trit_bytes(rows, depth)));
    ternary::pack_trits(ternary.codes, rows, depth, packed);
  }
  return {array("uint8_t", elements_of(packed, 1), rows * row_bytes),
          ternary.group != 0          ? "groups"
          : ternary.scale_neg.empty() ? "plain"
                                      : "asymmetric",
          row_bytes};
}

std::string Emitter::integers(const std::vector<int32_t>& numbers) {
  if (numbers.empty()) return "NULL";
  const auto* const first = reinterpret_cast<const uint8_t*>(numbers.data());
  const auto bytes = static_cast<int64_t>(numbers.size() * sizeof(int32_t));
  return array("int32_t", elements_of({first, static_cast<size_t>(bytes)}, sizeof(int32_t)), bytes);
}

std::string Emitter::product(ValueId weight, ValueId bias, double limit, float step) {
  const Value& value = p_.value(weight);
  const int64_t rows = program::weight_rows(value.shape), depth = program::weight_depth(value.shape);
  const Weights packed = weights(weight);
  int64_t group = 0;
  std::string negative = "NULL";
  std::vector<float> scale;
  need("product");
  const program::Constant& c = *p_.constant(weight);
  if (const auto* kept = std::get_if<program::Int8Data>(&c.data)) {
    scale.assign(kept->scale.begin(), kept->scale.end());
  } else {
    const auto& ternary = std::get<program::TernaryData>(c.data);
    group = ternary.group;
    scale.assign(ternary.scale.begin(), ternary.scale.end());
    for (const uint16_t bits : ternary.group_scale) scale.push_back(half_to_float(bits));
    if (!ternary.scale_neg.empty())
      negative = array("float", literals(ternary.scale_neg), static_cast<int64_t>(ternary.scale_neg.size_bytes()));
  }
  const std::string row = limit == 0 ? "NULL" : "row_" + packed.kind;
  if (limit != 0) need(row);
  const std::string scales = array("float", literals(scale), static_cast<int64_t>(scale.size()) * 4);
  const std::string biases = bias == kNone ? "NULL" : floats(bias);
  return constant("product",
                  fmt::format("{{{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}}}", row, packed.array, scales, negative,
                              biases, rows, depth, packed.row_bytes, scale.size() > 1 ? 1 : 0, group,
                              group == 0 ? 0 : ceil_div(depth, group), literal(static_cast<float>(limit)), literal(step)));
}

void Emitter::line(std::string_view text) { body_.append("  ").append(text).append("\n"); }

void Emitter::check(std::string_view call) {
  line(fmt::format("if (!{}) return {};", call, node_ + 1));
  refusing_.push_back(node_);
}

namespace {

// Dimensions that all views pass through in one stride are one.
void collapse(std::vector<View>& views) {
  std::vector<int64_t> sizes = views[0].sizes;
  for (size_t d = sizes.size(); d-- > 0;) {
    const bool merges = d + 1 < sizes.size() && std::all_of(views.begin(), views.end(), [&](const View& v) {
                          return v.strides[d] == v.strides[d + 1] * sizes[d + 1];
                        });
    if (sizes[d] != 1 && !merges) continue;
    const size_t gone = sizes[d] == 1 ? d : d + 1;
    if (gone != d) sizes[d] *= sizes[gone];
    for (View& v : views) {
      if (gone != d) v.strides[d] = v.strides[gone];
      v.strides.erase(v.strides.begin() + static_cast<std::ptrdiff_t>(gone));
    }
    sizes.erase(sizes.begin() + static_cast<std::ptrdiff_t>(gone));
  }
  for (View& v : views) v.sizes = sizes;
}

std::string index_of(const View& view) {
  std::string text;
  for (size_t d = 0; d < view.strides.size(); ++d) {
    if (view.strides[d] == 0) continue;
    if (!text.empty()) text += " + ";
    text += view.strides[d] == 1 ? fmt::format("i{}", d) : fmt::format("i{} * {}", d, view.strides[d]);
  }
  if (view.offset != 0) text = text.empty() ? std::to_string(view.offset) : fmt::format("{} + {}", view.offset, text);
  return text.empty() ? "0" : text;
}

}  // namespace

void Emitter::loops(const Operand& y, const std::vector<Operand>& inputs, std::string_view expression) {
  std::vector<View> views{y.view};
  for (const Operand& x : inputs) views.push_back(x.view);
  collapse(views);
  line("{");
  std::string elements;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const char letter = static_cast<char>('a' + i);
    line(fmt::format("  const {0} *const p{1} = {2};", name(type(inputs[i].id)), letter, pointer(inputs[i].id)));
    elements += fmt::format("const {0} {1} = p{1}[{2}]; ", name(type(inputs[i].id)), letter, index_of(views[i + 1]));
  }
  line(fmt::format("  {0} *const py = {1};", name(type(y.id)), pointer(y.id)));
  std::string indent = "  ";
  for (size_t d = 0; d < views[0].sizes.size(); ++d, indent += "  ")
    line(fmt::format("{0}for (int32_t i{1} = 0; i{1} < {2}; ++i{1})", indent, d, views[0].sizes[d]));
  line(fmt::format("{}{{ {}py[{}] = {}; }}", indent, elements, index_of(views[0]), expression));
  line("}");
}

}  // namespace bitlab::format::c
