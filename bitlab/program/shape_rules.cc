// Shape rules of operations without weights, and the table of all.
#include "bitlab/program/internal/shape_rules.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "bitlab/program/internal/attention_input.h"

namespace bitlab::program {
namespace {

Result<Types> same_type(const Program& p, const Node& node) { return one(shape_of(p, node, 0), dtype_of(p, node, 0)); }

// NumPy's rule for one dimension; nothing where it does not hold.
std::optional<Dim> broadcast_dim(const Dim& a, const Dim& b) {
  if (a == b || b == Dim(1)) return a;
  if (a == Dim(1)) return b;
  return std::nullopt;
}

bool is_one_of(DType dtype, std::initializer_list<DType> list) {
  return std::find(list.begin(), list.end(), dtype) != list.end();
}

// Whether the operation's kernel has a form for the dtype.
bool takes(Op op, DType dtype) {
  switch (op) {
    case Op::div:
    case Op::atan2:
    case Op::mean:
      return dtype == DType::kFloat32;
    case Op::add:
    case Op::sub:
    case Op::mul:
    case Op::scatter:
      return is_one_of(dtype, {DType::kFloat32, DType::kInt64, DType::kInt32});
    case Op::sum:
    case Op::prod:
    case Op::max:
    case Op::min:
    case Op::argmax:
    case Op::cumsum:
    case Op::cumprod:
    case Op::cummax:
    case Op::sort:
      return is_one_of(dtype, {DType::kFloat32, DType::kInt64});
#define BITLAB_INTEGER(name) case Op::name:
#include "bitlab/program/elementwise.def"
      return is_one_of(dtype, {DType::kInt64, DType::kInt32});
    default:
      return is_one_of(dtype, {DType::kFloat32, DType::kInt64, DType::kInt32, DType::kBool});
  }
}

Result<Shape> binary_shape(const Program& p, const Node& node) {
  const Value &a = input_value(p, node, 0), &b = input_value(p, node, 1);
  if (a.kind == ValueKind::kConstant && b.kind == ValueKind::kConstant)
    return refuse(ErrorCode::kUnsupported, node, "an activation, got two constants");
  if (a.dtype != b.dtype || !takes(node.op, a.dtype))
    return refuse(ErrorCode::kUnsupported, node, "two values of a dtype that it takes, got {} and {}", name(a.dtype),
                  name(b.dtype));
  return broadcast(p, node, a.shape, b.shape);
}

Result<Types> binary_type(const Program& p, const Node& node) { return one(binary_shape(p, node), dtype_of(p, node, 0)); }

Status check_dim(const Program& p, const Node& node, int64_t dim, const Shape& x) {
  if (dim >= 0 && dim < static_cast<int64_t>(x.size())) return {};
  return refuse(ErrorCode::kInvalidArgument, node, "a dimension of {}, got {}", p.show(x), dim);
}

// A size at the least of its symbols. A program that is being read may have ranges, and more symbols, that verify() refuses later.
int64_t least_of(const Program& p, const Dim& dim) { return dim.at(sizes_at(&Symbol::min, p.symbols)); }

// The attribute that is a shape of one size.
Result<Dim> size_attribute(const Program& p, const Node& node, const char* key) {
  const auto& shape = node.attribute<Shape>(key);
  if (shape.size() == 1 && is_valid(shape)) return shape[0];
  return refuse(ErrorCode::kInvalidArgument, node, "one positive size as {}, got {}", key, p.show(shape));
}

// The number of keys: those of k, or all that a state holds with them.
Result<Dim> attention_keys(const Program& p, const Node& node) {
  const Shape &q = shape_of(p, node, 0), &k = shape_of(p, node, 1), &v = shape_of(p, node, 2);
  const bool has_state = node.inputs[attention_input::kKeyState] != kNone;
  if (has_state != (node.inputs[attention_input::kValueState] != kNone))
    return refuse(ErrorCode::kInvalidArgument, node, "states of keys and of values, got one of them");
  if (!has_state) return k[2];
  const Shape &keys = shape_of(p, node, attention_input::kKeyState),
              &values = shape_of(p, node, attention_input::kValueState);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, keys, 4, 4));
  const Shape expected_keys{k[0], k[1], keys[2], k[3]}, expected_values{v[0], v[1], keys[2], v[3]};
  const std::optional<size_t> context = context_symbol(p);
  const bool holds = context && keys[2] == Dim::of_symbol(*context) && !uses(k[2], *context);
  const bool is_own = k[2] == q[2] && node.attribute<int64_t>("causal") == 1;
  if (!holds || !is_own || keys != expected_keys || values != expected_values)
    return refuse(ErrorCode::kShapeMismatch, node,
                  "causal self-attention with states [batch, groups, context, d] and [batch, groups, context, e], got {}, "
                  "{} for {}, {}",
                  p.show(keys), p.show(values), p.show(k), p.show(v));
  return keys[2];
}

Result<Types> infer_left_out(const Program&, const Node& node) {
  return refuse(ErrorCode::kUnsupported, node, "an operation of this build, which has {}, got '{}'", BITLAB_OPS,
                name(node.op));
}

// Each word that the build was given.
consteval bool names_operations(std::string_view list) {
  while (!list.empty()) {
    const std::string_view word = list.substr(0, list.find(' '));
    bool is_known = false;
#define BITLAB_OP(name, exactness, layout, inputs, attributes) is_known = is_known || word == #name;
#include "bitlab/program/ops.def"
#undef BITLAB_OP
    if (!is_known) return false;
    list.remove_prefix(std::min(list.size(), word.size() + 1));
  }
  return true;
}
static_assert(names_operations(BITLAB_OPS), "BITLAB_OPS has a word that is no operation of ops.def");

// Out of line, so that each case is a jump.
__attribute__((noinline)) Result<Types> infer(const Program& p, const Node& node) {
  switch (node.op) {
#define BITLAB_OP(name, exactness, layout, inputs, attributes)                \
  case Op::name:                                                              \
    if constexpr (is_listed(BITLAB_OPS, #name)) return infer_##name(p, node); \
    break;
#include "bitlab/program/ops.def"
#undef BITLAB_OP
  }
  return infer_left_out(p, node);
}

}  // namespace

Result<Shape> broadcast(const Program& p, const Node& node, const Shape& a, const Shape& b) {
  const Shape &longer = a.size() >= b.size() ? a : b, &shorter = a.size() >= b.size() ? b : a;
  Shape y = longer;
  const size_t lead = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); ++i) {
    const std::optional<Dim> dim = broadcast_dim(longer[lead + i], shorter[i]);
    if (!dim)
      return refuse(ErrorCode::kShapeMismatch, node, "shapes that are equal or broadcast, got {} and {}", p.show(a),
                    p.show(b));
    y[lead + i] = *dim;
  }
  return y;
}

#define BITLAB_UNARY(name, exactness) \
  Result<Types> infer_##name(const Program& p, const Node& node) { return same_type(p, node); }
#define BITLAB_BINARY(name, exactness) \
  Result<Types> infer_##name(const Program& p, const Node& node) { return binary_type(p, node); }
#define BITLAB_COMPARISON(name) \
  Result<Types> infer_##name(const Program& p, const Node& node) { return one(binary_shape(p, node), DType::kBool); }
#define BITLAB_INTEGER(name) \
  Result<Types> infer_##name(const Program& p, const Node& node) { return binary_type(p, node); }
#include "bitlab/program/elementwise.def"

Result<Types> infer_where(const Program& p, const Node& node) {
  const DType condition = dtype_of(p, node, 0), a = dtype_of(p, node, 1), b = dtype_of(p, node, 2);
  if (condition != DType::kBool || a != b)
    return refuse(ErrorCode::kUnsupported, node, "a bool condition and two values of one dtype, got {}, {} and {}",
                  name(condition), name(a), name(b));
  BITLAB_TRY(const Shape values, broadcast(p, node, shape_of(p, node, 1), shape_of(p, node, 2)));
  return one(broadcast(p, node, shape_of(p, node, 0), values), a);
}

Result<Types> infer_reshape(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const auto& y = node.attribute<Shape>("shape");
  BITLAB_RETURN_IF_ERROR(check_size(p, node, y));
  if (volume(x) != volume(y))
    return refuse(ErrorCode::kShapeMismatch, node, "as many values as {}, got {}", p.show(x), p.show(y));
  return one(y, dtype_of(p, node, 0));
}

Result<Types> infer_permute(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const Sizes& dims = node.attribute<Sizes>("dims");
  Sizes sorted = dims;
  std::sort(sorted.begin(), sorted.end());
  bool valid = dims.size() == x.size();
  for (size_t i = 0; valid && i < sorted.size(); ++i) valid = sorted[i] == static_cast<int64_t>(i);
  if (!valid)
    return refuse(ErrorCode::kInvalidArgument, node, "each dimension of {} once, got {}", p.show(x), to_string(dims));
  Shape y;
  for (int64_t dim : dims) y.push_back(x[static_cast<size_t>(dim)]);
  return one(std::move(y), dtype_of(p, node, 0));
}

namespace {

// That `length` values of a dimension of x, from the node's `start` on in its steps, lie inside whatever sizes the symbols take.
Status check_part(const Program& p, const Node& node, const Shape& x, const Dim& length) {
  const int64_t dim = node.attribute<int64_t>("dim"), start = node.attribute<int64_t>("start"),
                step = node.attribute<int64_t>("step");
  if (step < 1 || step > kMaxElements)
    return refuse(ErrorCode::kInvalidArgument, node, "a step from 1 to 2^40, got {}", step);
  const Dim& sliced = x[static_cast<size_t>(dim)];
  if (start < -kMaxElements || start > kMaxElements)
    return refuse(ErrorCode::kInvalidArgument, node, "a start from -2^40 to 2^40, got {}", start);
  // How far the part reaches, from its first value to its last; from the end on it may go so far.
  const int64_t behind = start + 1 - step;
  const bool fits =
      start < 0 ? length.is_number() && start >= -least_of(p, sliced) && is_within(length, step, behind, 0, p.symbols)
                : is_within(length, step, behind, sliced, p.symbols);
  if (fits) return {};
  return refuse(ErrorCode::kInvalidArgument, node, "a part of dimension {} of {}, got {} from {} in steps of {}", dim,
                p.show(x), p.show(length), start, step);
}

}  // namespace

Result<Types> infer_slice(const Program& p, const Node& node) {
  Shape y = shape_of(p, node, 0);
  const int64_t dim = node.attribute<int64_t>("dim");
  BITLAB_RETURN_IF_ERROR(check_dim(p, node, dim, y));
  BITLAB_TRY(const Dim length, size_attribute(p, node, "length"));
  BITLAB_RETURN_IF_ERROR(check_part(p, node, y, length));
  y[static_cast<size_t>(dim)] = length;
  return one(std::move(y), dtype_of(p, node, 0));
}

Result<Types> infer_slice_scatter(const Program& p, const Node& node) {
  const Shape &x = shape_of(p, node, 0), &source = shape_of(p, node, 1);
  const int64_t dim = node.attribute<int64_t>("dim");
  BITLAB_RETURN_IF_ERROR(check_dim(p, node, dim, x));
  const auto at = static_cast<size_t>(dim);
  Shape expected = x;
  if (source.size() == x.size()) expected[at] = source[at];
  if (source != expected || dtype_of(p, node, 0) != dtype_of(p, node, 1))
    return refuse(ErrorCode::kShapeMismatch, node, "a source of {}{} but in dimension {}, got {}{}",
                  name(dtype_of(p, node, 0)), p.show(x), dim, name(dtype_of(p, node, 1)), p.show(source));
  BITLAB_RETURN_IF_ERROR(check_part(p, node, x, source[at]));
  return one(x, dtype_of(p, node, 0));
}

Result<Types> infer_flip(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const Sizes& dims = node.attribute<Sizes>("dims");
  for (const int64_t dim : dims) BITLAB_RETURN_IF_ERROR(check_dim(p, node, dim, x));
  if (std::set<int64_t>(dims.begin(), dims.end()).size() != dims.size())
    return refuse(ErrorCode::kInvalidArgument, node, "dimensions of {}, each once, got {}", p.show(x), to_string(dims));
  return one(x, dtype_of(p, node, 0));
}

namespace {

// What a sample gets must not depend on its place in the batch: the batch is no dimension to take from.
Status check_indexed(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const int64_t dim = node.attribute<int64_t>("dim");
  BITLAB_RETURN_IF_ERROR(check_dim(p, node, dim, x));
  if (dtype_of(p, node, 1) != DType::kInt64)
    return refuse(ErrorCode::kUnsupported, node, "int64 indices, got {}", name(dtype_of(p, node, 1)));
  if (uses(x[static_cast<size_t>(dim)], 0) || least_of(p, x[static_cast<size_t>(dim)]) < 1)
    return refuse(ErrorCode::kUnsupported, node, "a dimension within samples, got {} of {}", dim, p.show(x));
  return {};
}

}  // namespace

namespace {

// Indices that have the sizes of x in all other dimensions.
Status check_indices_of_each(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_indexed(p, node));
  const Shape& indices = shape_of(p, node, 1);
  const auto dim = static_cast<size_t>(node.attribute<int64_t>("dim"));
  Shape expected = shape_of(p, node, 0);
  if (indices.size() == expected.size()) expected[dim] = indices[dim];
  if (indices == expected) return {};
  return refuse(ErrorCode::kShapeMismatch, node, "indices with the sizes of {} but in dimension {}, got {}",
                p.show(shape_of(p, node, 0)), dim, p.show(indices));
}

}  // namespace

Result<Types> infer_gather(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_indices_of_each(p, node));
  return one(shape_of(p, node, 1), dtype_of(p, node, 0));
}

Result<Types> infer_scatter(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_indices_of_each(p, node));
  const DType dtype = dtype_of(p, node, 0);
  if (shape_of(p, node, 2) != shape_of(p, node, 1) || dtype_of(p, node, 2) != dtype)
    return refuse(ErrorCode::kShapeMismatch, node, "a source of {}{}, got {}{}", name(dtype), p.show(shape_of(p, node, 1)),
                  name(dtype_of(p, node, 2)), p.show(shape_of(p, node, 2)));
  const auto& mode = node.attribute<std::string>("mode");
  constexpr std::array<std::string_view, 5> kModes{"set", "add", "mul", "minimum", "maximum"};
  if (std::find(kModes.begin(), kModes.end(), mode) == kModes.end())
    return refuse(ErrorCode::kInvalidArgument, node, "a mode of set, add, mul, minimum, maximum, got '{}'", mode);
  if (mode != "set" && !takes(node.op, dtype))
    return refuse(ErrorCode::kUnsupported, node, "values of a dtype that it takes, got {}", name(dtype));
  return one(shape_of(p, node, 0), dtype);
}

Result<Types> infer_take(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_indexed(p, node));
  const Shape &x = shape_of(p, node, 0), &indices = shape_of(p, node, 1);
  const int64_t dim = node.attribute<int64_t>("dim");
  Shape y(x.begin(), x.begin() + dim);
  y.insert(y.end(), indices.begin(), indices.end());
  y.insert(y.end(), x.begin() + dim + 1, x.end());
  return one(std::move(y), dtype_of(p, node, 0));
}

Result<Types> infer_cat(const Program& p, const Node& node) {
  Shape y = shape_of(p, node, 0);
  const int64_t dim = node.attribute<int64_t>("dim");
  BITLAB_RETURN_IF_ERROR(check_dim(p, node, dim, y));
  const auto at = static_cast<size_t>(dim);
  for (size_t part = 1; part < node.inputs.size(); ++part) {
    const Shape& b = shape_of(p, node, part);
    bool fits = b.size() == y.size() && dtype_of(p, node, part) == dtype_of(p, node, 0);
    for (size_t i = 0; fits && i < y.size(); ++i) fits = i == at || y[i] == b[i];
    const std::optional<Dim> size = fits ? sum(y[at], b[at]) : std::nullopt;
    if (!size)
      return refuse(ErrorCode::kShapeMismatch, node,
                    "parts of one dtype that differ in dimension {} alone, got {}{} and {}{}", dim,
                    name(dtype_of(p, node, 0)), p.show(y), name(dtype_of(p, node, part)), p.show(b));
    y[at] = *size;
    BITLAB_RETURN_IF_ERROR(check_size(p, node, y));
  }
  return one(std::move(y), dtype_of(p, node, 0));
}

Result<Types> infer_split(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const int64_t dim = node.attribute<int64_t>("dim");
  const auto& sizes = node.attribute<Shape>("sizes");
  BITLAB_RETURN_IF_ERROR(check_dim(p, node, dim, x));
  const Dim& whole = x[static_cast<size_t>(dim)];
  Types types;
  std::optional<Dim> all = Dim(0);
  for (const Dim& size : sizes) {
    all = size.factor < 1 ? std::nullopt : sum(*all, size);
    if (!all) break;
    types.push_back({dtype_of(p, node, 0), x});
    types.back().shape[static_cast<size_t>(dim)] = size;
  }
  if (types.empty() || all != whole)
    return refuse(ErrorCode::kShapeMismatch, node, "sizes that add up to {}, got {}", p.show(whole), p.show(sizes));
  return types;
}

Result<Types> infer_expand(const Program& p, const Node& node) {
  const auto& y = node.attribute<Shape>("shape");
  BITLAB_RETURN_IF_ERROR(check_size(p, node, y));
  BITLAB_TRY(const Shape both, broadcast(p, node, shape_of(p, node, 0), y));
  if (both != y)
    return refuse(ErrorCode::kShapeMismatch, node, "a shape that {} broadcasts to, got {}", p.show(shape_of(p, node, 0)),
                  p.show(y));
  return one(y, dtype_of(p, node, 0));
}

Result<Types> infer_cast(const Program& p, const Node& node) {
  const Result<DType> dtype = parse_dtype(node.attribute<std::string>("dtype"));
  if (!dtype.ok()) return refuse(ErrorCode::kInvalidArgument, node, "{}", dtype.error().message);
  return one(shape_of(p, node, 0), *dtype);
}

Result<Types> infer_positions(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(check_flag(node, "continues"));
  BITLAB_TRY(const Dim size, size_attribute(p, node, "size"));
  return one({size}, DType::kInt64);
}

Result<Types> infer_rotary(const Program& p, const Node& node) {
  const Shape &x = shape_of(p, node, 0), &positions = shape_of(p, node, 1);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 4, 4));
  if (!x[3].is_number() || x[3].factor % 2 != 0 || positions != Shape{x[2]})
    return refuse(ErrorCode::kShapeMismatch, node, "x [batch, heads, t, an even size] and positions [t], got {} and {}",
                  p.show(x), p.show(positions));
  const double theta = node.attribute<double>("theta");
  if (!(theta >= 1 && theta <= 1e12))
    return refuse(ErrorCode::kInvalidArgument, node, "theta from 1 to 1e12, got {}", theta);
  return one(x);
}

Result<Types> infer_matmul(const Program& p, const Node& node) {
  const Shape &a = shape_of(p, node, 0), &b = shape_of(p, node, 1);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, a, 2));
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, b, 2, a.size()));
  const bool shared = b.size() == 2;
  if (a.back() != b[b.size() - 2] || (!shared && b.size() != a.size()) ||
      (!shared && !std::equal(a.begin(), a.end() - 2, b.begin())))
    return refuse(ErrorCode::kShapeMismatch, node, "[..., m, k] and [..., k, n] or [k, n], got {} and {}", p.show(a),
                  p.show(b));
  Shape y = a;
  y.back() = b.back();
  return one(std::move(y));
}

Result<Types> infer_attention(const Program& p, const Node& node) {
  const Shape &q = shape_of(p, node, 0), &k = shape_of(p, node, 1), &v = shape_of(p, node, 2);
  for (const Shape* shape : {&q, &k, &v}) BITLAB_RETURN_IF_ERROR(check_rank(p, node, *shape, 4, 4));
  const bool sized = is_fixed({q[1], q[3], k[1], v[3]});
  if (!sized || k[0] != q[0] || v[0] != q[0] || k[1] != v[1] || k[2] != v[2] || k[3] != q[3] ||
      q[1].factor % k[1].factor != 0)
    return refuse(ErrorCode::kShapeMismatch, node,
                  "q [batch, heads, t, d], k [batch, groups, s, d], v [batch, groups, s, e], got {}, {}, {}", p.show(q),
                  p.show(k), p.show(v));
  BITLAB_RETURN_IF_ERROR(check_flag(node, "causal"));
  const double scale = node.attribute<double>("scale");
  if (!(scale > -1e30 && scale < 1e30)) return refuse(ErrorCode::kInvalidArgument, node, "a finite scale, got {}", scale);
  BITLAB_TRY(const Dim keys, attention_keys(p, node));
  const Shape scores{q[0], q[1], q[2], keys};
  if (node.inputs[attention_input::kMask] != kNone) {
    BITLAB_TRY(const Shape masked, broadcast(p, node, scores, shape_of(p, node, attention_input::kMask)));
    if (masked != scores)
      return refuse(ErrorCode::kShapeMismatch, node, "a mask that broadcasts to {}, got {}", p.show(scores),
                    p.show(shape_of(p, node, attention_input::kMask)));
  }
  BITLAB_RETURN_IF_ERROR(check_size(p, node, scores));
  return one({q[0], q[1], q[2], v[3]});
}

namespace {

// What becomes one, or is compared with each other: what a sample gets must not depend on the others, nor on how many there are.
Status check_within_samples(const Program& p, const Node& node, const Dim& dim) {
  if (!uses(dim, 0)) return {};
  return refuse(ErrorCode::kUnsupported, node, "values within samples, got {}", p.show(dim));
}

}  // namespace

Result<Types> infer_softmax(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 1));
  if (node.attribute<int64_t>("dim") != static_cast<int64_t>(x.size()) - 1)
    return refuse(ErrorCode::kUnsupported, node, "the last dimension of {}, got {}", p.show(x),
                  node.attribute<int64_t>("dim"));
  BITLAB_RETURN_IF_ERROR(check_within_samples(p, node, x.back()));
  return one(x);
}

namespace {

// The values of the last dimension become one.
Result<Types> reduced_type(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  BITLAB_RETURN_IF_ERROR(check_rank(p, node, x, 2));
  if (!takes(node.op, dtype_of(p, node, 0)))
    return refuse(ErrorCode::kUnsupported, node, "values of a dtype that it takes, got {}", name(dtype_of(p, node, 0)));
  BITLAB_RETURN_IF_ERROR(check_within_samples(p, node, x.back()));
  return one(Shape(x.begin(), x.end() - 1), dtype_of(p, node, 0));
}

}  // namespace

Result<Types> infer_mean(const Program& p, const Node& node) { return reduced_type(p, node); }
Result<Types> infer_sum(const Program& p, const Node& node) { return reduced_type(p, node); }
Result<Types> infer_prod(const Program& p, const Node& node) { return reduced_type(p, node); }
Result<Types> infer_max(const Program& p, const Node& node) { return reduced_type(p, node); }
Result<Types> infer_min(const Program& p, const Node& node) { return reduced_type(p, node); }

Result<Types> infer_argmax(const Program& p, const Node& node) {
  BITLAB_TRY(const Types types, reduced_type(p, node));
  return one(types[0].shape, DType::kInt64);
}

Result<Types> infer_cumsum(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(reduced_type(p, node));
  return one(shape_of(p, node, 0), dtype_of(p, node, 0));
}

Result<Types> infer_cumprod(const Program& p, const Node& node) { return infer_cumsum(p, node); }

Result<Types> infer_cummax(const Program& p, const Node& node) {
  BITLAB_TRY(Types types, infer_cumsum(p, node));
  types.push_back({DType::kInt64, types[0].shape});
  return types;
}

Result<Types> infer_sort(const Program& p, const Node& node) {
  BITLAB_RETURN_IF_ERROR(reduced_type(p, node));
  BITLAB_RETURN_IF_ERROR(check_flag(node, "descending"));
  BITLAB_TRY(const Dim length, size_attribute(p, node, "length"));
  Shape y = shape_of(p, node, 0);
  const Dim all = std::exchange(y.back(), length);
  if (!is_within(length, 1, 0, all, p.symbols))
    return refuse(ErrorCode::kInvalidArgument, node, "a length of at most {}, got {}", p.show(all), p.show(length));
  return Types{{dtype_of(p, node, 0), y}, {DType::kInt64, y}};
}

// Rules divide by sizes and multiply them: they see valid shapes alone, and what they make of these is valid or refused.
Result<std::vector<TensorType>> infer_types(const Program& program, const Node& node) {
  for (const ValueId id : node.inputs)
    if (id != kNone) BITLAB_RETURN_IF_ERROR(check_size(program, node, program.value(id).shape));
  BITLAB_TRY(Types types, infer(program, node));
  for (const TensorType& type : types) BITLAB_RETURN_IF_ERROR(check_size(program, node, type.shape));
  return types;
}

}  // namespace bitlab::program
