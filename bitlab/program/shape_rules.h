// The shape rules' declarations, and what they share. One rule an operation: infer_<name>. What a rule accepts, the runtime runs.
#pragma once

#include "bitlab/program/program.h"

namespace bitlab::program {

#define BITLAB_OP(name, exactness, layout, inputs, attributes) \
  Result<Shape> infer_##name(const Program& p, const Node& node);
#include "bitlab/program/ops.def"
#undef BITLAB_OP

inline const Shape& shape_of(const Program& p, const Node& node, size_t input) { return p.value(node.inputs[input]).shape; }

template <class... Args>
Error refuse(ErrorCode code, const Node& node, fmt::format_string<Args...> format, Args&&... args) {
  return make_error(code, "[{}] {} (node={})", name(node.op), fmt::vformat(format, fmt::make_format_args(args...)),
                    node.name);
}

inline Status check_rank(const Node& node, const Shape& shape, size_t least, size_t most = kMaxRank) {
  if (shape.size() >= least && shape.size() <= most) return {};
  return refuse(ErrorCode::kShapeMismatch, node, "rank {} to {}, got {}", least, most, to_string(shape));
}

// An optional constant of the given shape.
inline Status check_constant(const Program& p, const Node& node, size_t input, const Shape& expected) {
  if (node.inputs[input] == kNone || shape_of(p, node, input) == expected) return {};
  return refuse(ErrorCode::kShapeMismatch, node, "{} of shape {}, got {}", schema(node.op).inputs[input].name,
                to_string(expected), to_string(shape_of(p, node, input)));
}

inline Status check_size(const Node& node, const Shape& shape) {
  if (static_cast<int64_t>(shape.size()) <= kMaxRank && is_valid(shape)) return {};
  return refuse(ErrorCode::kUnsupported, node, "at most {} positive sizes and 2^40 values, got {}", kMaxRank,
                to_string(shape));
}

}  // namespace bitlab::program
