// Argument checks that the operators share. They throw bitlab::Exception.
#pragma once

#include <string>
#include <utility>

#include <ATen/core/Tensor.h>
#include <fmt/core.h>

#include "bitlab/base/result.h"
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
inline std::string show(const at::Tensor& tensor) { return show(tensor.sym_sizes()); }

inline void require_float32(const char* op, const char* name, const at::Tensor& tensor) {
  require(tensor.scalar_type() == at::kFloat, ErrorCode::kTypeMismatch, "[{}] float32, got {} (name={})", op,
          c10::toString(tensor.scalar_type()), name);
}

inline ternary::WeightSpec parse_spec(std::string_view method, std::string_view granularity) {
  return {ternary::parse_method(method).value(), ternary::parse_granularity(granularity).value()};
}

}  // namespace bitlab::ops
