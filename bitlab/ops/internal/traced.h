// What operators need so that PyTorch can trace them: with sizes that are symbols, and tensors without values.
#pragma once

#include <initializer_list>

#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/DispatchKeyExtractor.h>

namespace bitlab::ops {

// The tensor in that type: itself where it has it, which is no call that a trace sees, and cheaper.
inline at::Tensor in_type(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.scalar_type() == type ? tensor : tensor.to(type);
}

// Whether it has 16 bits a value, and its values in float32 then. Other tensors stay as they are.
inline bool is_short(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
}
inline at::Tensor widened(const at::Tensor& tensor) { return is_short(tensor) ? tensor.to(at::kFloat) : tensor; }

// A size as a number: in a trace it is fixed, that one alone, where Tensor::size() would fix all of a tensor's.
inline int64_t known(const c10::SymInt& size) { return size.guard_int(__FILE__, __LINE__); }

// Whether below autograd nothing but the kernel of that device would get to see the tensors: they have values, and no mode of Python or of
// functionalization watches.
inline bool reaches(c10::DispatchKey device, std::initializer_list<at::Tensor> tensors) {
  c10::DispatchKeySet keys;
  for (const at::Tensor& tensor : tensors) keys = keys | tensor.key_set();
  const auto below = c10::after_ADInplaceOrView_keyset.remove(c10::DispatchKey::BackendSelect);
  return c10::impl::computeDispatchKeySet(keys, below).highestPriorityTypeId() == device;
}

}  // namespace bitlab::ops
