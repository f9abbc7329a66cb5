// The shape rules' declarations, and what they share. One rule an operation: infer_<name>. What a rule accepts, the runtime runs.
#pragma once

#include "bitlab/program/program.h"

namespace bitlab::program {

// The types of a node's outputs. Most have one, of float32: rules make it of a shape.
using Types = std::vector<TensorType>;

#define BITLAB_OP(name, exactness, layout, inputs, attributes) \
  Result<Types> infer_##name(const Program& p, const Node& node);
#include "bitlab/program/ops.def"
#undef BITLAB_OP

inline Types one(Shape shape, DType dtype = DType::kFloat32) { return {{dtype, std::move(shape)}}; }
inline Result<Types> one(Result<Shape> shape, DType dtype = DType::kFloat32) {
  if (!shape.ok()) return shape.error();
  return one(*std::move(shape), dtype);
}

inline const Value& input_value(const Program& p, const Node& node, size_t input) { return p.value(node.inputs[input]); }
inline const Shape& shape_of(const Program& p, const Node& node, size_t input) { return input_value(p, node, input).shape; }
inline DType dtype_of(const Program& p, const Node& node, size_t input) { return input_value(p, node, input).dtype; }

template <class... Args>
Failure refuse(ErrorCode code, const Node& node, fmt::format_string<Args...> format, Args&&... args) {
  return make_error(code, "[{}] {} (node={})", name(node.op), fmt::vformat(format, fmt::make_format_args(args...)),
                    node.name);
}

inline Status check_rank(const Program& p, const Node& node, const Shape& shape, size_t least, size_t most = kMaxRank) {
  if (shape.size() >= least && shape.size() <= most) return {};
  return refuse(ErrorCode::kShapeMismatch, node, "rank {} to {}, got {}", least, most, p.show(shape));
}

// An optional input of the given shape.
inline Status check_constant(const Program& p, const Node& node, size_t input, const Shape& expected) {
  if (node.inputs[input] == kNone || shape_of(p, node, input) == expected) return {};
  return refuse(ErrorCode::kShapeMismatch, node, "{} of shape {}, got {}", schema(node.op).input(input).name,
                p.show(expected), p.show(shape_of(p, node, input)));
}

inline Status check_size(const Program& p, const Node& node, const Shape& shape) {
  if (static_cast<int64_t>(shape.size()) <= kMaxRank && is_valid(shape)) return {};
  return refuse(ErrorCode::kUnsupported, node, "at most {} positive sizes and 2^40 values, got {}", kMaxRank, p.show(shape));
}

// An attribute that is 0 or 1.
inline Status check_flag(const Node& node, const char* key) {
  const int64_t flag = node.attribute<int64_t>(key);
  if (flag == 0 || flag == 1) return {};
  return refuse(ErrorCode::kInvalidArgument, node, "{} of 0 or 1, got {}", key, flag);
}

// NumPy's rule: aligned at the last dimension, a size of 1 repeated. Error: ShapeMismatch.
Result<Shape> broadcast(const Program& p, const Node& node, const Shape& a, const Shape& b);

}  // namespace bitlab::program
