// Products by table lookup ("Four Russians"): all 81 signed sums of four activations are tabled once for 16 or 32 tokens and used by every
// row of weights, so that four products cost one addition. Lanes are tokens, int16. Shared by the kernels that look up; compiled into each:
// nothing here has a symbol of its own.
//
// A byte of the kVn layout is a group of four k, 16 step + j + {0, 4, 8, 12}; as a number in base 3 it is the group's index. int16 holds the
// sums of 256 k: 256 x 127 = 32,512 < 2^15, for which |q| <= 127 is needed.
#pragma once

#include "bitlab/kernels/ternary_gemm/internal/vn_tile.h"

namespace bitlab::kernels {
namespace {

// What a pass over some groups finds of a row's sums, and leaves.
struct Pass {
  static constexpr int kAdd = 1;      // add to the int16 sums of earlier passes
  static constexpr int kWiden = 2;    // leave int32 sums, the first ones
  static constexpr int kAddWide = 4;  // add to the int32 sums

  // Of the pass over the steps [step, step + steps) of `end`.
  static int of(int64_t step, int64_t steps, int64_t end) {
    constexpr int64_t kWidenSteps = 16;  // 256 k
    const bool last = (step + steps) % kWidenSteps == 0 || step + steps >= end;
    return (step % kWidenSteps != 0 ? kAdd : 0) | (!last ? 0 : step < kWidenSteps ? kWiden : kAddWide);
  }
};

// Calls f(Count<pass>).
template <class F>
BITLAB_INLINE void with_pass(int pass, const F& f) {
  switch (pass) {
    case 0:
      return f(Count<0>{});
    case Pass::kAdd:
      return f(Count<Pass::kAdd>{});
    case Pass::kWiden:
      return f(Count<Pass::kWiden>{});
    case Pass::kAdd | Pass::kWiden:
      return f(Count<Pass::kAdd | Pass::kWiden>{});
    case Pass::kAddWide:
      return f(Count<Pass::kAddWide>{});
    default:
      return f(Count<Pass::kAdd | Pass::kAddWide>{});
  }
}

// kWide: lanes of int32 that a register has.
template <int kTokens, int kWide>
struct Lookup {
  using Words = typename Lanes<kTokens>::Words;
  using Bytes = typename Lanes<kTokens>::Bytes;

  static constexpr int kEntries = 81;
  static constexpr int kEntryBytes = 2 * kTokens;
  static constexpr int kTableBytes = kEntries * kEntryBytes;  // of a group

  // The tables of a step's four groups; q: [16][kTokens].
  BITLAB_NOINLINE void build_step(const int8_t* q, uint8_t* tables) {
    for (int group = 0; group < 4; ++group, q += kTokens, tables += kTableBytes) {
      Words value[4], low[9], high[9];
      BITLAB_UNROLL for (int i = 0; i < 4; ++i) {
        Bytes bytes;
        std::memcpy(&bytes, q + i * 4 * kTokens, sizeof(bytes));
        value[i] = __builtin_convertvector(bytes, Words);
      }
      nine_sums(value[0], value[1], low);
      nine_sums(value[2], value[3], high);
      BITLAB_UNROLL for (int h = 0; h < 9; ++h) BITLAB_UNROLL for (int l = 0; l < 9; ++l) {
        const Words sum = high[h] + low[l];
        std::memcpy(tables + (9 * h + l) * kEntryBytes, &sum, sizeof(sum));
      }
    }
  }

  template <int kPass>
  BITLAB_INLINE Words begin_row(const int16_t* narrow) {
    Words sum{};
    if constexpr ((kPass & Pass::kAdd) != 0) std::memcpy(&sum, narrow, sizeof(sum));
    return sum;
  }
  template <int kPass>
  BITLAB_INLINE void end_row(Words sum, int16_t* narrow, int32_t* wide) {
    if constexpr (kPass < Pass::kWiden) {
      std::memcpy(narrow, &sum, sizeof(sum));
    } else {
      typename Lanes<kWide>::Words parts[kTokens / kWide];
      std::memcpy(parts, &sum, sizeof(sum));
      BITLAB_UNROLL for (int i = 0; i < kTokens / kWide; ++i) {
        Ints<kWide> total = __builtin_convertvector(parts[i], Ints<kWide>), before;
        if constexpr ((kPass & Pass::kAddWide) != 0) {
          std::memcpy(&before, wide + kWide * i, sizeof(before));
          total += before;
        }
        std::memcpy(wide + kWide * i, &total, sizeof(total));
      }
    }
  }

  // The int32 sums of `rows` rows, [rows][kTokens], to results; where `rest` is given, [tokens][rest_stride], it is added.
  BITLAB_NOINLINE void finish_rows(const TernaryGemmArgs& p, const int32_t* wide, int64_t token, int64_t tokens, int64_t row,
                                   int64_t rows, const int32_t* rest, int64_t rest_stride) {
    for (int64_t r = 0; r < rows; r += kWide) {
      const auto constants = RowConstants<kWide>::of(p, row + r);
      for (int64_t first = 0; first < tokens; first += kWide) {
        Ints<kWide> square[kWide];
        BITLAB_UNROLL for (int i = 0; i < kWide; ++i)
            std::memcpy(&square[i], wide + (r + i) * kTokens + first, sizeof(square[i]));
        transpose(square);
        const int64_t count = tokens - first < kWide ? tokens - first : kWide;
        if (rest != nullptr)
          for (int64_t t = 0; t < count; ++t) {
            Ints<kWide> added;
            std::memcpy(&added, rest + (first + t) * rest_stride + r, sizeof(added));
            square[t] += added;
          }
        finish_sums<kWide>(
            p, constants, token + first, count, [&square](int64_t t) __attribute__((always_inline)) { return square[t]; });
      }
    }
  }

  // int8 [tokens, k] with rows `stride` apart to [k, kTokens]; tokens that do not exist become zeros. k in multiples of 16.
  BITLAB_NOINLINE void transpose_tokens(const int8_t* q, int64_t stride, int64_t tokens, int64_t depth, int8_t* out) {
    for (int64_t k = 0; k < depth; k += 16)
      for (int first = 0; first < kTokens; first += 16) {
        typename Lanes<16>::Bytes square[16];
        BITLAB_UNROLL for (int i = 0; i < 16; ++i) {
          square[i] = typename Lanes<16>::Bytes{};
          if (first + i < tokens) std::memcpy(&square[i], q + (first + i) * stride + k, 16);
        }
        transpose(square);
        BITLAB_UNROLL for (int i = 0; i < 16; ++i) std::memcpy(out + (k + i) * kTokens + first, &square[i], 16);
      }
  }

 private:
  // sums[3 j + i] = (j - 1) b + (i - 1) a
  BITLAB_INLINE void nine_sums(Words a, Words b, Words (&sums)[9]) {
    const Words zero{};
    sums[0] = zero - a - b;
    sums[1] = zero - b;
    sums[2] = a - b;
    sums[3] = zero - a;
    sums[4] = zero;
    sums[5] = a;
    sums[6] = b - a;
    sums[7] = b;
    sums[8] = a + b;
  }

#if defined(__AVX2__)
  // By instructions that work within halves of a register, which change places behind it.
  BITLAB_INLINE void transpose_halves(__m256 (&rows)[8]) {
    __m256 pairs[8], quads[8];
    BITLAB_UNROLL for (int i = 0; i < 8; i += 2) {
      pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    BITLAB_UNROLL for (int i = 0; i < 8; i += 4) BITLAB_UNROLL for (int j = 0; j < 2; ++j) {
      quads[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
      quads[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xEE);
    }
    BITLAB_UNROLL for (int i = 0; i < 4; ++i) {
      rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
      rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
  }
#endif

  // Of as many vectors as they have lanes: interleaving the halves as often as the number of lanes has bits.
  template <class Vector, int kSize>
  BITLAB_INLINE void transpose(Vector (&rows)[kSize]) {
    static_assert(kSize == 8 || kSize == 16);
#if defined(__AVX2__)
    if constexpr (kSize == 8 && sizeof(Vector) == 32) {
      transpose_halves(reinterpret_cast<__m256(&)[8]>(rows));
      return;
    }
#endif
    Vector mixed[kSize];
    for (int bits = kSize; bits > 1; bits /= 2) {
      BITLAB_UNROLL for (int i = 0; i < kSize / 2; ++i) {
        const Vector &a = rows[i], &b = rows[i + kSize / 2];
        if constexpr (kSize == 8) {
          mixed[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
          mixed[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
        } else {
          mixed[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
          mixed[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
      }
      BITLAB_UNROLL for (int i = 0; i < kSize; ++i) rows[i] = mixed[i];
    }
  }
};

}  // namespace
}  // namespace bitlab::kernels
