// Floats in 16 bits on a CUDA device, by their bits; base/internal/half.h has the host's forms. NaN stays NaN, with other bits.
#pragma once

#include <cstdint>

#include "bitlab/kernels/internal/cuda_block.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "bitlab/base/internal/half.h"
#endif

namespace bitlab::kernels {

#if defined(__CUDACC__)
BITLAB_HOST_DEVICE float half_value(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
BITLAB_HOST_DEVICE float bfloat_value(uint16_t bits) { return __bfloat162float(__ushort_as_bfloat16(bits)); }
BITLAB_HOST_DEVICE uint16_t half_bits(float value) { return __half_as_ushort(__float2half_rn(value)); }
BITLAB_HOST_DEVICE uint16_t bfloat_bits(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
#else
inline float half_value(uint16_t bits) { return half_to_float(bits); }
inline float bfloat_value(uint16_t bits) { return bfloat_to_float(bits); }
inline uint16_t half_bits(float value) { return float_to_half(value); }
inline uint16_t bfloat_bits(float value) { return float_to_bfloat(value); }
#endif

// Floats in 16 bits, whose values are float32.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
BITLAB_HOST_DEVICE float value_of(Float16 stored) { return half_value(stored.bits); }
BITLAB_HOST_DEVICE float value_of(BFloat16 stored) { return bfloat_value(stored.bits); }
template <class T>
BITLAB_HOST_DEVICE T value_of(T stored) {
  return stored;
}

}  // namespace bitlab::kernels
