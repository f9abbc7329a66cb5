// What a ternary_depthwise kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

// Tokens, output pixels, come in lines of `width`; the taps, input pixels, in lines of `columns`.
struct TernaryDepthwiseArgs {
  // Scales, a, epilogue and results as in ternary_gemm: a row is a channel. Its weights and q are not used.
  TernaryGemmArgs layer;
  const int16_t* t;  // [taps, channels]
  int64_t taps;
  int64_t columns;
  // [lines, taps]: the channels of the input pixel that a tap reads for the first token of a line, zeros where that lies in the padding.
  const int8_t* const* pixels;
  int64_t width;
  // Bytes from there to what it reads for the next token; where it is not 0 the taps of a line of taps are equally far apart, in all of them. 0: width is 1.
  int64_t step;
};

// Computes the results of the tokens of so many lines.
using TernaryDepthwiseKernel = void(const TernaryDepthwiseArgs& args, int64_t lines);

#define BITLAB_KERNEL(name, ...) TernaryDepthwiseKernel ternary_depthwise_##name;
#include "bitlab/kernels/ternary_depthwise/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
