// Products of registers, which wait for nothing but themselves: for the files of instruction sets in roofs/.
#pragma once

#include <cstdint>

// Makes a vector in a register an unknown one, so that the compiler neither knows nor drops what is done to it.
#if defined(__x86_64__)
#define BITLAB_UNKNOWN(vector) asm volatile("" : "+v"(vector))
#else
#define BITLAB_UNKNOWN(vector) asm volatile("" : "+w"(vector))
#endif

namespace bitlab::profile {

// kProducts times a step, sum = product(sum, a, b), of kSums sums in turn: more than the latency of a product needs. Both are at most 16.
template <int kSums, int kProducts = kSums, class Sum, class Factor, class Product>
[[gnu::always_inline]] inline void multiply(int64_t steps, const Sum& begin, Factor a, Factor b, const Product& product) {
  Sum sums[kSums];
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) sums[i] = begin;
  BITLAB_UNKNOWN(a);
  BITLAB_UNKNOWN(b);
  for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 16
    for (int i = 0; i < kProducts; ++i) {
      Sum& sum = sums[i % kSums];
      sum = product(sum, a, b);
      BITLAB_UNKNOWN(sum);
    }
  }
}

}  // namespace bitlab::profile
