// What the kernels for 64-bit Arm share: the walk over the kVn layout and the epilogue. Compiled into each of them, so that nothing here
// has a symbol of its own. An including file defines
//
//   template <int kUnits, int kTokens> void tile(const TernaryGemmArgs&, const Weights&, int64_t token, int64_t row, const int32_t* sums)
//
// which computes kUnits x 8 rows times kTokens tokens, and calls run().
#pragma once

#include <arm_neon.h>
#include <cstring>

#include "bitlab/kernels/ternary_gemm/arguments.h"

#define BITLAB_UNROLL _Pragma("GCC unroll 8")
#define BITLAB_INLINE static inline __attribute__((always_inline))

namespace bitlab::kernels {
namespace {

constexpr int64_t kTokenBlock = 64;  // tokens whose sums of q are kept at once

// The units of 8 rows that a tile works on: `first` points at the tile's first unit in step 0.
struct Weights {
  const uint8_t* first;
  int64_t step_bytes;
  int64_t steps;
};

BITLAB_INLINE int32_t sum_of(const int8_t* q, int64_t steps) {
  int32x4_t total = vdupq_n_s32(0);
  for (int64_t s = 0; s < steps; ++s) total = vpadalq_s16(total, vpaddlq_s8(vld1q_s8(q + s * kVnStep)));
  return vaddvq_s32(total);
}

// Four consecutive values of a per-row array; `count` of them exist.
BITLAB_INLINE float32x4_t load_rows(const float* values, int64_t stride, int64_t row, int64_t count) {
  if (stride == 0) return vdupq_n_f32(values[0]);
  if (count >= 4) return vld1q_f32(values + row);
  float padded[4] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = values[row + i];
  return vld1q_f32(padded);
}

// Four rows of one token.
BITLAB_INLINE void store_four(const TernaryGemmArgs& p, int32x4_t acc, int64_t token, int64_t row) {
  const int64_t count = p.rows - row;
  if (count <= 0) return;
  float32x4_t y = vmulq_f32(vcvtq_f32_s32(acc), vdupq_n_f32(p.a[token * p.a_stride]));
  y = vmulq_f32(y, load_rows(p.scale, p.scale_stride, row, count));
  if (p.bias != nullptr) y = vaddq_f32(y, load_rows(p.bias, 1, row, count));
  float* out = p.y + token * p.y_stride + row;
  if (count >= 4) {
    vst1q_f32(out, y);
    return;
  }
  float whole[4];
  vst1q_f32(whole, y);
  for (int64_t i = 0; i < count; ++i) out[i] = whole[i];
}

template <int kUnits, int kTokens>
BITLAB_INLINE void tile(const TernaryGemmArgs& p, const Weights& w, int64_t token, int64_t row, const int32_t* sums);

template <int kUnits>
BITLAB_INLINE void tokens_of(const TernaryGemmArgs& p, const Weights& w, int64_t begin, int64_t end, int64_t row,
                             const int32_t* sums) {
  int64_t token = begin;
  for (; token + 4 <= end; token += 4) tile<kUnits, 4>(p, w, token, row, sums + (token - begin));
  for (; token + 2 <= end; token += 2) tile<kUnits, 2>(p, w, token, row, sums + (token - begin));
  if (token < end) tile<kUnits, 1>(p, w, token, row, sums + (token - begin));
}

BITLAB_INLINE void run(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                       int64_t row_end) {
  const int64_t steps = (p.depth + kVnStep - 1) / kVnStep;
  int32_t sums[kTokenBlock];
  for (int64_t begin = token_begin; begin < token_end; begin += kTokenBlock) {
    const int64_t end = begin + kTokenBlock < token_end ? begin + kTokenBlock : token_end;
    for (int64_t m = begin; m < end; ++m) sums[m - begin] = sum_of(p.q + m * p.q_stride, steps);
    for (int64_t block = row_begin; block < row_end; block += kVnBlock) {
      const int64_t left = p.rows - block;
      int64_t units = left >= kVnBlock ? kVnBlock / kVnUnit : (left + kVnUnit - 1) / kVnUnit;
      Weights w{p.weights + block * steps * (kVnStep / 4), units * 32, steps};
      int64_t row = block;
      for (; units >= 2; units -= 2, w.first += 64, row += 2 * kVnUnit) tokens_of<2>(p, w, begin, end, row, sums);
      if (units == 1) tokens_of<1>(p, w, begin, end, row, sums);
    }
  }
}

}  // namespace
}  // namespace bitlab::kernels
