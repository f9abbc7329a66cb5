// AVX-512 VNNI on the kVn layout: a 64-byte register holds two units, 16 rows times 4 k, as codes 0, 1, 2; vpdpbusd multiplies them by
// four q into int32, modulo 2^32. The excess of one q per product, the sum of q, is subtracted; the difference fits int32, so the
// wrapping of what came before does not matter.
#include <cstring>
#include <immintrin.h>

#include "bitlab/kernels/ternary_gemm/arguments.h"

// As in x86_avx2.cc: g++ needs register arrays unrolled by hand, clang a barrier.
#define BITLAB_UNROLL _Pragma("GCC unroll 16")
#define BITLAB_KEEP(vector) asm volatile("" : "+v"(vector))
#define BITLAB_INLINE static inline __attribute__((always_inline))

namespace bitlab::kernels {
namespace {

constexpr int64_t kTokenBlock = 64;    // tokens whose sums of q are kept at once
constexpr int64_t kRowsRegister = 16;  // rows of a register
constexpr int64_t kScaledSteps =
    32768;  // steps after which the sums of shifted codes are added up: 4 x 2 x 64 x 127 each, below 2^31

// What a tile of kRegisters x 16 rows reads: `first` points at its first byte in step 0. The last register may hold one unit.
struct Weights {
  const uint8_t* first;
  int64_t step_bytes;
  int64_t steps;
  __mmask8 last;  // quadwords of the last register
};

BITLAB_INLINE __m512i broadcast4(const int8_t* q) {
  int32_t four;
  std::memcpy(&four, q, 4);
  return _mm512_set1_epi32(four);
}

BITLAB_INLINE int32_t sum_of(const int8_t* q, int64_t steps) {
  const __m512i ones = _mm512_set1_epi8(1);
  const int64_t bytes = steps * kVnStep;
  __m512i total = _mm512_setzero_si512();
  for (int64_t i = 0; i < bytes; i += 64) {
    const __mmask64 some = bytes - i >= 64 ? ~__mmask64{0} : (__mmask64{1} << (bytes - i)) - 1;
    total = _mm512_dpbusd_epi32(total, ones, _mm512_maskz_loadu_epi8(some, q + i));
  }
  return _mm512_reduce_add_epi32(total);
}

template <int kRegisters>
BITLAB_INLINE void load(__m512i (&x)[kRegisters], const uint8_t* bytes, __mmask8 last) {
  BITLAB_UNROLL for (int r = 0; r + 1 < kRegisters; ++r) x[r] = _mm512_loadu_si512(bytes + 64 * r);
  x[kRegisters - 1] = _mm512_maskz_loadu_epi64(last, bytes + 64 * (kRegisters - 1));
}

BITLAB_INLINE __m512 load_rows(const float* values, int64_t stride, int64_t row, __mmask16 some) {
  return stride == 0 ? _mm512_set1_ps(values[0]) : _mm512_maskz_loadu_ps(some, values + row);
}

BITLAB_INLINE void store_rows(const TernaryGemmArgs& p, __m512i acc, int64_t token, int64_t row) {
  const int64_t left = p.rows - row;
  const auto some = static_cast<__mmask16>(left >= kRowsRegister ? 0xFFFF : (1 << left) - 1);
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_set1_ps(p.a[token * p.a_stride]));
  y = _mm512_mul_ps(y, load_rows(p.scale, p.scale_stride, row, some));
  if (p.bias != nullptr) y = _mm512_add_ps(y, load_rows(p.bias, 1, row, some));
  _mm512_mask_storeu_ps(p.y + token * p.y_stride + row, some, y);
}

// One token: each field of a byte is multiplied where it stands, as 1, 4, 16 or 64 times its code, into sums of its own.
template <int kRegisters>
BITLAB_INLINE void one_token(const TernaryGemmArgs& p, const Weights& w, int64_t token, int64_t row, int32_t sum) {
  const __m512i field0 = _mm512_set1_epi8(3), field1 = _mm512_set1_epi8(12), field2 = _mm512_set1_epi8(48),
                field3 = _mm512_set1_epi8(static_cast<char>(192));
  const int8_t* q = p.q + token * p.q_stride;
  __m512i acc[kRegisters];
  BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) acc[r] = _mm512_set1_epi32(-sum);
  for (int64_t begin = 0; begin < w.steps; begin += kScaledSteps) {
    const int64_t end = begin + kScaledSteps < w.steps ? begin + kScaledSteps : w.steps;
    __m512i part[kRegisters][4];
    BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) BITLAB_UNROLL for (int f = 0; f < 4; ++f) part[r][f] =
        _mm512_setzero_si512();
    for (int64_t s = begin; s < end; ++s) {
      const int8_t* q_step = q + s * kVnStep;
      const __m512i q0 = broadcast4(q_step), q1 = broadcast4(q_step + 4), q2 = broadcast4(q_step + 8),
                    q3 = broadcast4(q_step + 12);
      __m512i x[kRegisters];
      load(x, w.first + s * w.step_bytes, w.last);
      BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) {
        part[r][0] = _mm512_dpbusd_epi32(part[r][0], _mm512_and_si512(x[r], field0), q0);
        part[r][1] = _mm512_dpbusd_epi32(part[r][1], _mm512_and_si512(x[r], field1), q1);
        part[r][2] = _mm512_dpbusd_epi32(part[r][2], _mm512_and_si512(x[r], field2), q2);
        part[r][3] = _mm512_dpbusd_epi32(part[r][3], _mm512_and_si512(x[r], field3), q3);
        BITLAB_UNROLL for (int f = 0; f < 4; ++f) BITLAB_KEEP(part[r][f]);
      }
    }
    BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) {
      const __m512i low = _mm512_add_epi32(part[r][0], _mm512_srai_epi32(part[r][1], 2));
      const __m512i high = _mm512_add_epi32(_mm512_srai_epi32(part[r][2], 4), _mm512_srai_epi32(part[r][3], 6));
      acc[r] = _mm512_add_epi32(acc[r], _mm512_add_epi32(low, high));
    }
  }
  BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) if (row + r * kRowsRegister < p.rows)
      store_rows(p, acc[r], token, row + r * kRowsRegister);
}

// Several tokens: codes are unpacked once for all of them.
template <int kRegisters, int kTokens>
BITLAB_INLINE void some_tokens(const TernaryGemmArgs& p, const Weights& w, int64_t token, int64_t row, const int32_t* sums) {
  const __m512i mask = _mm512_set1_epi8(3);
  const int8_t* q = p.q + token * p.q_stride;
  __m512i acc[kRegisters][kTokens];
  BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) acc[r][t] =
      _mm512_set1_epi32(-sums[t]);
  for (int64_t s = 0; s < w.steps; ++s) {
    __m512i x[kRegisters];
    load(x, w.first + s * w.step_bytes, w.last);
    BITLAB_UNROLL for (int f = 0; f < 4; ++f) {
      __m512i codes[kRegisters];
      BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) {
        codes[r] = _mm512_and_si512(x[r], mask);
        x[r] = _mm512_srli_epi16(x[r], 2);
      }
      BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) {
        const __m512i q4 = broadcast4(q + t * p.q_stride + s * kVnStep + 4 * f);
        BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) {
          acc[r][t] = _mm512_dpbusd_epi32(acc[r][t], codes[r], q4);
          BITLAB_KEEP(acc[r][t]);
        }
      }
    }
  }
  BITLAB_UNROLL for (int r = 0; r < kRegisters; ++r) {
    if (row + r * kRowsRegister >= p.rows) continue;
    BITLAB_UNROLL for (int t = 0; t < kTokens; ++t) store_rows(p, acc[r][t], token + t, row + r * kRowsRegister);
  }
}

// All tokens of [begin, end) times kRegisters x 16 rows, in tiles of nearly equal size.
template <int kRegisters>
BITLAB_INLINE void tokens_of(const TernaryGemmArgs& p, const Weights& w, int64_t begin, int64_t end, int64_t row,
                             const int32_t* sums) {
  constexpr int64_t kMost = 5;
  for (int64_t token = begin; token < end;) {
    const int64_t left = end - token, tiles = (left + kMost - 1) / kMost, size = (left + tiles - 1) / tiles;
    const int32_t* own = sums + (token - begin);
    switch (size) {
      case 5:
        some_tokens<kRegisters, 5>(p, w, token, row, own);
        break;
      case 4:
        some_tokens<kRegisters, 4>(p, w, token, row, own);
        break;
      case 3:
        some_tokens<kRegisters, 3>(p, w, token, row, own);
        break;
      case 2:
        some_tokens<kRegisters, 2>(p, w, token, row, own);
        break;
      default:
        one_token<kRegisters>(p, w, token, row, *own);
        break;
    }
    token += size;
  }
}

}  // namespace

void ternary_gemm_x86_avx512vnni(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                                 int64_t row_end) {
  const int64_t steps = (p.depth + kVnStep - 1) / kVnStep;
  int32_t sums[kTokenBlock];
  for (int64_t begin = token_begin; begin < token_end; begin += kTokenBlock) {
    const int64_t end = begin + kTokenBlock < token_end ? begin + kTokenBlock : token_end;
    for (int64_t m = begin; m < end; ++m) sums[m - begin] = sum_of(p.q + m * p.q_stride, steps);
    for (int64_t row = row_begin; row < row_end; row += kVnBlock) {
      const int64_t left = p.rows - row;
      const int64_t units = left >= kVnBlock ? kVnBlock / kVnUnit : (left + kVnUnit - 1) / kVnUnit;
      const Weights w{p.weights + row * steps * (kVnStep / 4), units * 32, steps,
                      static_cast<__mmask8>(units % 2 == 0 ? 0xFF : 0x0F)};
      switch ((units + 1) / 2) {
        case 4:
          tokens_of<4>(p, w, begin, end, row, sums);
          break;
        case 3:
          tokens_of<3>(p, w, begin, end, row, sums);
          break;
        case 2:
          tokens_of<2>(p, w, begin, end, row, sums);
          break;
        default:
          tokens_of<1>(p, w, begin, end, row, sums);
          break;
      }
    }
  }
}

}  // namespace bitlab::kernels
