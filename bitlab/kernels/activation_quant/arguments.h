// What an activation_quant kernel is. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

// Quantizes `count` values that share a scale: inv = 127 / max(max|x|, 1e-5), q = clamp(rint(x * inv), -127, 127), *a = 1 / inv.
// Returns false, with q and *a unspecified, where a value is NaN or infinite.
using ActivationQuantKernel = bool(const float* x, int64_t count, int8_t* q, float* a);

#define BITLAB_KERNEL(name, ...) ActivationQuantKernel activation_quant_##name;
#include "bitlab/kernels/activation_quant/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
