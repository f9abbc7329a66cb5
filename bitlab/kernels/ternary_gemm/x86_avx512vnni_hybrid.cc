// AVX-512 VNNI for many tokens: some products by table lookup, on the load ports and adders, the others by vpdpbusd, on the multipliers, in
// one stream of instructions. Together they pass the multipliers' peak.
//
// Of a full block of 64 tokens 32 are looked up and 32 multiplied. In a smaller last block k is split: the first part of every token's k is
// looked up, the rest multiplied, and the two sums added. Both halves read the same weights. What neither serves (rows beyond a multiple of
// 64, few tokens) goes to x86_avx512vnni.
#include "bitlab/kernels/ternary_gemm/internal/lookup.h"
#include "bitlab/kernels/ternary_gemm/internal/x86_avx512.h"

namespace bitlab::kernels {
namespace {

constexpr int64_t kMostRows = 2048;  // rows whose sums stay in the second-level cache
constexpr int64_t kTileTokens = 4;
constexpr int64_t kTileBytes = kTileTokens * kVnStep;  // q of a tile in a step

// Scratch of a thread, in this order; kernels.def has the sizes.
template <int kLanes>
struct Scratch {
  static constexpr int kSteps = 32 / kLanes;  // of 16 k in a pass: tables of 20,736 bytes either way
  static constexpr int64_t kIndexBytes = kMostRows * 4;

  int32_t* sums;       // of q, [64]
  uint8_t* tables;     // [4 kSteps][81][kLanes] int16
  int32_t* tile;       // [4 registers][4 tokens][16]: the tile that is being multiplied
  uint8_t* index;      // [kSteps][rows][4]: tables' entries
  int16_t* narrow;     // [rows][kLanes]
  int32_t* wide;       // [rows][kLanes]
  int32_t* products;   // [32 tokens][rows]: multiplied parts of split k
  int8_t* looked_up;   // q, [k][kLanes]
  int8_t* multiplied;  // q, [tokens / 4][steps][4][16]

  Scratch(uint8_t* bytes, int64_t depth) {
    const auto take = [&](int64_t size) {
      uint8_t* at = bytes;
      bytes += (size + 63) / 64 * 64;
      return at;
    };
    sums = reinterpret_cast<int32_t*>(take(sums_bytes(depth, 0)));
    tables = take(4 * kSteps * Lookup<kLanes, 16>::kTableBytes);
    tile = reinterpret_cast<int32_t*>(take(16 * 64));
    index = take(kSteps * kIndexBytes + 64);
    narrow = reinterpret_cast<int16_t*>(take(kMostRows * kLanes * 2));
    wide = reinterpret_cast<int32_t*>(take(kMostRows * kLanes * 4));
    products = reinterpret_cast<int32_t*>(take(32 * kMostRows * 4));
    looked_up = reinterpret_cast<int8_t*>(take(32 * depth));
    multiplied = reinterpret_cast<int8_t*>(take(32 * depth));
  }
};

// The tiles, 64 rows x 4 tokens, that are to be multiplied for a block of rows; handed out in pieces of some steps.
class Tiles {
 public:
  // `steps` of the weights from `first_step` on. Finished sums go through the epilogue, or as int32 to products [tokens][kMostRows].
  Tiles(const TernaryGemmArgs& p, int64_t token, int64_t tokens, int64_t row, int64_t rows, int64_t first_step,
        int64_t steps, const int8_t* q, const int32_t* sums, int32_t* tile, int32_t* products)
      : p_(p),
        weights_(p.weights + row * row_bytes() + first_step * kVnBlock * 4),
        q_(q),
        sums_(sums),
        tile_(tile),
        products_(products),
        token_(token),
        tokens_(tokens),
        row_(row),
        blocks_(rows / kVnBlock),
        steps_(steps),
        count_(steps == 0 ? 0 : blocks_ * ((tokens + kTileTokens - 1) / kTileTokens)) {
    if (!done()) start();
  }

  bool done() const { return number_ == count_; }
  int64_t left() const { return steps_ - step_; }  // steps of the current tile
  int32_t* tile() const { return tile_; }
  const uint8_t* weights() const { return weights_ + number_ % blocks_ * kVnBlock * row_bytes() + step_ * kVnBlock * 4; }
  const int8_t* q() const { return q_ + (number_ / blocks_ * steps_ + step_) * kTileBytes; }
  void advance(int64_t steps) {
    step_ += steps;
    if (step_ < steps_) return;
    put(*this);
    ++number_;
    if (!done()) start();
  }

 private:
  int64_t row_bytes() const { return (p_.depth + kVnStep - 1) / kVnStep * 4; }
  void start() {
    step_ = 0;
    for (int i = 0; i < 16; ++i) {
      const int64_t token = number_ / blocks_ * kTileTokens + i % 4;
      const Ints<16> start = all_ints<16>(token < tokens_ ? -sums_[token] : 0);
      std::memcpy(tile_ + 16 * i, &start, sizeof(start));
    }
  }
  BITLAB_NOINLINE void put(const Tiles& tiles) {
    const int64_t first = tiles.number_ / tiles.blocks_ * kTileTokens, row = tiles.number_ % tiles.blocks_ * kVnBlock;
    const int64_t tokens = tiles.tokens_ - first < kTileTokens ? tiles.tokens_ - first : kTileTokens;
    for (int64_t r = 0; r < 4; ++r) {
      const int32_t* sums = tiles.tile_ + 16 * 4 * r;
      if (tiles.products_ != nullptr) {
        for (int64_t t = 0; t < tokens; ++t)
          std::memcpy(tiles.products_ + (first + t) * kMostRows + row + 16 * r, sums + 16 * t, 64);
        continue;
      }
      const auto constants = RowConstants<16>::of(tiles.p_, tiles.row_ + row + 16 * r);
      finish_sums<16>(
          tiles.p_, constants, tiles.token_ + first, tokens, [sums](int64_t t) __attribute__((always_inline)) {
            Ints<16> sum;
            std::memcpy(&sum, sums + 16 * t, sizeof(sum));
            return sum;
          });
    }
  }

  const TernaryGemmArgs& p_;
  const uint8_t* weights_;
  const int8_t* q_;
  const int32_t* sums_;
  int32_t* tile_;
  int32_t* products_;
  int64_t token_, tokens_, row_, blocks_, steps_, count_, number_ = 0, step_ = 0;
};

BITLAB_INLINE void load_tile(const int32_t* tile, __m512i (&c)[4][4]) {
  BITLAB_UNROLL for (int i = 0; i < 16; ++i) c[i / 4][i % 4] = _mm512_loadu_si512(tile + 16 * i);
}
BITLAB_INLINE void store_tile(const __m512i (&c)[4][4], int32_t* tile) {
  BITLAB_UNROLL for (int i = 0; i < 16; ++i) _mm512_storeu_si512(tile + 16 * i, c[i / 4][i % 4]);
}
// One field of a step for one of the four tokens.
BITLAB_INLINE void multiply_token(__m512i (&c)[4][4], const __m512i (&codes)[4], const int8_t* q, int token) {
  const __m512i q4 = Avx512::broadcast4(q);
  BITLAB_UNROLL for (int r = 0; r < 4; ++r) {
    c[r][token] = _mm512_dpbusd_epi32(c[r][token], codes[r], q4);
    BITLAB_KEEP(c[r][token]);
  }
}
BITLAB_INLINE void take_field(__m512i (&x)[4], __m512i (&codes)[4], int f) {
  BITLAB_UNROLL for (int r = 0; r < 4; ++r) {
    codes[r] = Avx512::field(x[r]);
    if (f < 3) x[r] = Avx512::next(x[r]);
  }
}

// What is left when all lookups are done.
BITLAB_NOINLINE void multiply_rest(Tiles& tiles) {
  while (!tiles.done()) {
    __m512i c[4][4];
    load_tile(tiles.tile(), c);
    const uint8_t* weights = tiles.weights();
    const int8_t* q = tiles.q();
    const int64_t steps = tiles.left();
    for (int64_t s = 0; s < steps; ++s, weights += 256, q += kTileBytes) {
      __m512i x[4], codes[4];
      BITLAB_UNROLL for (int r = 0; r < 4; ++r) x[r] = _mm512_loadu_si512(weights + 64 * r);
      BITLAB_UNROLL for (int f = 0; f < 4; ++f) {
        take_field(x, codes, f);
        BITLAB_UNROLL for (int t = 0; t < 4; ++t) multiply_token(c, codes, q + t * 16 + f * 4, t);
      }
    }
    store_tile(c, tiles.tile());
    tiles.advance(steps);
  }
}

template <int kLanes>
struct Hybrid {
  using Table = Lookup<kLanes, 16>;
  using Words = typename Table::Words;
  static constexpr int kSteps = Scratch<kLanes>::kSteps;
  static constexpr int64_t kIndexBytes = Scratch<kLanes>::kIndexBytes;

  // The row's sum over half of its groups in a pass: two tables (32 lanes), or the four of a step (16 lanes).
  template <int kHalf>
  BITLAB_INLINE void look_up(Words& sum, const uint8_t* index, const uint8_t* tables) {
    constexpr int kFirst = kHalf * 2 * kSteps;
    constexpr uint64_t kSpread =
        kLanes == 32 ? 0x3FC03FC03FC03FC0 : 0x1FE01FE01FE01FE0;  // an entry's index times its bytes, in 16 bits
    uint32_t entries = 0;
    if constexpr (kLanes == 32) {
      uint16_t two;
      std::memcpy(&two, index + 2 * kHalf, 2);
      entries = two;
    } else {
      std::memcpy(&entries, index + kHalf * kIndexBytes, 4);
    }
    uint64_t offsets = _pdep_u64(entries, kSpread);
    asm("" : "+r"(offsets));
    BITLAB_UNROLL for (int g = 0; g < 2 * kSteps; ++g) {
      Words entry;
      std::memcpy(&entry, tables + (kFirst + g) * Table::kTableBytes + static_cast<uint16_t>(offsets), sizeof(entry));
      sum += entry;
      offsets >>= 16;
    }
    BITLAB_KEEP(sum);
  }

  // `count` times 8 rows of lookups and one step of a tile.
  template <int kPass>
  BITLAB_NOINLINE void both(const uint8_t* index, const uint8_t* tables, int16_t* narrow, int32_t* wide, int64_t count,
                            const uint8_t* weights, const int8_t* q, int32_t* tile) {
    __m512i c[4][4];
    load_tile(tile, c);
    do {
      __m512i x[4], codes[4];
      BITLAB_UNROLL for (int r = 0; r < 4; ++r) {
        x[r] = _mm512_loadu_si512(weights + 64 * r);
        _mm_prefetch(reinterpret_cast<const char*>(weights) + 4096 + 64 * r, _MM_HINT_T1);
      }
      BITLAB_UNROLL for (int f = 0; f < 4; ++f) {
        take_field(x, codes, f);
        BITLAB_UNROLL for (int pair = 0; pair < 2; ++pair) {
          const int row = 2 * f + pair;
          multiply_token(c, codes, q + 2 * pair * 16 + f * 4, 2 * pair);
          Words sum = Table::template begin_row<kPass>(narrow + row * kLanes);
          look_up<0>(sum, index + row * 4, tables);
          multiply_token(c, codes, q + (2 * pair + 1) * 16 + f * 4, 2 * pair + 1);
          look_up<1>(sum, index + row * 4, tables);
          Table::template end_row<kPass>(sum, narrow + row * kLanes, wide + row * kLanes);
        }
      }
      weights += 256;
      q += kTileBytes;
      index += 32;
      narrow += 8 * kLanes;
      wide += 8 * kLanes;
    } while (--count != 0);
    store_tile(c, tile);
  }

  template <int kPass>
  BITLAB_NOINLINE void rows_only(const uint8_t* index, const uint8_t* tables, int16_t* narrow, int32_t* wide, int64_t rows) {
    for (int64_t row = 0; row < rows; ++row) {
      Words sum = Table::template begin_row<kPass>(narrow + row * kLanes);
      look_up<0>(sum, index + row * 4, tables);
      look_up<1>(sum, index + row * 4, tables);
      Table::template end_row<kPass>(sum, narrow + row * kLanes, wide + row * kLanes);
    }
  }

  template <int kPass>
  BITLAB_INLINE void pass(const Scratch<kLanes>& x, Tiles& tiles, int64_t rows) {
    int64_t row = 0;
    while (row < rows && !tiles.done()) {
      const int64_t blocks = (rows - row) / 8, count = blocks < tiles.left() ? blocks : tiles.left();
      both<kPass>(x.index + row * 4, x.tables, x.narrow + row * kLanes, x.wide + row * kLanes, count, tiles.weights(),
                  tiles.q(), x.tile);
      row += 8 * count;
      tiles.advance(count);
    }
    if (row < rows)
      rows_only<kPass>(x.index + row * 4, x.tables, x.narrow + row * kLanes, x.wide + row * kLanes, rows - row);
  }

  // Entries' indices of a step for all rows of a block: each half of a byte, two digits in base 4, becomes its share of a number in base 3.
  BITLAB_NOINLINE void indices(const uint8_t* weights, int64_t block_bytes, int64_t rows, uint8_t* index) {
    const __m512i low = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8, 0, 0, 0, 0, 0)),
                  high = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 9, 18, 0, 27, 36, 45, 0, 54, 63, 72, 0, 0, 0, 0, 0)),
                  half = _mm512_set1_epi8(15);
    for (int64_t row = 0; row < rows; row += kVnBlock, weights += block_bytes, index += 256)
      BITLAB_UNROLL for (int r = 0; r < 4; ++r) {
        _mm_prefetch(reinterpret_cast<const char*>(weights) + 256 + 64 * r, _MM_HINT_T1);
        const __m512i bytes = _mm512_loadu_si512(weights + 64 * r);
        const __m512i first = _mm512_shuffle_epi8(low, _mm512_and_si512(bytes, half)),
                      second = _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), half));
        _mm512_storeu_si512(index + 64 * r, _mm512_add_epi8(first, second));
      }
  }

  // q of the multiplied tokens as tiles read them, and its sums.
  BITLAB_INLINE void arrange(const int8_t* q, int64_t stride, int64_t tokens, int64_t steps, const Scratch<kLanes>& x) {
    for (int64_t t = 0; t < (tokens + 3) / 4 * 4; ++t) {
      int8_t* out = x.multiplied + t / 4 * steps * kTileBytes + t % 4 * 16;
      __m128i total = _mm_setzero_si128();
      for (int64_t s = 0; s < steps; ++s) {
        const __m128i sixteen = t < tokens ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + t * stride + s * kVnStep))
                                           : _mm_setzero_si128();
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + s * kTileBytes), sixteen);
        total = _mm_dpbusd_epi32(total, _mm_set1_epi8(1), sixteen);
      }
      total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0x4E));
      total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0xB1));
      x.sums[t] = _mm_cvtsi128_si32(total);
    }
  }

  // kLanes looked-up tokens and as many multiplied ones, or up to kLanes tokens whose k is split.
  BITLAB_INLINE void tokens_of(const TernaryGemmArgs& p, int64_t token, int64_t tokens, int64_t row_begin, int64_t row_end,
                               uint8_t* scratch) {
    const bool split = tokens < 2 * kLanes;
    const int64_t steps = (p.depth + kVnStep - 1) / kVnStep, looked_tokens = split ? tokens : kLanes;
    // Both parts take the same time where a token's lookups, for kLanes tokens at once, are as many as the tiles of 4 tokens.
    const int64_t in_tiles = (tokens + kTileTokens - 1) / kTileTokens * kTileTokens;
    int64_t looked = split ? (steps * in_tiles + (kLanes + in_tiles) / 2) / (kLanes + in_tiles) / kSteps * kSteps : steps;
    if (looked < kSteps) looked = kSteps;
    const int64_t multiplied = split ? steps - looked : steps, first_step = split ? looked : 0;
    const int64_t multiplied_token = split ? token : token + kLanes;
    const Scratch<kLanes> x(scratch, steps * kVnStep);
    Table::transpose_tokens(p.q + token * p.q_stride, p.q_stride, looked_tokens, looked * kVnStep, x.looked_up);
    arrange(p.q + multiplied_token * p.q_stride + first_step * kVnStep, p.q_stride, looked_tokens, multiplied, x);
    for (int64_t row = row_begin; row < row_end; row += kMostRows) {
      const int64_t rows = row_end - row < kMostRows ? row_end - row : kMostRows;
      Tiles tiles(p, multiplied_token, looked_tokens, row, rows, first_step, multiplied, x.multiplied, x.sums, x.tile,
                  split ? x.products : nullptr);
      for (int64_t s = 0; s < looked; s += kSteps) {
        for (int i = 0; i < kSteps; ++i) {
          indices(p.weights + row * steps * 4 + (s + i) * kVnBlock * 4, steps * kVnBlock * 4, rows,
                  x.index + i * kIndexBytes);
          Table::build_step(x.looked_up + (s + i) * kVnStep * kLanes, x.tables + i * 4 * Table::kTableBytes);
        }
        with_pass(
            Pass::of(s, kSteps, looked), [&](auto flags)
                                             __attribute__((always_inline)) { pass<flags.value>(x, tiles, rows); });
      }
      multiply_rest(tiles);
      Table::finish_rows(p, x.wide, token, looked_tokens, row, rows, split ? x.products : nullptr, kMostRows);
    }
  }
};

}  // namespace

void ternary_gemm_x86_avx512vnni_hybrid(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                                        int64_t row_end, uint8_t* scratch) {
  constexpr int64_t kLeastTokens = 8, kLeastDepth = 64;
  const int64_t whole_end = row_begin + (row_end - row_begin) / kVnBlock * kVnBlock;
  int64_t token = token_begin;
  if (p.depth >= kLeastDepth && whole_end > row_begin) {
    while (token_end - token >= kLeastTokens) {
      const int64_t left = token_end - token;
      int64_t taken = 64;
      if (left >= 64) {
        Hybrid<32>::tokens_of(p, token, taken, row_begin, whole_end, scratch);
      } else if (left >= 24) {
        taken = left < 32 ? left : 32;
        Hybrid<32>::tokens_of(p, token, taken, row_begin, whole_end, scratch);
      } else {
        taken = left < 16 ? left : 16;
        Hybrid<16>::tokens_of(p, token, taken, row_begin, whole_end, scratch);
      }
      token += taken;
    }
    if (token > token_begin && whole_end < row_end)
      ternary_gemm_x86_avx512vnni(p, token_begin, token, whole_end, row_end, scratch);
  }
  if (token < token_end) ternary_gemm_x86_avx512vnni(p, token, token_end, row_begin, row_end, scratch);
}

}  // namespace bitlab::kernels
