// For tests of the operators.
#pragma once

#include <cstring>

#include <ATen/core/Tensor.h>

namespace bitlab::ops::test {

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

}  // namespace bitlab::ops::test
