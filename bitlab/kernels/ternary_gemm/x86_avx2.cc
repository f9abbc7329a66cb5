// AVX2: codes times int8 by vpmaddubsw, int16 sums widened every 256 k. Range: 16 steps x 4 fields x 2 products x 2 x 127 = 32,512 < 2^15.
#include <immintrin.h>

#include "bitlab/kernels/ternary_gemm/internal/vn_tile.h"
#include "bitlab/kernels/ternary_gemm/internal/x86_sums.h"

namespace bitlab::kernels {
namespace {

struct Avx2 {
  static constexpr bool kFinishesShort = true;
  static constexpr int kFewTokens = 0;
  static constexpr bool kHasPairs = false, kInt8 = false;
  static constexpr uint32_t kExcess = 1;
  static constexpr int kRows = 8, kRegisters = 2, kTokens = 4, kOneTokenRegisters = 8;
  static constexpr bool kFreeMask = false;
  static constexpr int64_t kWiden = 16;
  using Codes = __m256i;
  using Quads = __m256i;
  using Sum = __m256i;
  using Some = __m256i;

  // The first `count` of 8 dwords.
  BITLAB_INLINE Some some(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(count)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  BITLAB_INLINE Codes load(const uint8_t* bytes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)); }
  BITLAB_INLINE Codes load_some(const uint8_t* bytes, Some rows) {
    return _mm256_maskload_epi32(reinterpret_cast<const int*>(bytes), rows);
  }
  BITLAB_INLINE Codes field(Codes x) { return _mm256_and_si256(x, _mm256_set1_epi8(3)); }
  BITLAB_INLINE Codes next(Codes x) { return _mm256_srli_epi16(x, 2); }
  BITLAB_INLINE Codes low_bits(Codes x) { return _mm256_and_si256(x, _mm256_set1_epi8(1)); }
  BITLAB_INLINE Quads broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, 4);
    return _mm256_set1_epi32(four);
  }
  BITLAB_INLINE void dot(Sum& sum, Codes codes, Quads q4) {
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, q4));
    // clang reorders a sum without a barrier, and runs out of registers.
    asm volatile("" : "+x"(sum));
  }
  BITLAB_INLINE Ints<8> widen(Sum sum) { return (Ints<8>)_mm256_madd_epi16(sum, _mm256_set1_epi16(1)); }
  BITLAB_INLINE int32_t sum_of(const int8_t* q, int64_t steps) { return sum_of_parts(sum_in_parts(q, steps)); }
  BITLAB_INLINE void sums_of_four(const int8_t* q, int64_t stride, int64_t steps, int32_t* sums) {
    store_sums_of_parts(sum_in_parts(q, steps), sum_in_parts(q + stride, steps), sum_in_parts(q + 2 * stride, steps),
                        sum_in_parts(q + 3 * stride, steps), sums);
  }
  BITLAB_INLINE __m256i sum_in_parts(const int8_t* q, int64_t steps) {
    const __m256i ones = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    __m256i total = _mm256_setzero_si256();
    const auto add = [&](__m256i some) __attribute__((always_inline)) {
      total = _mm256_add_epi32(total, _mm256_madd_epi16(_mm256_maddubs_epi16(ones, some), ones16));
    };
    int64_t s = 0;
    for (; s + 2 <= steps; s += 2) add(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + s * kVnStep)));
    if (s < steps) add(_mm256_zextsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q + s * kVnStep))));
    return total;
  }
  BITLAB_INLINE Floats<8> load_halves(const uint16_t* halves, int64_t count) {
    uint16_t padded[8] = {};
    if (count < kRows) {
      for (int64_t i = 0; i < count; ++i) padded[i] = halves[i];
      halves = padded;
    }
    return (Floats<8>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
  }
};

}  // namespace

void ternary_gemm_x86_avx2(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                           int64_t row_end, uint8_t* scratch) {
  vn_gemm<Avx2>(p, token_begin, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
