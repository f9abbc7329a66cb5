// The one source of the ternary_gemm_f32 kernels, compiled by each of them for its instruction set.
#pragma once

#include "bitlab/kernels/internal/simd.h"
#include "bitlab/kernels/ternary_gemm/epilogue.h"
#include "bitlab/kernels/ternary_gemm_f32/arguments.h"

namespace bitlab::kernels {
namespace {

// Sixteen weights of a row, from 4 bytes: lane j is in the bits 2 j and 2 j + 1.
BITLAB_INLINE F32x16 sixteen_weights(uint32_t codes) {
  using Words = uint32_t __attribute__((vector_size(4 * kRegisterLanes)));
  constexpr uint32_t kShifts[] = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
  F32x16 t;
  _Pragma("GCC unroll 4") for (int i = 0; i < kRegisters; ++i) {
    Words shifts;
    std::memcpy(&shifts, kShifts + i * kRegisterLanes, sizeof(shifts));
    const Words fields = ((codes - Words{}) >> shifts) & 3U;
    t.part[i] = __builtin_convertvector((IntRegister)fields - 1, FloatRegister);
  }
  return t;
}

BITLAB_INLINE void weight_only(const TernaryGemmF32Args& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                               int64_t row_end) {
  constexpr int kTokens = 4;  // that share the unpacking of a row
  const TernaryGemmArgs& layer = p.layer;
  const int64_t row_bytes = (layer.depth + 3) / 4;
  for (int64_t n = row_begin; n < row_end; ++n) {
    const uint8_t* codes = layer.weights + n * row_bytes;
    const auto constants = RowConstants<1>::of(layer, n);
    for (int64_t token = token_begin; token < token_end; token += kTokens) {
      const int64_t count = token_end - token < kTokens ? token_end - token : kTokens;
      F32x16 sum[kTokens];
      for (F32x16& total : sum) total = 0.0F;
      for (int64_t k = 0; k < layer.depth; k += kLanes) {
        uint32_t word = 0x55555555;  // sixteen codes of t = 0
        const int64_t bytes = row_bytes - k / 4 < 4 ? row_bytes - k / 4 : 4;
        for (int64_t i = 0; i < bytes; ++i) {
          word &= ~(0xFFU << (8 * i));
          word |= static_cast<uint32_t>(codes[k / 4 + i]) << (8 * i);
        }
        const F32x16 t = sixteen_weights(word);
        const int64_t left = layer.depth - k < kLanes ? layer.depth - k : kLanes;
        for (int64_t m = 0; m < count; ++m) sum[m] += load_some(p.x + (token + m) * p.x_stride + k, left) * t;
      }
      for (int64_t m = 0; m < count; ++m) {
        const Floats<1> total = all_floats<1>(tree_sum(sum[m]));
        finish<1>(layer, constants, total * constants.scale, token + m);
      }
    }
  }
}

}  // namespace
}  // namespace bitlab::kernels
