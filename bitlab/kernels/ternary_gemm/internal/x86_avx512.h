// What the AVX-512 kernels share: a register holds 16 rows times 4 k.
#pragma once

#include <immintrin.h>

#include "bitlab/kernels/ternary_gemm/internal/vn_tile.h"
#include "bitlab/kernels/ternary_gemm/internal/x86_sums.h"

// clang reorders a sum without a barrier, and runs out of registers.
#ifndef BITLAB_KEEP
#define BITLAB_KEEP(vector) asm volatile("" : "+v"(vector))
#endif

namespace bitlab::kernels {
namespace {

struct Avx512 {
  static constexpr int kRows = 16, kRegisters = 4, kTokens = 5, kOneTokenRegisters = 4;
  static constexpr bool kFinishesShort = false;
  static constexpr int kFewTokens = 0;
  static constexpr bool kFreeMask = true, kHasPairs = false, kInt8 = false;
  static constexpr uint32_t kExcess = 1;
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

#if defined(__AVX512VNNI__)
// vpdpbusd multiplies codes by int8 into int32, modulo 2^32. The difference to the sum of q fits int32, so the wrapping of what came before
// does not matter.
struct Avx512Vnni : Avx512 {
  static constexpr int64_t kWiden = int64_t{1} << 40;
  using Sum = __m512i;

  BITLAB_INLINE void dot(Sum& sum, Codes codes, Quads q4) {
    sum = _mm512_dpbusd_epi32(sum, codes, q4);
    BITLAB_KEEP(sum);
  }
  BITLAB_INLINE Ints<16> widen(Sum sum) { return (Ints<16>)sum; }
  BITLAB_INLINE Sum sum_from(Ints<16> values) { return (Sum)values; }
  BITLAB_INLINE int32_t sum_of(const int8_t* q, int64_t steps) { return sum_of_parts(sum_in_parts(q, steps)); }
  BITLAB_INLINE void sums_of_four(const int8_t* q, int64_t stride, int64_t steps, int32_t* sums) {
    store_sums_of_parts(sum_in_parts(q, steps), sum_in_parts(q + stride, steps), sum_in_parts(q + 2 * stride, steps),
                        sum_in_parts(q + 3 * stride, steps), sums);
  }
  BITLAB_INLINE __m256i sum_in_parts(const int8_t* q, int64_t steps) {
    const __m512i ones = _mm512_set1_epi8(1);
    const int64_t bytes = steps * kVnStep, whole = bytes / 64 * 64;
    const __mmask64 rest = (__mmask64{1} << (bytes - whole)) - 1;
    __m512i total = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_maskz_loadu_epi8(rest, q + whole));
    for (int64_t i = 0; i < whole; i += 64) total = _mm512_dpbusd_epi32(total, ones, _mm512_loadu_si512(q + i));
    return _mm256_add_epi32(_mm512_castsi512_si256(total), _mm512_extracti64x4_epi64(total, 1));
  }
};
#endif

}  // namespace
}  // namespace bitlab::kernels
