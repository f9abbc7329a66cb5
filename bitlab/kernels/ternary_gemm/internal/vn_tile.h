// The product on the kVn layout, one source for every instruction set: tiles of rows and tokens whose sums stay in registers. A register
// holds some rows times 4 k, as codes 0, 1, 2; the excess of one q per product, the sum of q, is subtracted. Compiled into each kernel:
// nothing here has a symbol of its own.
//
// An instruction set is a struct with
//   kRows                rows in a register
//   kRegisters, kTokens  the largest tile; kOneTokenRegisters: the largest for one token
//   kFreeMask            whether loading some rows costs no more than loading all
//   kWiden               steps of 16 k that a Sum holds without wrapping, where products are at most 2 x 127
//   Codes, Quads, Sum    registers: codes, 4 q of a token repeated, sums
//   load, load_some      codes of kRows rows, or of the first ones, given as Some = some(count)
//   field, next          the lowest field of each byte; the codes with the next field lowest
//   low_bits             the lowest bit of each field
//   broadcast4, dot      4 q; sum += codes times q, four products a row
//   widen                the sums as int32, a row a lane
//   sum_from             where sums are int32 all the way: a Sum that begins with these, so that what is subtracted takes no registers of its own
//   sum_of               the sum of q over steps
//   sums_of_four         where that is quicker: those of four tokens
//   load_halves          float16 values of consecutive rows
//   kFinishesShort       whether products of few steps are finished in registers
//   kFewTokens           up to how many tokens there is few_tokens, a tile of its own; 0: there is none
//   kHasPairs            whether there is multiply_pairs, for tokens two by two
//   kInt8                whether weights are int8 (int8_gemm): a register for each 4 k of a step, instead of fields
//   kExcess              what codes are more than their weights: 1; times the sum of q it is subtracted
#pragma once

#include <utility>

#include "bitlab/kernels/ternary_gemm/epilogue.h"

#define BITLAB_UNROLL BITLAB_UNROLL_TOKENS

namespace bitlab::kernels {
namespace {

// What scales the sums of a row: one scale (kPlain), two (kAsymmetric), or one for each group of k.
enum class Scales { kPlain, kAsymmetric, kGroups };

// Rows of a tile: `first` points at the tile's first byte in step 0; `rows` of them exist.
struct VnWeights {
  const uint8_t* first;
  int64_t step_bytes;
  int64_t steps;
  int64_t rows;
};

// A token's q in one run, or in several (TernaryGemmArgs::run).
struct Runs {
  int64_t steps, stride;

  BITLAB_INLINE Runs of(const TernaryGemmArgs& p, int64_t steps) {
    return p.run == 0 ? Runs{steps, 0} : Runs{p.run / kVnStep, p.run_stride};
  }
  // The end of the run that `step` lies in, and where q would begin if all of it lay like that run.
  int64_t end(int64_t step) const { return (step / steps + 1) * steps; }
  const int8_t* origin(const int8_t* q, int64_t step) const { return q + step / steps * (stride - steps * kVnStep); }
};

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

// Whether tiles are of one size and of singles alone: slower for what is left over, and half the code.
#ifdef BITLAB_FEW_TILES
inline constexpr bool kFewTiles = true;
#else
inline constexpr bool kFewTiles = false;
#endif

// Calls f(Count<n>) for n in [1, kMost]; where there are few tiles, n is 1 or kMost.
template <int kMost, class F>
BITLAB_INLINE void with_count(int64_t n, const F& f) {
  if constexpr (kMost > 1) {
    if (n < kMost) {
      with_count<kFewTiles ? 1 : kMost - 1>(n, f);
      return;
    }
  }
  f(Count<kMost>{});
}

// The codes of a step; the last register holds the rows of `last`, or kRows where kWhole.
template <class Isa, int kRegs, bool kWhole>
BITLAB_INLINE void load_codes(typename Isa::Codes (&x)[kRegs], const uint8_t* bytes, typename Isa::Some last) {
  BITLAB_UNROLL for (int r = 0; r + 1 < kRegs; ++r) x[r] = Isa::load(bytes + 4 * Isa::kRows * r);
  const uint8_t* last_bytes = bytes + 4 * Isa::kRows * (kRegs - 1);
  x[kRegs - 1] = kWhole ? Isa::load(last_bytes) : Isa::load_some(last_bytes, last);
}

// A product with one token waits for memory: asks for the lines of a later step.
inline constexpr int64_t kPrefetchBytes = 8192;
template <int kBytes>
BITLAB_INLINE void prefetch(const uint8_t* bytes) {
  BITLAB_UNROLL for (int line = 0; line < kBytes; line += 64) __builtin_prefetch(bytes + kPrefetchBytes + line);
}

// sum[r][t] += the products of the steps [begin, end); kBits: with the lowest bits of the codes instead, into `bits`, too.
template <class Isa, int kRegs, int kToks, bool kWhole, bool kBits>
BITLAB_INLINE void multiply(typename Isa::Sum (&sum)[kRegs][kToks], typename Isa::Sum (&bits)[kRegs][kToks],
                            const VnWeights& w, const int8_t* q, int64_t q_stride, int64_t begin, int64_t end) {
  if constexpr (Isa::kHasPairs && kToks % 2 == 0 && !kBits) {
    Isa::template multiply_pairs<kRegs, kToks, kWhole>(sum, w, q, q_stride, begin, end);
    return;
  }
  const typename Isa::Some last = Isa::some(w.rows - Isa::kRows * (kRegs - 1));
  const int64_t step_bytes = w.step_bytes;
  const uint8_t* bytes = w.first + begin * step_bytes;
  for (int64_t s = begin; s < end; ++s, bytes += step_bytes) {
    typename Isa::Codes x[kRegs];
    if constexpr (!Isa::kInt8) load_codes<Isa, kRegs, kWhole>(x, bytes, last);
    if constexpr (kToks == 1 && !Isa::kInt8) {  // q stays in registers, codes pass
      prefetch<4 * Isa::kRows * kRegs>(bytes);
      typename Isa::Quads q4[4];
      BITLAB_UNROLL for (int f = 0; f < 4; ++f) q4[f] = Isa::broadcast4(q + s * kVnStep + 4 * f);
      BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int f = 0; f < 4; ++f) {
        const typename Isa::Codes codes = Isa::field(x[r]);
        if (f < 3) x[r] = Isa::next(x[r]);
        Isa::dot(sum[r][0], codes, q4[f]);
        if constexpr (kBits) Isa::dot(bits[r][0], Isa::low_bits(codes), q4[f]);
      }
      continue;
    }
    BITLAB_UNROLL for (int f = 0; f < 4; ++f) {
      typename Isa::Codes codes[kRegs];
      if constexpr (Isa::kInt8) {
        load_codes<Isa, kRegs, kWhole>(codes, bytes + f * (step_bytes / 4), last);
      } else {
        BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) {
          codes[r] = Isa::field(x[r]);
          if (f < 3) x[r] = Isa::next(x[r]);
        }
      }
      BITLAB_UNROLL for (int t = 0; t < kToks; ++t) {
        const typename Isa::Quads q4 = Isa::broadcast4(q + t * q_stride + s * kVnStep + 4 * f);
        BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) {
          Isa::dot(sum[r][t], codes[r], q4);
          if constexpr (kBits) Isa::dot(bits[r][t], Isa::low_bits(codes[r]), q4);
        }
      }
    }
  }
}

// What tiles leave for kRows rows of a token.
template <int kRows, Scales kScales>
struct Finished {
  Ints<kRows> sum;
};
template <int kRows>
struct Finished<kRows, Scales::kAsymmetric> {
  Ints<kRows> sum, magnitude;
};
template <int kRows>
struct Finished<kRows, Scales::kGroups> {
  Floats<kRows> total;
};

// done: [tokens][registers]. Out of line: inlined into every size of tile it would be most of the code. For many tokens at once, since what belongs to rows is
// loaded once.
template <int kRows, Scales kScales>
BITLAB_NOINLINE void finish_tiles(const TernaryGemmArgs& p, const Finished<kRows, kScales>* done, int registers,
                                  int64_t tokens, int64_t token, int64_t row) {
  for (int r = 0; r < registers; ++r) {
    const auto constants = RowConstants<kRows>::of(p, row + r * kRows);
    const auto* own = done + r;
    if constexpr (kScales == Scales::kPlain) {
      finish_sums<kRows>(
          p, constants, token, tokens, [=](int64_t t) __attribute__((always_inline)) { return own[t * registers].sum; });
      continue;
    }
    for (int64_t t = 0; t < tokens; ++t, own += registers) {
      if constexpr (kScales == Scales::kGroups) finish_groups<kRows>(p, constants, own->total, token + t);
      if constexpr (kScales == Scales::kAsymmetric)
        finish_two_sums<kRows>(p, constants, own->sum, own->magnitude, token + t);
    }
  }
}

// kRegs registers of rows times kToks tokens. sums: of q, [group][kSumTokens]. Out of line, so that each has the registers to itself.
template <class Isa, int kRegs, int kToks, bool kWhole, Scales kScales>
BITLAB_NOINLINE void tile(const TernaryGemmArgs& p, const VnWeights& w, int64_t token, int64_t row, const int32_t* sums,
                          Finished<Isa::kRows, kScales>* done) {
  constexpr int kRows = Isa::kRows;
  constexpr bool kTwo = kScales == Scales::kAsymmetric, kGrouped = kScales == Scales::kGroups;
  constexpr bool kStarts = requires(Ints<kRows> values) { Isa::sum_from(values); };
  const int8_t* q = p.q + token * p.q_stride;
  const int64_t group_steps = kGrouped ? p.group / kVnStep : w.steps;
  const Runs runs = Runs::of(p, w.steps);
  Ints<kRows> acc[kRegs][kToks], odd[kRegs][kToks];
  Floats<kRows> total[kRegs][kToks];
  if constexpr (kGrouped)
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks; ++t) total[r][t] =
        Floats<kRows>{};
  for (int64_t first = 0, group = 0; first < w.steps; first += group_steps, ++group) {
    const int64_t last = first + group_steps < w.steps ? first + group_steps : w.steps;
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks; ++t) {
      // In unsigned arithmetic: what wraps here comes back with the products.
      acc[r][t] =
          all_ints<kRows>(static_cast<int32_t>(0U - Isa::kExcess * static_cast<uint32_t>(sums[group * kSumTokens + t])));
      odd[r][t] = Ints<kRows>{};
    }
    for (int64_t begin = first, until; begin < last; begin = until) {
      until = begin + Isa::kWiden < last ? begin + Isa::kWiden : last;
      typename Isa::Sum sum[kRegs][kToks], bits[kRegs][kToks];
      BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks; ++t) {
        sum[r][t] = typename Isa::Sum{};
        if constexpr (kStarts) sum[r][t] = Isa::sum_from(acc[r][t]);
        bits[r][t] = typename Isa::Sum{};
      }
      for (int64_t s = begin, end; s < until; s = end) {
        end = runs.end(s) < until ? runs.end(s) : until;
        multiply<Isa, kRegs, kToks, kWhole, kTwo>(sum, bits, w, runs.origin(q, s), p.q_stride, s, end);
      }
      BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) BITLAB_UNROLL for (int t = 0; t < kToks; ++t) {
        acc[r][t] = kStarts ? Isa::widen(sum[r][t]) : acc[r][t] + Isa::widen(sum[r][t]);
        if constexpr (kTwo) odd[r][t] += Isa::widen(bits[r][t]);
      }
    }
    if constexpr (kGrouped) BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) {
        const Floats<kRows> scale = Isa::load_halves(p.group_scale + group * p.rows + row + r * kRows,
                                                     kWhole || r + 1 < kRegs ? kRows : w.rows - r * kRows);
        BITLAB_UNROLL for (int t = 0; t < kToks; ++t) total[r][t] = total[r][t] + to_floats<kRows>(acc[r][t]) * scale;
      }
  }
  BITLAB_UNROLL for (int t = 0; t < kToks; ++t) BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) {
    Finished<kRows, kScales>& out = done[t * kRegs + r];
    if constexpr (kGrouped) {
      out.total = total[r][t];
    } else {
      out.sum = acc[r][t];
      if constexpr (kTwo) out.magnitude = all_ints<kRows>(sums[t]) - odd[r][t];  // |t| is 1 less the lowest bit of its code
    }
  }
}

template <class Isa, int kRegs, int kToks, bool kWhole, Scales kScales>
BITLAB_INLINE void tile_of(const TernaryGemmArgs& p, const VnWeights& w, int64_t token, int64_t row, const int32_t* sums,
                           Finished<Isa::kRows, kScales>* done) {
  if constexpr (kToks <= Isa::kFewTokens && kScales == Scales::kPlain) {
    Isa::template few_tokens<kRegs, kToks>(p, w, token, sums, done);
  } else {
    tile<Isa, kRegs, kToks, kWhole, kScales>(p, w, token, row, sums, done);
  }
}

// As tile(), for few steps in one run; results: of each register. What follows the sums is as much work as they are, and goes on beside the next products.
inline constexpr int64_t kShortSteps = 4;
template <class Isa, int kRegs, int kToks, bool kWhole, bool kInt8>
BITLAB_NOINLINE void short_tile(const TernaryGemmArgs& p, const VnWeights& w, int64_t token, const int32_t* sums,
                                const Results<Isa::kRows, kInt8>* results) {
  constexpr bool kStarts = requires(Ints<Isa::kRows> values) { Isa::sum_from(values); };
  Ints<Isa::kRows> start[kToks];
  typename Isa::Sum sum[kRegs][kToks];
  BITLAB_UNROLL for (int t = 0; t < kToks; ++t) {
    start[t] = all_ints<Isa::kRows>(static_cast<int32_t>(0U - Isa::kExcess * static_cast<uint32_t>(sums[t])));
    BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) {
      sum[r][t] = typename Isa::Sum{};
      if constexpr (kStarts) sum[r][t] = Isa::sum_from(start[t]);
    }
  }
  multiply<Isa, kRegs, kToks, kWhole, false>(sum, sum, w, p.q + token * p.q_stride, p.q_stride, 0, w.steps);
  BITLAB_UNROLL for (int r = 0; r < kRegs; ++r) {
    Ints<Isa::kRows> acc[kToks];
    BITLAB_UNROLL for (int t = 0; t < kToks; ++t) acc[t] =
        kStarts ? Isa::widen(sum[r][t]) : start[t] + Isa::widen(sum[r][t]);
    results[r].put_sums(acc, token);
  }
}

// Tiles of nearly equal size for the tokens [begin, end): calls f(Count<tokens>, first token).
template <int kMost, class F>
BITLAB_INLINE void in_tiles_of_tokens(int64_t begin, int64_t end, const F& f) {
  for (int64_t token = begin, size; token < end; token += size) {
    const int64_t left = end - token, tiles = (left + kMost - 1) / kMost;
    size = kFewTiles ? kMost : (left + tiles - 1) / tiles;
    if (kFewTiles && left < kMost) size = 1;
    with_count<kMost>(
        size, [&](auto n) __attribute__((always_inline)) { f(n, token); });
  }
}

template <class Isa, int kMost, bool kWhole, bool kInt8, int... kRegister>
BITLAB_INLINE void short_tokens_of(const TernaryGemmArgs& p, const VnWeights& w, int64_t begin, int64_t end, int64_t row,
                                   const int32_t* sums, std::integer_sequence<int, kRegister...>) {
  constexpr int kRegs = sizeof...(kRegister);
  using Constants = RowConstants<Isa::kRows>;
  const Results<Isa::kRows, kInt8> results[] = {{p, Constants::of(p, row + kRegister * Isa::kRows)}...};
  in_tiles_of_tokens<kMost>(
      begin, end, [&](auto n, int64_t token) __attribute__((always_inline)) {
        short_tile<Isa, kRegs, n.value, kWhole, kInt8>(p, w, token, sums + (token - begin), results);
      });
}

// kRegs registers of rows times all tokens of [begin, end).
template <class Isa, int kRegs, int kMost, bool kWhole, Scales kScales>
BITLAB_INLINE void tokens_of(const TernaryGemmArgs& p, const VnWeights& w, int64_t begin, int64_t end, int64_t row,
                             const int32_t* sums) {
  if constexpr (Isa::kFinishesShort && kScales == Scales::kPlain && kMost > 1) {
    if (w.steps <= kShortSteps && p.run == 0) {
      constexpr auto registers = std::make_integer_sequence<int, kRegs>();
      if (p.y_q == nullptr) {
        short_tokens_of<Isa, kMost, kWhole, false>(p, w, begin, end, row, sums, registers);
      } else {
        short_tokens_of<Isa, kMost, kWhole, true>(p, w, begin, end, row, sums, registers);
      }
      return;
    }
  }
  Finished<Isa::kRows, kScales> done[kRegs * kSumTokens];
  in_tiles_of_tokens<kMost>(
      begin, end, [&](auto n, int64_t token) __attribute__((always_inline)) {
        tile_of<Isa, kRegs, n.value, kWhole, kScales>(p, w, token, row, sums + (token - begin),
                                                      done + (token - begin) * kRegs);
      });
  finish_tiles<Isa::kRows, kScales>(p, done, kRegs, end - begin, begin, row);
}

// One block of rows: tiles of kMost registers and at most kTokens tokens, then what is left.
template <class Isa, int kMost, int kTokens, Scales kScales>
BITLAB_INLINE void block_of(const TernaryGemmArgs& p, VnWeights w, int64_t begin, int64_t end, int64_t row,
                            const int32_t* sums) {
  constexpr int64_t kRows = Isa::kRows;
  while (w.rows > 0) {
    const int64_t whole = (w.rows + (Isa::kFreeMask ? kRows - 1 : 0)) / kRows;  // registers
    int64_t taken = 1;
    if (whole >= kMost || (whole > 0 && !kFewTiles)) {
      taken = whole < kMost ? whole : kMost;
      with_count<kMost>(
          taken, [&](auto n) __attribute__((always_inline)) {
            if constexpr (n.value == kMost || !kFewTiles)
              tokens_of<Isa, n.value, kTokens, !Isa::kFreeMask, kScales>(p, w, begin, end, row, sums);
          });
    } else {
      // NOLINTNEXTLINE(bugprone-branch-clone): the same where kTokens is 1
      constexpr int kMostTokens = kFewTiles && kScales != Scales::kPlain ? 1 : kTokens;
      tokens_of<Isa, 1, kMostTokens, false, kScales>(p, w, begin, end, row, sums);
    }
    w.first += 4 * kRows * taken;
    w.rows -= kRows * taken;
    row += kRows * taken;
  }
}

// Of q of the tokens [begin, end): [group][kSumTokens]. Instruction sets with the same way to add share it.
template <class Isa, bool kGroups>
BITLAB_INLINE_IF_LARGE void sums_of_tokens(const TernaryGemmArgs& p, int64_t begin, int64_t end, int64_t steps,
                                           int32_t* sums) {
  const int64_t group_steps = kGroups ? p.group / kVnStep : steps;
  const Runs runs = Runs::of(p, steps);
  int64_t m = begin;
  if constexpr (!kGroups && requires { Isa::sums_of_four(p.q, p.q_stride, steps, sums); }) {
    for (; p.run == 0 && m + 4 <= end; m += 4)
      Isa::sums_of_four(p.q + m * p.q_stride, p.q_stride, steps, sums + (m - begin));
  }
  for (; m < end; ++m)
    for (int64_t first = 0, group = 0; first < steps; first += group_steps, ++group) {
      const int64_t last = first + group_steps < steps ? first + group_steps : steps;
      int32_t sum = 0;
      for (int64_t s = first, until; s < last; s = until) {
        until = runs.end(s) < last ? runs.end(s) : last;
        sum += Isa::sum_of(runs.origin(p.q + m * p.q_stride, s) + s * kVnStep, until - s);
      }
      sums[group * kSumTokens + m - begin] = sum;
    }
}

template <class Isa, Scales kScales>
BITLAB_NOINLINE void vn_range(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                              int64_t row_end, int32_t* sums) {
  const int64_t steps = (p.depth + kVnStep - 1) / kVnStep;
  for (int64_t begin = token_begin; begin < token_end; begin += kSumTokens) {
    const int64_t end = begin + kSumTokens < token_end ? begin + kSumTokens : token_end;
    sums_of_tokens<Isa, kScales == Scales::kGroups>(p, begin, end, steps, sums);
    for (int64_t row = row_begin; row < row_end; row += kVnBlock) {
      const int64_t rows = p.rows - row < kVnBlock ? p.rows - row : kVnBlock;
      constexpr int64_t kRowBytes = Isa::kInt8 ? kVnStep : kVnStep / 4;  // of a step
      const VnWeights w{p.weights + row * steps * kRowBytes, kRowBytes * rows, steps, rows};
      if (end - begin == 1 && kScales == Scales::kPlain) {
        block_of<Isa, Isa::kOneTokenRegisters, 1, kScales>(p, w, begin, end, row, sums);
      } else {
        // Two sums a product, or sums of groups beside those of a group, take registers of their own.
        constexpr int kTokens = kScales == Scales::kPlain ? Isa::kTokens : (Isa::kTokens + 1) / 2;
        block_of<Isa, Isa::kRegisters, kTokens, kScales>(p, w, begin, end, row, sums);
      }
    }
  }
}

// A whole kernel.
template <class Isa>
BITLAB_INLINE void vn_gemm(const TernaryGemmArgs& p, int64_t token_begin, int64_t token_end, int64_t row_begin,
                           int64_t row_end, uint8_t* scratch) {
  auto* sums = reinterpret_cast<int32_t*>(scratch);
  if (p.group != 0) {
    vn_range<Isa, Scales::kGroups>(p, token_begin, token_end, row_begin, row_end, sums);
  } else if (p.scale_neg != nullptr) {
    vn_range<Isa, Scales::kAsymmetric>(p, token_begin, token_end, row_begin, row_end, sums);
  } else {
    vn_range<Isa, Scales::kPlain>(p, token_begin, token_end, row_begin, row_end, sums);
  }
}

}  // namespace
}  // namespace bitlab::kernels
