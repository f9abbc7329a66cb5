// Argument checks that the operators share. They throw bitlab::Exception.
#pragma once

#include <cmath>
#include <string>
#include <utility>

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include "bitlab/base/result.h"
#include "bitlab/ops/optional.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::ops {

template <class... Args>
void require(bool condition, ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) throw Exception(Error{code, fmt::vformat(format, fmt::make_format_args(args...))});
}

// A size, or sizes, that become text where a message is written, not before: operators check what is mostly well. Those that are traced are "?".
struct ShownSize {
  const c10::SymInt& size;
};
struct ShownSizes {
  c10::SymIntArrayRef sizes;
};
inline ShownSizes show(c10::SymIntArrayRef sizes) { return {sizes}; }
inline ShownSize show(const c10::SymInt& size) { return {size}; }
inline ShownSizes show(const at::Tensor& tensor) { return {tensor.sym_sizes()}; }

inline void require_float32(const char* op, const char* name, const at::Tensor& tensor) {
  require(tensor.scalar_type() == at::kFloat, ErrorCode::kTypeMismatch, "[{}] float32, got {} (name={})", op,
          c10::toString(tensor.scalar_type()), name);
}

// Kernels read the memory of one device.
inline void require_device(const char* op, const char* name, const at::Tensor& tensor, at::Device device) {
  require(tensor.device() == device, ErrorCode::kInvalidArgument, "[{}] tensors on {}, got one on {} (name={})", op,
          device.str(), tensor.device().str(), name);
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

template <>
struct fmt::formatter<bitlab::ops::ShownSize> {
  constexpr auto parse(format_parse_context& context) { return context.begin(); }
  auto format(const bitlab::ops::ShownSize& shown, format_context& context) const {
    if (shown.size.is_heap_allocated()) return fmt::format_to(context.out(), "?");
    return fmt::format_to(context.out(), "{}", shown.size.as_int_unchecked());
  }
};

template <>
struct fmt::formatter<bitlab::ops::ShownSizes> {
  constexpr auto parse(format_parse_context& context) { return context.begin(); }
  auto format(const bitlab::ops::ShownSizes& shown, format_context& context) const {
    auto out = fmt::format_to(context.out(), "[");
    for (size_t i = 0; i < shown.sizes.size(); ++i)
      out = fmt::format_to(out, "{}{}", i == 0 ? "" : ", ", bitlab::ops::ShownSize{shown.sizes[i]});
    return fmt::format_to(out, "]");
  }
};
