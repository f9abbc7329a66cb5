#include "bitlab/format/onnx/internal/pointwise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace bitlab::format::onnx {

using program::DType;
using program::Node;
using program::Op;
using program::Sizes;
using program::ValueId;

namespace {

// Of sizes that no tensor has it wraps; what comes of it is looked at where it is used.
int64_t flat_place(const Sizes& at, const Sizes& sizes) {
  uint64_t place = 0;
  for (size_t i = 0; i < at.size(); ++i) place = place * static_cast<uint64_t>(sizes[i]) + static_cast<uint64_t>(at[i]);
  return static_cast<int64_t>(place);
}

Sizes place_in(int64_t place, const Sizes& sizes) {
  Sizes at(sizes.size(), 0);
  for (size_t i = sizes.size(); i-- > 0;) {
    at[i] = place % std::max<int64_t>(sizes[i], 1);
    place /= std::max<int64_t>(sizes[i], 1);
  }
  return at;
}

// A place of what was broadcast to more.
Sizes place_before(const Sizes& at, const Sizes& sizes) {
  Sizes before(sizes.size(), 0);
  for (size_t i = 0; i < sizes.size(); ++i) before[i] = sizes[i] == 1 ? 0 : at[i + at.size() - sizes.size()];
  return before;
}

std::optional<double> unary(Op op, double x) {
  switch (op) {
    case Op::abs:
      return std::fabs(x);
    case Op::floor:
      return std::floor(x);
    case Op::ceil:
      return std::ceil(x);
    case Op::round:
      return std::nearbyint(x);
    case Op::relu:
      return std::max(x, 0.0);
    case Op::exp:
      return std::exp(x);
    case Op::log:
      return std::log(x);
    default:
      return std::nullopt;
  }
}

std::optional<double> binary(Op op, double a, double b) {
  switch (op) {
    case Op::add:
      return a + b;
    case Op::sub:
      return a - b;
    case Op::mul:
      return a * b;
    case Op::div:
      return a / b;
    case Op::minimum:
      return std::min(a, b);
    case Op::maximum:
      return std::max(a, b);
    case Op::floor_divide:
      return b == 0 ? std::nullopt : std::optional(std::floor(a / b));
    case Op::equal:
      return a == b ? 1 : 0;
    case Op::not_equal:
      return a != b ? 1 : 0;
    case Op::less:
      return a < b ? 1 : 0;
    case Op::less_equal:
      return a <= b ? 1 : 0;
    default:
      return std::nullopt;
  }
}

// What a result of the type keeps of a number.
double as_type(DType dtype, double x) {
  if (dtype == DType::kBool) return x != 0 ? 1 : 0;
  return dtype == DType::kFloat32 ? double{static_cast<float>(x)} : std::trunc(x);
}

template <class T>
double loaded(const program::RawData& data, int64_t place) {
  T value{};
  std::memcpy(&value, data.bytes.data() + static_cast<size_t>(place) * sizeof value, sizeof value);
  return static_cast<double>(value);
}

}  // namespace

std::optional<double> constant_element(const program::Program& p, ValueId id, int64_t place) {
  const program::Constant* constant = p.constant(id);
  if (constant == nullptr) return std::nullopt;
  if (const auto* floats = std::get_if<program::FloatData>(&constant->data))
    return double{(*floats)[static_cast<size_t>(place)]};
  if (const auto* halves = std::get_if<program::HalfData>(&constant->data))
    return double{program::widened(halves->bits[static_cast<size_t>(place)], p.value(id).storage)};
  const auto* raw = std::get_if<program::RawData>(&constant->data);
  if (raw == nullptr) return std::nullopt;
  switch (p.value(id).dtype) {
    case DType::kInt64:
      return loaded<int64_t>(*raw, place);
    case DType::kInt32:
      return loaded<int32_t>(*raw, place);
    case DType::kBool:
      return loaded<uint8_t>(*raw, place);
    default:
      return std::nullopt;
  }
}

Pointwise::Pointwise(const program::Program& program, const program::SymbolSizes& sizes, std::set<ValueId> stops)
    : p_(program), sizes_(sizes), stops_(std::move(stops)), makers_(program) {
  constexpr int64_t kLeast = int64_t{1} << 22, kEach = 1 << 14, kMost = int64_t{1} << 26;
  left_ = std::min(kLeast + kEach * static_cast<int64_t>(program.nodes.size()), kMost);
}

// One node back, where that only moves. False at one that does not.
bool Pointwise::step_back(const Node& node, Origin& origin) {
  Sizes& at = origin.at;
  ValueId from = node.inputs.empty() ? program::kNone : node.inputs[0];
  const auto dim = [&] { return static_cast<size_t>(node.attribute<int64_t>("dim")); };
  switch (node.op) {
    case Op::reshape:
      at = place_in(flat_place(at, sizes_of(origin.value)), sizes_of(from));
      break;
    case Op::expand:
      at = place_before(at, sizes_of(from));
      break;
    case Op::permute: {
      const auto& dims = node.attribute<Sizes>("dims");
      Sizes before(at.size());
      for (size_t i = 0; i < at.size(); ++i) before[static_cast<size_t>(dims[i])] = at[i];
      at = before;
      break;
    }
    case Op::slice: {
      const int64_t start = node.attribute<int64_t>("start");
      const int64_t first = start < 0 ? start + sizes_of(from)[dim()] : start;
      at[dim()] = flat_place({at[dim()], first}, {1, node.attribute<int64_t>("step")});
      break;
    }
    case Op::split:
      for (const ValueId part : node.outputs) {
        if (part == origin.value) break;
        at[dim()] += sizes_of(part)[dim()];
      }
      break;
    case Op::cat:
      for (const ValueId part : node.inputs) {
        from = part;
        const int64_t size = sizes_of(part)[dim()];
        if (at[dim()] < size) break;
        if (part != node.inputs.back()) at[dim()] -= size;
      }
      break;
    case Op::take: {
      const size_t count = p_.value(node.inputs[1]).shape.size();
      const auto begin = at.begin() + static_cast<int64_t>(dim()), end = begin + static_cast<int64_t>(count);
      const std::optional<double> index = number(node.inputs[1], {begin, end});
      if (!index || std::fabs(*index) > static_cast<double>(program::kMaxElements)) return false;
      const auto place = static_cast<int64_t>(*index);
      at.erase(begin, end);
      at.insert(at.begin() + static_cast<int64_t>(dim()), place < 0 ? place + sizes_of(from)[dim()] : place);
      break;
    }
    default:
      return false;
  }
  origin.value = from;
  return true;
}

// Over a product with a number, and over another type of floats.
bool Pointwise::step_over_scale(const Node& node, Origin& origin) {
  const auto is_floats = [&](ValueId id) {
    const DType dtype = p_.value(id).dtype;
    return dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
  };
  if (node.op == Op::cast && is_floats(node.inputs[0]) && is_floats(node.output())) {
    origin.value = node.inputs[0];
    return true;
  }
  if (node.op != Op::mul && node.op != Op::div) return false;
  for (const size_t side : {size_t{1}, size_t{0}}) {
    const program::Value& other = p_.value(node.inputs[side]);
    if (other.kind != program::ValueKind::kConstant || program::volume(other.shape) != program::Dim(1)) continue;
    if (node.op == Op::div && side == 0) return false;
    const auto by = of_constant(node.inputs[side], Sizes(other.shape.size(), 0));
    if (!by) return false;
    origin.factor = node.op == Op::mul ? origin.factor * *by : origin.factor / *by;
    origin.value = node.inputs[1 - side];
    origin.at = place_before(origin.at, sizes_of(origin.value));
    return true;
  }
  return false;
}

Pointwise::Origin Pointwise::origin(ValueId id, Sizes at, bool scaled) {
  Origin origin{id, std::move(at)};
  while (left_-- > 0) {
    const Sizes sizes = sizes_of(origin.value);
    bool is_inside = sizes.size() == origin.at.size();
    for (size_t i = 0; is_inside && i < sizes.size(); ++i) is_inside = origin.at[i] >= 0 && origin.at[i] < sizes[i];
    if (!is_inside) return {};
    if (stops_.contains(origin.value)) return origin;
    const Node* node = makers_.of(origin.value);
    if (node == nullptr || (!step_back(*node, origin) && !(scaled && step_over_scale(*node, origin)))) return origin;
  }
  return {};
}

std::optional<double> Pointwise::of_constant(ValueId id, const Sizes& at) {
  return constant_element(p_, id, flat_place(at, sizes_of(id)));
}

std::optional<double> Pointwise::broadcast_number(ValueId id, const Sizes& at) {
  return number(id, place_before(at, sizes_of(id)));
}

// Over the last dimension.
std::optional<double> Pointwise::reduced(const Node& node, Sizes at) {
  const int64_t size = sizes_of(node.inputs[0]).back();
  const bool is_running = node.op == Op::cumsum;
  const int64_t end = is_running ? at.back() + 1 : size;
  if (!is_running) at.push_back(0);
  std::optional<double> y;
  for (int64_t i = 0; i < end; ++i) {
    at.back() = i;
    const auto x = number(node.inputs[0], at);
    if (!x) return std::nullopt;
    const bool is_sum = is_running || node.op == Op::sum;
    y = !y ? *x : is_sum ? *y + *x : node.op == Op::max ? std::max(*y, *x) : std::min(*y, *x);
  }
  return y;
}

std::optional<double> Pointwise::computed(const Node& node, const Sizes& at) {
  switch (node.op) {
    case Op::positions:
      return node.attribute<int64_t>("continues") == 0 ? std::optional(static_cast<double>(at[0])) : std::nullopt;
    case Op::where: {
      const auto condition = broadcast_number(node.inputs[0], at);
      return condition ? broadcast_number(node.inputs[*condition != 0 ? 1 : 2], at) : std::nullopt;
    }
    case Op::cast: {
      const auto x = broadcast_number(node.inputs[0], at);
      return x ? std::optional(as_type(p_.value(node.output()).dtype, *x)) : std::nullopt;
    }
    case Op::sum:
    case Op::max:
    case Op::min:
    case Op::cumsum:
      return node.outputs.size() == 1 ? reduced(node, at) : std::nullopt;
    default:
      break;
  }
  const bool is_elementwise = schema(node.op).layout == program::ImageLayout::kKept;
  if (!is_elementwise || node.inputs.empty() || node.inputs.size() > 2) return std::nullopt;
  const auto a = broadcast_number(node.inputs[0], at);
  if (!a) return std::nullopt;
  if (node.inputs.size() == 1) return unary(node.op, *a);
  const auto b = broadcast_number(node.inputs[1], at);
  return b ? binary(node.op, *a, *b) : std::nullopt;
}

std::optional<double> Pointwise::number(ValueId id, const Sizes& at) {
  const bool is_alone = program::volume(p_.value(id).shape) == program::Dim(1);
  if (const auto found = is_alone ? alone_.find(id) : alone_.end(); found != alone_.end()) return found->second;
  constexpr int kMostDepth = 256;  // of calls within calls
  std::optional<double> y;
  ++depth_;
  const Origin from = depth_ > kMostDepth ? Origin() : origin(id, at);
  if (from.value != program::kNone) {
    const Node* node = makers_.of(from.value);
    y = node == nullptr ? of_constant(from.value, from.at) : computed(*node, from.at);
    if (y) y = as_type(p_.value(from.value).dtype, *y);
  }
  --depth_;
  if (is_alone) alone_[id] = y;
  return y;
}

}  // namespace bitlab::format::onnx
