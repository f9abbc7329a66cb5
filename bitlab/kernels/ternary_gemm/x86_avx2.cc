// AVX2 on the kVn layout: codes 0, 1, 2 times int8 by vpmaddubsw, int16 sums widened every 256 k, and the excess of one q per
// product, the sum of q, subtracted. Range: 256 k x 127 x 2 / 2 products a lane = 32,512 < 2^15.
#include <cstring>
#include <immintrin.h>

#include "bitlab/kernels/ternary_gemm/arguments.h"

// The compilers differ in what they keep in registers: g++ needs register arrays unrolled by hand, clang a barrier that stops it
// from reordering a sum. Both cost nothing where they are not needed.
#define BITLAB_UNROLL _Pragma("GCC unroll 8")
#define BITLAB_KEEP(vector) asm volatile("" : "+x"(vector))
#define BITLAB_INLINE static inline __attribute__((always_inline))

namespace bitlab::kernels {
namespace {

constexpr int64_t kWiden = 16;       // steps between widenings
constexpr int64_t kTokenBlock = 64;  // tokens whose sums of q are kept at once

// The units of 8 rows that a tile works on: `first` points at the tile's first unit in step 0.
struct Weights {
  const uint8_t* first;
  int64_t step_bytes;
  int64_t steps;
};

BITLAB_INLINE __m256i broadcast4(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, 4);
  return _mm256_set1_epi32(four);
}

BITLAB_INLINE int32_t sum_of(const int8_t* q, int64_t steps) {
  __m256i total = _mm256_setzero_si256();
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t s = 0; s < steps; ++s) {
    const __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q + s * kVnStep)));
    total = _mm256_add_epi32(total, _mm256_madd_epi16(wide, ones));
  }
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1));
  return _mm_cvtsi128_si32(half);
}

// Eight consecutive values of a per-row array; `count` of them exist.
BITLAB_INLINE __m256 load_rows(const float* values, int64_t stride, int64_t row, int64_t count) {
  if (stride == 0) return _mm256_set1_ps(values[0]);
  if (count >= kVnUnit) return _mm256_loadu_ps(values + row);
  alignas(32) float padded[kVnUnit] = {};
  for (int64_t i = 0; i < count; ++i) padded[i] = values[row + i];
  return _mm256_load_ps(padded);
}

BITLAB_INLINE void store_unit(const TernaryGemmArgs& p, __m256i acc, int64_t token, int64_t row) {
  const int64_t count = p.rows - row;
  __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_set1_ps(p.a[token * p.a_stride]));
  y = _mm256_mul_ps(y, load_rows(p.scale, p.scale_stride, row, count));
  if (p.bias != nullptr) y = _mm256_add_ps(y, load_rows(p.bias, 1, row, count));
  float* out = p.y + token * p.y_stride + row;
  if (count >= kVnUnit) {
    _mm256_storeu_ps(out, y);
    return;
  }
  alignas(32) float whole[kVnUnit];
  _mm256_store_ps(whole, y);
  for (int64_t i = 0; i < count; ++i) out[i] = whole[i];
}

// kUnits x 8 rows times kTokens tokens.
template <int kUnits, int kTokens>
BITLAB_INLINE void tile(const TernaryGemmArgs& p, const Weights& w, int64_t token, int64_t row, const int32_t* sums) {
  constexpr int kTiles = kUnits * kTokens;
  const __m256i mask = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  const int8_t* q = p.q + token * p.q_stride;
  __m256i acc[kTiles];
  BITLAB_UNROLL for (int i = 0; i < kTiles; ++i) acc[i] = _mm256_set1_epi32(-sums[i % kTokens]);
  for (int64_t begin = 0; begin < w.steps; begin += kWiden) {
    const int64_t end = begin + kWiden < w.steps ? begin + kWiden : w.steps;
    __m256i sum[kTiles];
    BITLAB_UNROLL for (int i = 0; i < kTiles; ++i) sum[i] = _mm256_setzero_si256();
    for (int64_t s = begin; s < end; ++s) {
      const uint8_t* bytes = w.first + s * w.step_bytes;
      if constexpr (kTokens == 1) {
        const int8_t* q_step = q + s * kVnStep;
        const __m256i q0 = broadcast4(q_step), q1 = broadcast4(q_step + 4), q2 = broadcast4(q_step + 8),
                      q3 = broadcast4(q_step + 12);
        BITLAB_UNROLL for (int u = 0; u < kUnits; ++u) {
          const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32 * u));
          const __m256i low = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_and_si256(x, mask), q0),
                                               _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 2), mask), q1));
          const __m256i high = _mm256_add_epi16(_mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 4), mask), q2),
                                                _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 6), mask), q3));
          sum[u] = _mm256_add_epi16(sum[u], _mm256_add_epi16(low, high));
          BITLAB_KEEP(sum[u]);
        }
      } else {
        __m256i x[kUnits];
        BITLAB_UNROLL for (int u = 0; u < kUnits; ++u) x[u] =
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes + 32 * u));
        BITLAB_UNROLL for (int f = 0; f < 4; ++f) {
          __m256i codes[kUnits];
          BITLAB_UNROLL for (int u = 0; u < kUnits; ++u) {
            codes[u] = _mm256_and_si256(x[u], mask);
            x[u] = _mm256_srli_epi16(x[u], 2);
          }
          BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) {
            const __m256i q4 = broadcast4(q + t * p.q_stride + s * kVnStep + 4 * f);
            BITLAB_UNROLL for (int u = 0; u < kUnits; ++u) {
              __m256i& lane = sum[u * kTokens + t];
              lane = _mm256_add_epi16(lane, _mm256_maddubs_epi16(codes[u], q4));
              BITLAB_KEEP(lane);
            }
          }
        }
      }
    }
    BITLAB_UNROLL for (int i = 0; i < kTiles; ++i) acc[i] = _mm256_add_epi32(acc[i], _mm256_madd_epi16(sum[i], ones));
  }
  BITLAB_UNROLL for (int u = 0; u < kUnits; ++u) BITLAB_UNROLL for (int t = 0; t < kTokens; ++t)
      store_unit(p, acc[u * kTokens + t], token + t, row + u * kVnUnit);
}

template <int kUnits>
BITLAB_INLINE void tokens_of(const TernaryGemmArgs& p, const Weights& w, int64_t begin, int64_t end, int64_t row,
                             const int32_t* sums) {
  int64_t token = begin;
  for (; token + 4 <= end; token += 4) tile<kUnits, 4>(p, w, token, row, sums + (token - begin));
  switch (end - token) {
    case 3:
      tile<kUnits, 3>(p, w, token, row, sums + (token - begin));
      break;
    case 2:
      tile<kUnits, 2>(p, w, token, row, sums + (token - begin));
      break;
    case 1:
      tile<kUnits, 1>(p, w, token, row, sums + (token - begin));
      break;
    default:
      break;
  }
}

BITLAB_INLINE void one_token(const TernaryGemmArgs& p, Weights w, int64_t token, int64_t row, int64_t units, int32_t sum) {
  for (; units >= 8; units -= 8, w.first += 256, row += 64) tile<8, 1>(p, w, token, row, &sum);
  for (; units >= 2; units -= 2, w.first += 64, row += 16) tile<2, 1>(p, w, token, row, &sum);
  if (units == 1) tile<1, 1>(p, w, token, row, &sum);
}

BITLAB_INLINE void many_tokens(const TernaryGemmArgs& p, Weights w, int64_t begin, int64_t end, int64_t row, int64_t units,
                               const int32_t* sums) {
  for (; units >= 2; units -= 2, w.first += 64, row += 16) tokens_of<2>(p, w, begin, end, row, sums);
  if (units == 1) tokens_of<1>(p, w, begin, end, row, sums);
}

}  // namespace

void ternary_gemm_x86_avx2(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                           int64_t row_end) {
  const int64_t steps = (p.depth + kVnStep - 1) / kVnStep;
  int32_t sums[kTokenBlock];
  for (int64_t begin = token_begin; begin < token_end; begin += kTokenBlock) {
    const int64_t end = begin + kTokenBlock < token_end ? begin + kTokenBlock : token_end;
    for (int64_t m = begin; m < end; ++m) sums[m - begin] = sum_of(p.q + m * p.q_stride, steps);
    for (int64_t row = row_begin; row < row_end; row += kVnBlock) {
      const int64_t left = p.rows - row;
      const int64_t units = left >= kVnBlock ? kVnBlock / kVnUnit : (left + kVnUnit - 1) / kVnUnit;
      const Weights w{p.weights + row * steps * (kVnStep / 4), units * 32, steps};
      if (end - begin == 1) {
        one_token(p, w, begin, row, units, sums[0]);
      } else {
        many_tokens(p, w, begin, end, row, units, sums);
      }
    }
  }
}

}  // namespace bitlab::kernels
