// Shape rules of operations without weights, and the table of all.
#include "bitlab/program/shape_rules.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace bitlab::program {
namespace {

const Shape& same_shape(const Program& p, const Node& node) { return shape_of(p, node, 0); }

// NumPy's rule for one dimension; nothing where it does not hold.
std::optional<Dim> broadcast(Dim a, Dim b) {
  const Dim one{1, false};
  if (a == b || b == one) return a;
  if (a == one) return b;
  return std::nullopt;
}

// Shapes aligned at their last dimensions.
Result<Shape> broadcast(const Node& node, const Shape& a, const Shape& b) {
  const Shape &longer = a.size() >= b.size() ? a : b, &shorter = a.size() >= b.size() ? b : a;
  Shape y = longer;
  const size_t lead = longer.size() - shorter.size();
  for (size_t i = 0; i < shorter.size(); ++i) {
    const std::optional<Dim> dim = broadcast(longer[lead + i], shorter[i]);
    if (!dim)
      return refuse(ErrorCode::kShapeMismatch, node, "shapes that are equal or broadcast, got {} and {}", to_string(a),
                    to_string(b));
    y[lead + i] = *dim;
  }
  return y;
}

Result<Shape> binary_shape(const Program& p, const Node& node) {
  if (p.value(node.inputs[0]).kind == ValueKind::kConstant && p.value(node.inputs[1]).kind == ValueKind::kConstant)
    return refuse(ErrorCode::kUnsupported, node, "an activation, got two constants");
  return broadcast(node, shape_of(p, node, 0), shape_of(p, node, 1));
}

// The product of a shape's sizes and how many of them are symbolic.
std::pair<int64_t, int64_t> volume(const Shape& shape) {
  return {elements(shape, 1), std::count_if(shape.begin(), shape.end(), [](Dim d) { return d.symbolic; })};
}

Status check_dim(const Node& node, int64_t dim, const Shape& x) {
  if (dim >= 0 && dim < static_cast<int64_t>(x.size())) return {};
  return refuse(ErrorCode::kInvalidArgument, node, "a dimension of {}, got {}", to_string(x), dim);
}

constexpr std::array kRules{
#define BITLAB_OP(name, exactness, layout, inputs, attributes) infer_##name,
#include "bitlab/program/ops.def"
#undef BITLAB_OP
};

}  // namespace

Result<Shape> infer_relu(const Program& p, const Node& node) { return same_shape(p, node); }
Result<Shape> infer_gelu(const Program& p, const Node& node) { return same_shape(p, node); }
Result<Shape> infer_gelu_tanh(const Program& p, const Node& node) { return same_shape(p, node); }
Result<Shape> infer_silu(const Program& p, const Node& node) { return same_shape(p, node); }
Result<Shape> infer_sigmoid(const Program& p, const Node& node) { return same_shape(p, node); }
Result<Shape> infer_tanh(const Program& p, const Node& node) { return same_shape(p, node); }
Result<Shape> infer_add(const Program& p, const Node& node) { return binary_shape(p, node); }
Result<Shape> infer_sub(const Program& p, const Node& node) { return binary_shape(p, node); }
Result<Shape> infer_mul(const Program& p, const Node& node) { return binary_shape(p, node); }
Result<Shape> infer_div(const Program& p, const Node& node) { return binary_shape(p, node); }

Result<Shape> infer_reshape(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  Shape y;
  for (int64_t size : node.attribute<Sizes>("shape")) {
    if (size == 0 || size < -kMaxElements || size > kMaxElements)
      return refuse(ErrorCode::kInvalidArgument, node, "sizes other than 0 up to 2^40, got {}", size);
    y.push_back({size < 0 ? -size : size, size < 0});
  }
  BITLAB_RETURN_IF_ERROR(check_size(node, y));
  if (volume(x) != volume(y))
    return refuse(ErrorCode::kShapeMismatch, node, "as many values as {}, got {}", to_string(x), to_string(y));
  return y;
}

Result<Shape> infer_permute(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  const Sizes& dims = node.attribute<Sizes>("dims");
  Sizes sorted = dims;
  std::sort(sorted.begin(), sorted.end());
  bool valid = dims.size() == x.size();
  for (size_t i = 0; valid && i < sorted.size(); ++i) valid = sorted[i] == static_cast<int64_t>(i);
  if (!valid)
    return refuse(ErrorCode::kInvalidArgument, node, "each dimension of {} once, got [{}]", to_string(x),
                  fmt::format("{}", fmt::join(dims, ", ")));
  Shape y;
  for (int64_t dim : dims) y.push_back(x[static_cast<size_t>(dim)]);
  return y;
}

Result<Shape> infer_slice(const Program& p, const Node& node) {
  Shape y = shape_of(p, node, 0);
  const int64_t dim = node.attribute<int64_t>("dim"), start = node.attribute<int64_t>("start"),
                length = node.attribute<int64_t>("length");
  BITLAB_RETURN_IF_ERROR(check_dim(node, dim, y));
  Dim& sliced = y[static_cast<size_t>(dim)];
  if (sliced.symbolic || start < 0 || length < 1 || length > sliced.size || start > sliced.size - length)
    return refuse(ErrorCode::kInvalidArgument, node, "a part of dimension {} of {}, got {} from {}", dim, to_string(y),
                  length, start);
  sliced.size = length;
  return y;
}

Result<Shape> infer_cat(const Program& p, const Node& node) {
  Shape y = shape_of(p, node, 0);
  const Shape& b = shape_of(p, node, 1);
  const int64_t dim = node.attribute<int64_t>("dim");
  BITLAB_RETURN_IF_ERROR(check_dim(node, dim, y));
  const auto at = static_cast<size_t>(dim);
  bool fits = b.size() == y.size() && !y[at].symbolic && !b[at].symbolic;
  for (size_t i = 0; fits && i < y.size(); ++i) fits = i == at || y[i] == b[i];
  if (!fits)
    return refuse(ErrorCode::kShapeMismatch, node, "shapes that differ in dimension {}, got {} and {}", dim, to_string(y),
                  to_string(b));
  y[at].size += b[at].size;
  return y;
}

Result<Shape> infer_expand(const Program& p, const Node& node) {
  Shape y = shape_of(p, node, 0);
  if (y.empty() || y[0].size != 1)
    return refuse(ErrorCode::kShapeMismatch, node, "a constant [1, ...], got {}", to_string(y));
  y[0] = kBatch;
  return y;
}

Result<Shape> infer_matmul(const Program& p, const Node& node) {
  const Shape &a = shape_of(p, node, 0), &b = shape_of(p, node, 1);
  BITLAB_RETURN_IF_ERROR(check_rank(node, a, 2));
  BITLAB_RETURN_IF_ERROR(check_rank(node, b, 2, a.size()));
  const bool shared = b.size() == 2;
  if (a.back() != b[b.size() - 2] || a.back().symbolic || b.back().symbolic || (!shared && b.size() != a.size()) ||
      (!shared && !std::equal(a.begin(), a.end() - 2, b.begin())))
    return refuse(ErrorCode::kShapeMismatch, node, "[..., m, k] and [..., k, n] or [k, n], got {} and {}", to_string(a),
                  to_string(b));
  Shape y = a;
  y.back() = b.back();
  return y;
}

Result<Shape> infer_attention(const Program& p, const Node& node) {
  constexpr size_t kMask = input_of(Op::attention, "mask");
  const Shape &q = shape_of(p, node, 0), &k = shape_of(p, node, 1), &v = shape_of(p, node, 2);
  for (const Shape* shape : {&q, &k, &v}) BITLAB_RETURN_IF_ERROR(check_rank(node, *shape, 4, 4));
  const bool sized = std::none_of(q.begin() + 1, q.end(), [](Dim d) { return d.symbolic; }) && !k[2].symbolic;
  if (!sized || k[0] != q[0] || v[0] != q[0] || k[1] != v[1] || k[2] != v[2] || k[3] != q[3] || k[1].symbolic ||
      v[3].symbolic || q[1].size % k[1].size != 0)
    return refuse(ErrorCode::kShapeMismatch, node,
                  "q [batch, heads, t, d], k [batch, groups, s, d], v [batch, groups, s, e], got {}, {}, {}", to_string(q),
                  to_string(k), to_string(v));
  const int64_t causal = node.attribute<int64_t>("causal");
  const double scale = node.attribute<double>("scale");
  if ((causal != 0 && causal != 1) || !(scale > -1e30 && scale < 1e30))
    return refuse(ErrorCode::kInvalidArgument, node, "causal of 0 or 1 and a finite scale, got {} and {}", causal, scale);
  const Shape scores{q[0], q[1], q[2], k[2]};
  if (node.inputs[kMask] != kNone) {
    BITLAB_TRY(const Shape masked, broadcast(node, scores, shape_of(p, node, kMask)));
    if (masked != scores)
      return refuse(ErrorCode::kShapeMismatch, node, "a mask that broadcasts to {}, got {}", to_string(scores),
                    to_string(shape_of(p, node, kMask)));
  }
  BITLAB_RETURN_IF_ERROR(check_size(node, scores));
  return Shape{q[0], q[1], q[2], v[3]};
}

Result<Shape> infer_softmax(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  BITLAB_RETURN_IF_ERROR(check_rank(node, x, 1));
  if (node.attribute<int64_t>("dim") != static_cast<int64_t>(x.size()) - 1 || x.back().symbolic)
    return refuse(ErrorCode::kUnsupported, node, "the last dimension of {}, got {}", to_string(x),
                  node.attribute<int64_t>("dim"));
  return x;
}

Result<Shape> infer_mean(const Program& p, const Node& node) {
  const Shape& x = shape_of(p, node, 0);
  BITLAB_RETURN_IF_ERROR(check_rank(node, x, 2));
  if (x.back().symbolic) return refuse(ErrorCode::kUnsupported, node, "a mean within samples, got {}", to_string(x));
  return Shape(x.begin(), x.end() - 1);
}

// Rules divide by sizes and multiply them: they see valid shapes alone, and what they make of these is valid or refused.
Result<Shape> infer_shape(const Program& program, const Node& node) {
  for (const ValueId id : node.inputs)
    if (id != kNone) BITLAB_RETURN_IF_ERROR(check_size(node, program.value(id).shape));
  BITLAB_TRY(Shape y, kRules.at(static_cast<size_t>(node.op))(program, node));
  BITLAB_RETURN_IF_ERROR(check_size(node, y));
  return y;
}

}  // namespace bitlab::program
