// What a ternary_depthwise kernel gets. Plain data: this header is compiled for several instruction sets.
#pragma once

#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

struct TernaryDepthwiseArgs {
  // Scales, a, epilogue and results as in ternary_gemm: a row is a channel, a token an output pixel. Its weights and q are not used.
  TernaryGemmArgs layer;
  const int16_t* t;  // [taps, channels]
  int64_t taps;
  // [tokens, taps]: the channels of the input pixel that a tap reads; zeros where that lies in the padding.
  const int8_t* const* pixels;
};

using TernaryDepthwiseKernel = void(const TernaryDepthwiseArgs& args, int64_t token_begin, int64_t token_end);

#define BITLAB_KERNEL(name, ...) TernaryDepthwiseKernel ternary_depthwise_##name;
#include "bitlab/kernels/ternary_depthwise/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
