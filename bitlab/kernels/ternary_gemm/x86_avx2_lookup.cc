// AVX2 for many tokens: every product by table lookup, 16 tokens at a time. No multiplier is used, so the sums are not bound to its speed.
// What is left (rows beyond a multiple of 64, few tokens) goes to x86_avx2.
#include <immintrin.h>

#include "bitlab/kernels/ternary_gemm/internal/lookup.h"

namespace bitlab::kernels {
namespace {

using Table = Lookup<16, 8>;

constexpr int64_t kTokens = 16;      // of a block
constexpr int64_t kBlocks = 4;       // that share a pass's offsets
constexpr int64_t kMostRows = 1024;  // rows whose sums stay in the second-level cache
constexpr int64_t kSteps = 2;        // of 16 k in a pass: eight tables, 20,736 bytes
constexpr int64_t kGroups = 4 * kSteps;

// Scratch of a thread, in this order; kernels.def has the sizes.
struct Scratch {
  uint8_t* tables;    // [kGroups][81][16] int16
  uint16_t* offsets;  // [rows][kGroups]: where a row's entries begin in their tables
  int16_t* narrow;    // [blocks][rows][16]
  int32_t* wide;      // [blocks][rows][16]
  int8_t* q;          // [blocks][k][16]

  explicit Scratch(uint8_t* bytes)
      : tables(bytes),
        offsets(reinterpret_cast<uint16_t*>(tables + kGroups * Table::kTableBytes)),
        narrow(reinterpret_cast<int16_t*>(offsets + kMostRows * kGroups)),
        wide(reinterpret_cast<int32_t*>(narrow + kBlocks * kMostRows * kTokens)),
        q(reinterpret_cast<int8_t*>(wide + kBlocks * kMostRows * kTokens)) {}
};

// Where the entries of 8 rows begin in the tables of a step, [8 rows][4 groups]: each half of a byte, two digits in base 4, becomes its share
// of a number in base 3, times the 32 bytes of an entry.
struct EightRows {
  __m256i low, high;  // rows 0 to 3 and 4 to 7

  BITLAB_INLINE EightRows of(const uint8_t* weights) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights)), half = _mm256_set1_epi8(15);
    const __m256i first = _mm256_shuffle_epi8(_mm256_setr_epi8(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0,  //
                                                               0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0),
                                              _mm256_and_si256(bytes, half));
    const __m256i second = _mm256_shuffle_epi8(_mm256_setr_epi8(0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0,  //
                                                                0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0),
                                               _mm256_and_si256(_mm256_srli_epi16(bytes, 4), half));
    const __m256i index = _mm256_add_epi8(first, second);
    return {_mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(index)), 5),
            _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(index, 1)), 5)};
  }
};
static_assert(Table::kEntryBytes == 1 << 5);

// Four rows of both steps, [4 rows][8 groups].
BITLAB_INLINE void store_four(__m256i first, __m256i second, uint16_t* offsets) {
  const __m256i even = _mm256_unpacklo_epi64(first, second), odd = _mm256_unpackhi_epi64(first, second);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(offsets), _mm256_permute2x128_si256(even, odd, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(offsets + 2 * kGroups), _mm256_permute2x128_si256(even, odd, 0x31));
}

// Offsets of a pass for all rows of a block; a pass of one step has the second one's tables empty and its offsets zero.
BITLAB_NOINLINE void offsets_of_block(const uint8_t* weights, int64_t block_bytes, int64_t rows, bool both,
                                      uint16_t* offsets) {
  constexpr int64_t kStepBytes = kVnBlock * 4;
  for (int64_t row = 0; row < rows; row += kVnBlock, weights += block_bytes)
    for (int64_t r = 0; r < kVnBlock; r += 8, offsets += 8 * kGroups) {
      const EightRows first = EightRows::of(weights + 4 * r);
      const EightRows second =
          both ? EightRows::of(weights + kStepBytes + 4 * r) : EightRows{_mm256_setzero_si256(), _mm256_setzero_si256()};
      store_four(first.low, second.low, offsets);
      store_four(first.high, second.high, offsets + 4 * kGroups);
    }
}

template <int kPass>
BITLAB_NOINLINE void pass(const Scratch& x, int64_t block, int64_t rows) {
  const uint8_t* tables = x.tables;
  const uint16_t* offsets = x.offsets;
  int16_t* narrow = x.narrow + block * kMostRows * kTokens;
  int32_t* wide = x.wide + block * kMostRows * kTokens;
  for (int64_t row = 0; row < rows; ++row, offsets += kGroups, narrow += kTokens, wide += kTokens) {
    Table::Words sum[2] = {Table::begin_row<kPass>(narrow), Table::Words{}};
    BITLAB_UNROLL for (int half = 0; half < 2; ++half) {
      uint64_t four;
      std::memcpy(&four, offsets + 4 * half, sizeof(four));
      asm("" : "+r"(four));
      BITLAB_UNROLL for (int g = 0; g < 4; ++g) {
        Table::Words entry;
        std::memcpy(&entry, tables + (4 * half + g) * Table::kTableBytes + static_cast<uint16_t>(four), sizeof(entry));
        sum[g % 2] += entry;
        four >>= 16;
      }
    }
    Table::end_row<kPass>(sum[0] + sum[1], narrow, wide);
  }
}

// Of the steps s and, where there is one, s + 1 of 16 k each.
void build_tables(const int8_t* q, bool both, uint8_t* tables) {
  uint8_t* second = tables + 4 * Table::kTableBytes;
  Table::build_step(q, tables);
  if (both) {
    Table::build_step(q + kVnStep * kTokens, second);
  } else {
    std::memset(second, 0, 4 * Table::kTableBytes);
  }
}

void tokens_of(const TernaryGemmArgs& p, int64_t token, int64_t tokens, int64_t row_begin, int64_t row_end,
               uint8_t* scratch) {
  const int64_t steps = (p.depth + kVnStep - 1) / kVnStep, depth = steps * kVnStep;
  const Scratch x(scratch);
  const auto for_each_block = [&](const auto& f) __attribute__((always_inline)) {
    for (int64_t block = 0, first = 0; first < tokens; ++block, first += kTokens)
      f(block, token + first, tokens - first < kTokens ? tokens - first : kTokens);
  };
  for_each_block([&](int64_t block, int64_t first, int64_t count) {
    Table::transpose_tokens(p.q + first * p.q_stride, p.q_stride, count, depth, x.q + block * depth * kTokens);
  });
  for (int64_t row = row_begin; row < row_end; row += kMostRows) {
    const int64_t rows = row_end - row < kMostRows ? row_end - row : kMostRows;
    for (int64_t s = 0; s < steps; s += kSteps) {
      const bool both = s + 1 < steps;
      offsets_of_block(p.weights + row * steps * 4 + s * kVnBlock * 4, steps * kVnBlock * 4, rows, both, x.offsets);
      for_each_block([&](int64_t block, int64_t, int64_t) {
        build_tables(x.q + (block * depth + s * kVnStep) * kTokens, both, x.tables);
        with_pass(
            Pass::of(s, kSteps, steps), [&](auto flags)
                                            __attribute__((always_inline)) { pass<flags.value>(x, block, rows); });
      });
    }
    for_each_block([&](int64_t block, int64_t first, int64_t count) {
      Table::finish_rows(p, x.wide + block * kMostRows * kTokens, first, count, row, rows, nullptr, 0);
    });
  }
}

}  // namespace

void ternary_gemm_x86_avx2_lookup(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                                  int64_t row_end, uint8_t* scratch) {
  constexpr int64_t kLeastTokens = 11;  // fewer are multiplied sooner
  const int64_t whole_end = row_begin + (row_end - row_begin) / kVnBlock * kVnBlock;
  int64_t token = token_begin;
  while (whole_end > row_begin) {
    const int64_t left = token_end - token, rest = left % kTokens;
    const int64_t fitting = rest < kLeastTokens ? left - rest : left;
    const int64_t taken = fitting < kBlocks * kTokens ? fitting : kBlocks * kTokens;
    if (taken == 0) break;
    tokens_of(p, token, taken, row_begin, whole_end, scratch);
    token += taken;
  }
  if (token > token_begin && whole_end < row_end) ternary_gemm_x86_avx2(p, token_begin, token, whole_end, row_end, scratch);
  if (token < token_end) ternary_gemm_x86_avx2(p, token, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
