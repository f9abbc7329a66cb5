// What an activation_quant kernel is. Plain data: this header is compiled for several instruction sets.
#pragma once

#include <cstdint>

namespace bitlab::kernels {

struct ActivationScale {
  float limit = 127;  // 127 for int8, 7 for int4
  float inv = 0;      // static: what x is multiplied by; 0: dynamic, limit / max(max|x|, 1e-5)
  bool fits = false;  // inv is given, and x known to be finite and within the limit: nobody looks again

  // The scale of a row whose largest |x| is known.
  ActivationScale of(float largest) const {
    constexpr float kEpsilon = 1e-5F;
    return {limit, limit / (largest > kEpsilon ? largest : kEpsilon), true};
  }
};

// Quantizes `count` values that share a scale: q = clamp(rint(x * inv), -limit, limit), *a = 1 / inv. With a null q, *a = max |x| is all that is found.
// Returns false, with q and *a unspecified, where a value is NaN or infinite.
using ActivationQuantKernel = bool(const float* x, int64_t count, ActivationScale scale, int8_t* q, float* a);

#define BITLAB_KERNEL(name, ...) ActivationQuantKernel activation_quant_##name;
#include "bitlab/kernels/activation_quant/kernels.def"
#undef BITLAB_KERNEL

}  // namespace bitlab::kernels
