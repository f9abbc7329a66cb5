// Tensors that an operator may be called without.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace bitlab::ops {

using OptionalTensor = std::optional<at::Tensor>;

// An undefined tensor as operators want it, and back.
inline OptionalTensor optional(const at::Tensor& tensor) { return tensor.defined() ? OptionalTensor(tensor) : std::nullopt; }
inline at::Tensor tensor_of(const OptionalTensor& tensor) { return tensor.value_or(at::Tensor()); }
inline bool given(const OptionalTensor& tensor) { return tensor && tensor->defined(); }

}  // namespace bitlab::ops
