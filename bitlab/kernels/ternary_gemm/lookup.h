// Products by table lookup ("Four Russians"): all 81 signed sums of four activations are tabled once for 16 or 32 tokens and used by every
// row of weights, so that four products cost one addition. Lanes are tokens, int16. Shared by the kernels that look up; compiled into each:
// nothing here has a symbol of its own.
//
// A byte of the kVn layout is a group of four k, 16 step + j + {0, 4, 8, 12}; as a number in base 3 it is the group's index. A pass covers
// kGroups groups; int16 holds the sums of 256 k: 256 x 127 = 32,512 < 2^15, for which |q| <= 127 is needed.
#pragma once

#include "bitlab/kernels/ternary_gemm/epilogue.h"

#define BITLAB_UNROLL _Pragma("GCC unroll 16")

namespace bitlab::kernels {
namespace {

template <int kTokens>
struct Lookup {
  using Words = typename Lanes<kTokens>::Words;
  using Bytes = typename Lanes<kTokens>::Bytes;

  static constexpr int kEntries = 81;
  static constexpr int kEntryBytes = 2 * kTokens;
  static constexpr int kTableBytes = kEntries * kEntryBytes;  // of a group
  static constexpr int64_t kWidenSteps = 16;                  // 256 k

  // q: [4][kTokens] of a group, `stride` bytes from one to the next.
  BITLAB_INLINE void build(const int8_t* q, int64_t stride, uint8_t* table) {
    Words value[4], low[9], high[9];
    BITLAB_UNROLL for (int i = 0; i < 4; ++i) {
      Bytes bytes;
      std::memcpy(&bytes, q + i * stride, sizeof(bytes));
      value[i] = __builtin_convertvector(bytes, Words);
    }
    nine_sums(value[0], value[1], low);
    nine_sums(value[2], value[3], high);
    BITLAB_UNROLL for (int h = 0; h < 9; ++h) BITLAB_UNROLL for (int l = 0; l < 9; ++l) {
      const Words sum = high[h] + low[l];
      std::memcpy(table + (9 * h + l) * kEntryBytes, &sum, sizeof(sum));
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
};

// Four codes in base 4, bytes of words, become numbers in base 3: pairs of digits, then the pair of pairs.
template <class Words>
BITLAB_INLINE Words base3(Words x) {
  const Words pairs = (x & 0x3333) + 3 * ((x >> 2) & 0x3333);
  return (pairs & 0x0F0F) + 9 * ((pairs >> 4) & 0x0F0F);
}

// int8 [tokens, k] with rows `stride` apart to [k, kTokens]; tokens that do not exist become zeros. k in multiples of 16.
template <int kTokens>
BITLAB_INLINE void transpose_tokens(const int8_t* q, int64_t stride, int64_t tokens, int64_t depth, int8_t* out) {
  typedef int8_t Sixteen __attribute__((vector_size(16)));
  for (int64_t k = 0; k < depth; k += 16)
    for (int first = 0; first < kTokens; first += 16) {
      Sixteen rows[16], mixed[16];
      BITLAB_UNROLL for (int i = 0; i < 16; ++i) {
        rows[i] = Sixteen{};
        if (first + i < tokens) std::memcpy(&rows[i], q + (first + i) * stride + k, 16);
      }
      // Interleaving halves four times is a transpose.
      for (int round = 0; round < 4; ++round) {
        BITLAB_UNROLL for (int i = 0; i < 8; ++i) {
          mixed[2 * i] = __builtin_shufflevector(rows[i], rows[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
          mixed[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        }
        BITLAB_UNROLL for (int i = 0; i < 16; ++i) rows[i] = mixed[i];
      }
      BITLAB_UNROLL for (int i = 0; i < 16; ++i) std::memcpy(out + (k + i) * kTokens + first, &rows[i], 16);
    }
}

// 16 x 16 of int32: out[i][j] = in[j][i].
BITLAB_INLINE void transpose_sixteen(const Ints<16>* in, Ints<16>* out) {
  Ints<16> a[16], b[16];
  BITLAB_UNROLL for (int i = 0; i < 16; ++i) a[i] = in[i];
  for (int round = 0; round < 4; ++round) {
    BITLAB_UNROLL for (int i = 0; i < 8; ++i) {
      b[2 * i] = __builtin_shufflevector(a[i], a[i + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      b[2 * i + 1] = __builtin_shufflevector(a[i], a[i + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    BITLAB_UNROLL for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  BITLAB_UNROLL for (int i = 0; i < 16; ++i) out[i] = a[i];
}

}  // namespace
}  // namespace bitlab::kernels
