// What the AVX-512 kernels share: a register holds 16 rows times 4 k.
#pragma once

#include <immintrin.h>

#include "bitlab/kernels/ternary_gemm/vn_tile.h"

// clang reorders a sum without a barrier, and runs out of registers.
#define BITLAB_KEEP(vector) asm volatile("" : "+v"(vector))

namespace bitlab::kernels {
namespace {

struct Avx512 {
  static constexpr int kRows = 16, kRegisters = 4, kTokens = 5, kOneTokenRegisters = 4;
  static constexpr bool kFreeMask = true, kHasPairs = false;
  using Codes = __m512i;
  using Quads = __m512i;
  using Some = __mmask16;

  BITLAB_INLINE Codes load(const uint8_t* bytes) { return _mm512_loadu_si512(bytes); }
  BITLAB_INLINE Some some(int64_t rows) { return rows >= kRows ? Some{0xFFFF} : static_cast<Some>((1U << rows) - 1); }
  BITLAB_INLINE Codes load_some(const uint8_t* bytes, Some rows) { return _mm512_maskz_loadu_epi32(rows, bytes); }
  BITLAB_INLINE Codes field(Codes x) { return _mm512_and_si512(x, _mm512_set1_epi8(3)); }
  BITLAB_INLINE Codes next(Codes x) { return _mm512_srli_epi16(x, 2); }
  BITLAB_INLINE Codes low_bits(Codes x) { return _mm512_and_si512(x, _mm512_set1_epi8(1)); }
  BITLAB_INLINE Quads broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, 4);
    return _mm512_set1_epi32(four);
  }
  BITLAB_INLINE Floats<16> load_halves(const uint16_t* halves, int64_t count) {
    return (Floats<16>)_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some(count), halves));
  }
};

}  // namespace
}  // namespace bitlab::kernels
