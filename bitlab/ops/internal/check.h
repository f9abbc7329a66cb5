// Argument checks that the operators share. They throw bitlab::Exception.
#pragma once

#include <cmath>
#include <string>
#include <utility>

#include <ATen/core/Tensor.h>
#include <fmt/core.h>

#include "bitlab/base/result.h"
#include "bitlab/ops/optional.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::ops {

template <class... Args>
void require(bool condition, ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw Exception(Error{code, fmt::vformat(format, fmt::make_format_args(args...))});
}

inline std::string show(c10::SymIntArrayRef sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i)
    text += (i == 0 ? "" : ", ") + (sizes[i].is_heap_allocated() ? "?" : std::to_string(sizes[i].as_int_unchecked()));
  return text + "]";
}
inline std::string show(const c10::SymInt& size) {
  return size.is_heap_allocated() ? "?" : std::to_string(size.as_int_unchecked());
}
inline std::string show(const at::Tensor& tensor) { return show(tensor.sym_sizes()); }

inline void require_float32(const char* op, const char* name, const at::Tensor& tensor) {
  require(tensor.scalar_type() == at::kFloat, ErrorCode::kTypeMismatch, "[{}] float32, got {} (name={})", op,
          c10::toString(tensor.scalar_type()), name);
}

// Static activations have a step, and others none.
inline void check_act_scale(const char* op, ternary::ActKind kind, const OptionalTensor& act_scale) {
  const auto problem = ternary::act_scale_problem(kind, given(act_scale));
  require(!problem, ErrorCode::kInvalidArgument, "[{}] {}", op, problem.value_or(""));
}

// The value of a static step, which x is divided by.
inline float checked_step(const char* op, const at::Tensor& act_scale) {
  const float step = act_scale.item<float>();
  require(
      step != 0, ErrorCode::kInvalidArgument,
      "[{}] static activations whose step a forward pass in training, or a calibration (quantize_for_deployment), has set, "
      "got act_scale 0",
      op);
  require(step >= ternary::kLeastStep && std::isfinite(step), ErrorCode::kInvalidArgument,
          "[{}] act_scale of at least {}, got {}", op, ternary::kLeastStep, step);
  return step;
}

}  // namespace bitlab::ops
