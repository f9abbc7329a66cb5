// Integers by their size, and their arithmetic, which wraps; that of floats as it is.
#pragma once

#include <type_traits>

#include "bitlab/kernels/internal/cuda_block.h"

namespace bitlab::kernels {

// What an operation is computed in: integers as unsigned ones, and short ones as int is wider.
template <class T>
BITLAB_HOST_DEVICE auto wrapping(T value) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>>(value);
  } else {
    return value;
  }
}

template <class T>
BITLAB_HOST_DEVICE T wrapped_sum(T a, T b) {
  return static_cast<T>(wrapping(a) + wrapping(b));
}
template <class T>
BITLAB_HOST_DEVICE T wrapped_difference(T a, T b) {
  return static_cast<T>(wrapping(a) - wrapping(b));
}
template <class T>
BITLAB_HOST_DEVICE T wrapped_product(T a, T b) {
  return static_cast<T>(wrapping(a) * wrapping(b));
}

// Calls with an unsigned integer of so many bytes.
template <class F>
const char* with_bytes(int64_t bytes, const F& f) {
  switch (bytes) {
    case 1:
      return f(uint8_t{});
    case 2:
      return f(uint16_t{});
    case 4:
      return f(uint32_t{});
    default:
      return f(uint64_t{});
  }
}

}  // namespace bitlab::kernels
