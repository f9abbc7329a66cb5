// AVX2: vpmaddwd on values widened to int16, exact in int32. A register of 8 rows times 4 k becomes two of 4 rows, with two sums each.
#include <immintrin.h>

#include "bitlab/kernels/int8_gemm/arguments.h"
#include "bitlab/kernels/ternary_gemm/internal/vn_tile.h"

namespace bitlab::kernels {
namespace {

struct Int8Avx2 {
  static constexpr int kRows = 8, kRegisters = 1, kTokens = 4, kOneTokenRegisters = 2;
  static constexpr bool kFreeMask = false, kHasPairs = false, kInt8 = true;
  static constexpr bool kFinishesShort = false;
  static constexpr int kFewTokens = 0;
  static constexpr uint32_t kExcess = 0;
  static constexpr int64_t kWiden = int64_t{1} << 40;
  struct Codes {
    __m256i rows0123, rows4567;
  };
  using Quads = __m256i;
  using Some = int64_t;
  struct Sum {
    __m256i rows0123, rows4567;
  };

  BITLAB_INLINE Codes load(const uint8_t* bytes) {
    const auto* w = reinterpret_cast<const __m128i*>(bytes);
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(w)), _mm256_cvtepi8_epi16(_mm_loadu_si128(w + 1))};
  }
  BITLAB_INLINE Some some(int64_t rows) { return rows; }
  BITLAB_INLINE Codes load_some(const uint8_t* bytes, Some rows) {
    uint8_t padded[32] = {};
    for (int64_t i = 0; i < 4 * rows; ++i) padded[i] = bytes[i];
    return load(padded);
  }
  BITLAB_INLINE Quads broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, 4);
    return _mm256_cvtepi8_epi16(_mm_set1_epi32(four));
  }
  BITLAB_INLINE void dot(Sum& sum, const Codes& w, Quads q4) {
    sum.rows0123 = _mm256_add_epi32(sum.rows0123, _mm256_madd_epi16(w.rows0123, q4));
    sum.rows4567 = _mm256_add_epi32(sum.rows4567, _mm256_madd_epi16(w.rows4567, q4));
  }
  BITLAB_INLINE Ints<8> widen(const Sum& sum) {
    // Sums of pairs come as rows 0 1 4 5 2 3 6 7.
    const __m256i pairs = _mm256_hadd_epi32(sum.rows0123, sum.rows4567);
    return (Ints<8>)_mm256_permute4x64_epi64(pairs, 0xD8);
  }
  BITLAB_INLINE int32_t sum_of(const int8_t*, int64_t) { return 0; }  // nothing is subtracted
};

}  // namespace

void int8_gemm_x86_avx2(const Int8GemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin, int64_t row_end,
                        uint8_t* scratch) {
  vn_range<Int8Avx2, Scales::kPlain>(p, token_begin, token_end, row_begin, row_end, reinterpret_cast<int32_t*>(scratch));
}

}  // namespace bitlab::kernels
