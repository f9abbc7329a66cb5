// What the kernels for 64-bit Arm share: a register holds 4 rows times 4 k.
#pragma once

#include <arm_neon.h>

#include "bitlab/kernels/ternary_gemm/internal/vn_tile.h"

namespace bitlab::kernels {
namespace {

struct Arm {
  static constexpr bool kFinishesShort = false;
  static constexpr int kFewTokens = 0;
  static constexpr bool kHasPairs = false, kInt8 = false;
  static constexpr uint32_t kExcess = 1;
  static constexpr int kRows = 4, kRegisters = 4, kTokens = 4, kOneTokenRegisters = 4;
  static constexpr bool kFreeMask = false;
  using Codes = uint8x16_t;
  using Some = int64_t;

  BITLAB_INLINE Codes load(const uint8_t* bytes) { return vld1q_u8(bytes); }
  BITLAB_INLINE Codes load_some(const uint8_t* bytes, Some rows) {
    return kFewTiles && rows >= kRows ? load(bytes) : load_first(bytes, rows);
  }
  BITLAB_INLINE_IF_LARGE Codes load_first(const uint8_t* bytes, Some rows) {
    uint8_t padded[16] = {};
    for (int64_t i = 0; i < 4 * rows; ++i) padded[i] = bytes[i];
    return vld1q_u8(padded);
  }
  BITLAB_INLINE Some some(int64_t rows) { return rows; }
  BITLAB_INLINE Codes field(Codes x) { return vandq_u8(x, vdupq_n_u8(3)); }
  BITLAB_INLINE Codes next(Codes x) { return vshrq_n_u8(x, 2); }
  BITLAB_INLINE Codes low_bits(Codes x) { return vandq_u8(x, vdupq_n_u8(1)); }
  BITLAB_INLINE int32_t sum_of(const int8_t* q, int64_t steps) {
    int32x4_t total = vdupq_n_s32(0);
    for (int64_t s = 0; s < steps; ++s) total = vpadalq_s16(total, vpaddlq_s8(vld1q_s8(q + s * kVnStep)));
    return vaddvq_s32(total);
  }
  BITLAB_INLINE Floats<4> load_halves(const uint16_t* halves, int64_t count) {
    uint16_t padded[4] = {};
    if (count < kRows) {
      for (int64_t i = 0; i < count; ++i) padded[i] = halves[i];
      halves = padded;
    }
    return (Floats<4>)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves)));
  }
};

#if defined(__ARM_FEATURE_DOTPROD)
// sdot multiplies codes by int8 into int32, modulo 2^32.
struct ArmDotProduct : Arm {
  static constexpr int64_t kWiden = int64_t{1} << 40;
  using Quads = int8x16_t;
  using Sum = int32x4_t;

  BITLAB_INLINE Quads broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  BITLAB_INLINE void dot(Sum& sum, Codes codes, Quads q4) { sum = vdotq_s32(sum, vreinterpretq_s8_u8(codes), q4); }
  BITLAB_INLINE Ints<4> widen(Sum sum) { return (Ints<4>)sum; }
  BITLAB_INLINE Sum sum_from(Ints<4> values) { return (Sum)values; }
};
#endif

}  // namespace
}  // namespace bitlab::kernels
