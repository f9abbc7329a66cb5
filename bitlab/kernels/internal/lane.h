// F32x16 and its functions (simd.h) for one lane: what a thread of a CUDA device computes formulas with. The bits of a lane are those of the vector;
// NaN alone may have another sign and payload, which devices choose. Compiled without contraction (-fmad=false, -ffp-contract=off).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "bitlab/kernels/internal/cuda_block.h"

#define BITLAB_ALWAYS_INLINE BITLAB_HOST_DEVICE
#define BITLAB_INLINE_IF_FAST BITLAB_ALWAYS_INLINE
#define BITLAB_INLINE_LAMBDA
#define BITLAB_UNROLL_LANES BITLAB_UNROLL

namespace bitlab::kernels {
namespace {

inline constexpr int kRegisters = 1;
inline constexpr int64_t kLanes = 16;  // of a sum, whatever a lane is
using FloatRegister = float;
using IntRegister = int32_t;

struct F32x16 {
  FloatRegister part[1];
  F32x16() = default;
  BITLAB_ALWAYS_INLINE F32x16(float value) : part{value} {}  // NOLINT(google-explicit-constructor)
};
struct I32x16 {
  IntRegister part[1];
};
using Mask16 = I32x16;

BITLAB_ALWAYS_INLINE float lane(const F32x16& x) { return x.part[0]; }

BITLAB_ALWAYS_INLINE F32x16 operator+(const F32x16& x, const F32x16& y) { return lane(x) + lane(y); }
BITLAB_ALWAYS_INLINE F32x16 operator-(const F32x16& x, const F32x16& y) { return lane(x) - lane(y); }
BITLAB_ALWAYS_INLINE F32x16 operator*(const F32x16& x, const F32x16& y) { return lane(x) * lane(y); }
BITLAB_ALWAYS_INLINE F32x16 operator/(const F32x16& x, const F32x16& y) { return lane(x) / lane(y); }
BITLAB_ALWAYS_INLINE F32x16 operator-(const F32x16& x) { return -lane(x); }
BITLAB_ALWAYS_INLINE Mask16 operator<(const F32x16& x, const F32x16& y) { return {{lane(x) < lane(y)}}; }
BITLAB_ALWAYS_INLINE Mask16 operator>(const F32x16& x, const F32x16& y) { return {{lane(x) > lane(y)}}; }
BITLAB_ALWAYS_INLINE Mask16 operator==(const F32x16& x, const F32x16& y) { return {{lane(x) == lane(y)}}; }
BITLAB_ALWAYS_INLINE F32x16& operator+=(F32x16& x, const F32x16& y) { return x = x + y; }

BITLAB_ALWAYS_INLINE F32x16 select(const Mask16& mask, const F32x16& x, const F32x16& y) {
  return mask.part[0] != 0 ? lane(x) : lane(y);
}
BITLAB_ALWAYS_INLINE F32x16 larger(const F32x16& x, const F32x16& y) { return lane(x) > lane(y) ? lane(x) : lane(y); }
BITLAB_ALWAYS_INLINE F32x16 sqrt(const F32x16& x) { return select(x < 0.0F, __builtin_nanf(""), ::sqrtf(lane(x))); }
BITLAB_ALWAYS_INLINE F32x16 one_nan(const F32x16& x) { return select(x == x, x, __builtin_nanf("")); }

BITLAB_ALWAYS_INLINE I32x16 bits_of(const F32x16& x) {
  I32x16 r;
  std::memcpy(&r, &x, sizeof(r));
  return r;
}
BITLAB_ALWAYS_INLINE F32x16 merge_bits(int32_t mask, const F32x16& x, const F32x16& y) {
  const int32_t bits = (bits_of(x).part[0] & mask) | (bits_of(y).part[0] & ~mask);
  F32x16 r;
  std::memcpy(&r, &bits, sizeof(r));
  return r;
}
BITLAB_ALWAYS_INLINE F32x16 to_float(const I32x16& x) { return static_cast<float>(x.part[0]); }
BITLAB_ALWAYS_INLINE I32x16 to_int(const F32x16& x) { return {{static_cast<int32_t>(lane(x))}}; }

}  // namespace
}  // namespace bitlab::kernels
