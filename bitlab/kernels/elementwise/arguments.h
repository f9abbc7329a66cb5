// What an elementwise kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// What is computed for each element; `ieee`: one rounding that IEEE 754 fixes, so that any other implementation gives the same bits.
enum class Elementwise : uint8_t {
  kRelu,      // x < 0 ? 0 : x; keeps -0 and NaN        ieee
  kGelu,      // x * normal_cdf(x), Hendrycks and Gimpel 2016 (arXiv:1606.08415)
  kGeluTanh,  // 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the same paper
  kSilu,      // x * sigmoid(x)
  kSigmoid,
  kTanh,
  kExp,
  kSquaredRelu,  // relu(x)^2, So et al. 2021 (arXiv:2109.08668)
  kAdd,          // a + b                                 ieee
  kSub,          // a - b                                 ieee
  kMul,          // a * b                                 ieee
  kDiv,          // a / b                                 ieee
};

struct ElementwiseArgs {
  Elementwise op = Elementwise::kRelu;
  const float* a = nullptr;  // [count]
  const float* b = nullptr;  // of kAdd to kDiv: element i of a meets b[i % b_count]
  int64_t b_count = 0;
  float* y = nullptr;  // [count]; may be a, or b where b_count = count
};

// The elements [begin, end).
using ElementwiseKernel = void(const ElementwiseArgs& args, int64_t begin, int64_t end);

#define BITLAB_KERNEL(name, ...) ElementwiseKernel elementwise_##name;
#include "bitlab/kernels/elementwise/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
