// What an elementwise kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

enum class Elementwise : uint8_t {
#define BITLAB_UNARY(name, formula) name,
#define BITLAB_BINARY(name, formula) name,
#include "bitlab/kernels/elementwise/elementwise.def"
};

struct ElementwiseArgs {
  Elementwise op = Elementwise::relu;
  const float* a = nullptr;  // [count]
  const float* b = nullptr;  // of binary ones, else null: element i of a meets b[i % b_count]
  int64_t b_count = 0;
  float* y = nullptr;  // [count]; may be a, or b where b_count = count
};

// The elements [begin, end).
using ElementwiseKernel = void(const ElementwiseArgs& args, int64_t begin, int64_t end);

#define BITLAB_KERNEL(name, ...) ElementwiseKernel elementwise_##name;
#include "bitlab/kernels/elementwise/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
