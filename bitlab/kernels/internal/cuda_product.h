// A product on a CUDA device without its matrix units: each result is one thread's sum in the order of k, which float32 needs and int8 may have.
//
//   struct Problem {
//     using Element, Sum;                                      float and float, or int8_t and int32_t
//     int64_t batches, tokens, rows, depth;                    of each of the batches
//     using Token;  Token token(batch, token) const;           what a thread knows of a token
//     using Tap;  Tap tap(k) const;                            and of a k; advance(Tap&) makes it that of the next k
//     Element x(batch, const Token&, const Tap&) const;
//     Element w(batch, row, k) const;
//     Sum add(Sum, Element x, Element w) const;
//     void finish(batch, token, row, Sum) const;
//   };
#pragma once

#include "bitlab/kernels/internal/cuda_launch.h"

namespace bitlab::cuda {

// A block makes 16 kEach tokens of 64 rows.
template <class Problem, int kEach>
struct TiledProduct {
  static constexpr int kAcross = 16, kThreads = kAcross * kAcross, kStep = 16;
  static constexpr int kTokens = kAcross * kEach, kRowsEach = 4, kRows = kAcross * kRowsEach;
  using Args = Problem;
  using Element = typename Problem::Element;
  using Sum = typename Problem::Sum;
  struct Shared {
    Element x[kStep][kTokens + 1], w[kStep][kRows];
  };
  struct Sums {
    Sum at[kEach][kRowsEach];
  };
  struct Tokens {
    typename Problem::Token at[kEach];
  };
  using Block = cuda::Block<kThreads>;

  static Grid grid(const Problem& p) { return {blocks_for(p.rows, kRows) * blocks_for(p.tokens, kTokens), p.batches}; }

  static BITLAB_HOST_DEVICE void run(const Block& block, const Problem& p, Shared& shared) {
    const int64_t across = blocks_for(p.rows, kRows), batch = block.y;
    const int64_t down = divided(block.x, across), first_token = down * kTokens,
                  first_row = (block.x - down * across) * kRows;
    PerThread<Sums, kThreads> sums;
    PerThread<Tokens, kThreads> tokens;  // those that a thread reads: kAcross apart
    block.each([&](int thread) {
      sums[thread] = {};
      BITLAB_UNROLL for (int i = 0; i < kEach; ++i) {
        const int64_t token = first_token + thread / kStep + i * kAcross;
        if (token < p.tokens) tokens[thread].at[i] = p.token(batch, token);
      }
    });
    for (int64_t k0 = 0; k0 < p.depth; k0 += kStep) {
      const int count = static_cast<int>(p.depth - k0 < kStep ? p.depth - k0 : kStep);
      block.each([&](int thread) {
        const int k = thread % kStep;
        if (k < count) {
          const typename Problem::Tap tap = p.tap(k0 + k);
          BITLAB_UNROLL for (int i = 0; i < kEach; ++i) {
            const int token = thread / kStep + i * kAcross;
            if (first_token + token < p.tokens) shared.x[k][token] = p.x(batch, tokens[thread].at[i], tap);
          }
        }
        BITLAB_UNROLL for (int i = 0; i < kStep * kRows / kThreads; ++i) {
          const int row = thread % kRows, own = thread / kRows + i * (kThreads / kRows);
          if (own < count && first_row + row < p.rows) shared.w[own][row] = p.w(batch, first_row + row, k0 + own);
        }
      });
      block.sync();
      block.each([&](int thread) {
        const int token = thread / kAcross * kEach, row = thread % kAcross * kRowsEach;
        if (first_token + token >= p.tokens || first_row + row >= p.rows) return;
        for (int k = 0; k < count; ++k)
          BITLAB_UNROLL for (int i = 0; i < kEach; ++i) BITLAB_UNROLL for (int j = 0; j < kRowsEach; ++j) {
            Sum& sum = sums[thread].at[i][j];
            sum = p.add(sum, shared.x[k][token + i], shared.w[k][row + j]);
          }
      });
      block.sync();
    }
    block.each([&](int thread) {
      BITLAB_UNROLL for (int i = 0; i < kEach; ++i) BITLAB_UNROLL for (int j = 0; j < kRowsEach; ++j) {
        const int64_t token = first_token + thread / kAcross * kEach + i, row = first_row + thread % kAcross * kRowsEach + j;
        if (token < p.tokens && row < p.rows) p.finish(batch, token, row, sums[thread].at[i][j]);
      }
    });
  }
};

// A thread for each result, for the few tokens of a tile that would be empty.
template <class Problem>
struct EachSum {
  Problem p;
  int64_t count;
  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t rest = divided(i, p.rows), row = i - rest * p.rows, token = divided(rest, p.batches),
                  batch = rest - token * p.batches;
    const typename Problem::Token at = p.token(batch, token);
    typename Problem::Sum sum = 0;
    typename Problem::Tap tap = p.tap(0);
    BITLAB_UNROLL_BY(8)
    for (int64_t k = 0; k < p.depth; ++k, p.advance(tap)) sum = p.add(sum, p.x(batch, at, tap), p.w(batch, row, k));
    p.finish(batch, token, row, sum);
  }
};

template <class Problem>
const char* start_product(const Problem& p, void* stream) {
  constexpr int64_t kFew = 4, kSome = 48;
  const int64_t count = p.batches * p.tokens * p.rows;
  if (count == 0) return nullptr;
  if (p.tokens <= kFew || p.rows <= kFew || p.batches > kMostBlocksY) return for_each(EachSum<Problem>{p, count}, stream);
  if (p.tokens <= kSome) return launch<TiledProduct<Problem, 1>>(TiledProduct<Problem, 1>::grid(p), p, stream);
  return launch<TiledProduct<Problem, 4>>(TiledProduct<Problem, 4>::grid(p), p, stream);
}

}  // namespace bitlab::cuda
