// The product by mma.sync for many tokens: a block of four warps makes 32 kTiles rows of 16 kColumns tokens, each warp half of the rows and half of the
// tokens. Codes go to registers, as in mma_body.h; q is copied to shared memory 128 k ahead of what is multiplied. So codes are read once for all tokens
// of a block, and q once for all of its rows.
#pragma once

#include "bitlab/kernels/internal/cuda_copies.h"
#include "bitlab/kernels/ternary_gemm/cuda/epilogue.h"
#include "bitlab/kernels/ternary_gemm/cuda/mma_body.h"

namespace bitlab::kernels {

template <int kTiles_, int kColumns_, TernaryScaling kScaling>
struct MmaTiles {
  static_assert(kScaling != TernaryScaling::kGroups, "scales of groups ask for sums of parts of a chunk");
  static constexpr int kTiles = kTiles_, kColumns = kColumns_;  // of a warp: 16 rows, and 8 tokens
  static constexpr int kWarps = 4, kThreads = kWarps * cuda::kWarp;
  static constexpr int kRows = 2 * kTiles * 16, kTokens = 2 * kColumns * 8;
  static constexpr int kSets = kScaling == TernaryScaling::kTwo ? 2 : 1;
  static constexpr int kDepth = static_cast<int>(kMmaDepth);
  // Tokens lie so far apart that the words that a warp reads at once are in 32 banks.
  static constexpr int kTokenBytes = kDepth + 16, kStages = 2;

  struct Shared {
    alignas(16) int8_t q[kStages][kTokens * kTokenBytes];
  };
  struct Registers {
    cuda::Sums sum[kSets][kTiles][kColumns];
    MmaWord next[kTiles], codes[kTiles];
    cuda::Fragments fragments[kColumns];  // b of each column; a is that of the first
  };
  using Threads = cuda::PerThread<Registers, kThreads>;
  using Block = cuda::Block<kThreads>;

  // The first tile and token of a thread's warp, within the block.
  static BITLAB_HOST_DEVICE int first_tile(int thread) { return thread / cuda::kWarp % 2 * kTiles; }
  static BITLAB_HOST_DEVICE int first_token(int thread) { return thread / cuda::kWarp / 2 * kColumns * 8; }

  // Tiles that do not exist are zero.
  static BITLAB_HOST_DEVICE void read_codes(const Block& block, const TernaryGemmArgs& p, int64_t chunk, Threads& threads) {
    const int64_t chunks = mma_chunks(p.depth), tiles = mma_tiles(p.rows);
    block.each([&](int thread) {
      BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
        const int64_t at = block.x * (2 * kTiles) + first_tile(thread) + tile;
        MmaWord& word = threads[thread].next[tile];
        word = {};
        if (at < tiles && chunk < chunks)
          word = mma_codes(p.weights + (at * chunks + chunk) * kMmaTileBytes + thread % cuda::kWarp * 16);
      }
    });
  }

  // Tokens that do not exist are zero.
  static BITLAB_HOST_DEVICE void copy_q(const Block& block, const TernaryGemmArgs& p, int64_t tokens, int64_t chunk,
                                        Shared& shared, cuda::Copies& copies) {
    constexpr int kPiece = cuda::Copies::kBytes, kPieces = kDepth / kPiece;
    block.each([&](int thread) {
      BITLAB_UNROLL for (int i = thread; i < kTokens * kPieces; i += kThreads) {
        const int64_t token = block.y * kTokens + i / kPieces;
        const bool exists = token < tokens;
        copies.copy(shared.q[chunk % kStages] + i / kPieces * kTokenBytes + i % kPieces * kPiece,
                    p.q + (exists ? token * p.q_stride + chunk * kMmaDepth + i % kPieces * kPiece : 0), exists);
      }
    });
  }

  static BITLAB_HOST_DEVICE void multiply(const Block& block, const int8_t* q, Threads& threads) {
    BITLAB_UNROLL for (int step = 0; step < 4; ++step) {
      block.each([&](int thread) {
        const int lane = thread % cuda::kWarp;
        BITLAB_UNROLL for (int column = 0; column < kColumns; ++column) {
          const int8_t* from = q + (first_token(thread) + column * 8 + lane / 4) * kTokenBytes + step * 32 + lane % 4 * 4;
          BITLAB_UNROLL for (int half = 0; half < 2; ++half)
              std::memcpy(&threads[thread].fragments[column].b[half], from + half * 16, sizeof(uint32_t));
        }
      });
      BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) BITLAB_UNROLL for (int set = 0; set < kSets; ++set) {
        block.each([&](int thread) {
          Registers& r = threads[thread];
          BITLAB_UNROLL for (int column = 0; column < kColumns; ++column) BITLAB_UNROLL for (int a = 0; a < 4; ++a) {
            const uint32_t word = expanded(r.codes[tile].step[step], a);
            r.fragments[column].a[a] = set == 0 ? word : magnitudes(word);
          }
        });
        BITLAB_UNROLL for (int column = 0; column < kColumns; ++column) cuda::multiply_add(
            block, [&](int thread) -> const cuda::Fragments& { return threads[thread].fragments[column]; },
            [&](int thread) -> cuda::Sums& { return threads[thread].sum[set][tile][column]; });
      }
    }
  }

  // Results, from where mma lays sums over a warp.
  static BITLAB_HOST_DEVICE void finish_all(const Block& block, const TernaryGemmArgs& p, int64_t tokens, Threads& threads) {
    block.each([&](int thread) {
      const int lane = thread % cuda::kWarp;
      BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) BITLAB_UNROLL for (int half = 0; half < 2; ++half) {
        const int64_t row = block.x * kRows + (first_tile(thread) + tile) * 16 + lane / 4 + half * 8;
        if (row >= p.rows) continue;
        const RowConstants constants = RowConstants::of(p, row);
        BITLAB_UNROLL for (int column = 0; column < kColumns; ++column) BITLAB_UNROLL for (int i = 0; i < 2; ++i) {
          const int64_t token = block.y * kTokens + first_token(thread) + column * 8 + lane % 4 * 2 + i;
          if (token >= tokens) continue;
          const auto sum = [&](int set) { return threads[thread].sum[set][tile][column].at[half * 2 + i] >> 6; };
          const float a = token_scale(p, token);
          if constexpr (kScaling == TernaryScaling::kTwo) {
            finish(p, constants, scaled(constants, sum(0), sum(1), a), token, row);
          } else {
            finish(p, constants, scaled(constants, sum(0), a), token, row);
          }
        }
      }
    });
  }

  static BITLAB_HOST_DEVICE void run(const Block& block, const TernaryGemmArgs& p, int64_t tokens, Threads& threads,
                                     Shared& shared) {
    const int64_t chunks = mma_chunks(p.depth);
    cuda::Copies copies;
    cuda::let_later_work_begin();
    read_codes(block, p, 0, threads);
    cuda::wait_for_earlier_work();  // codes do not come from it; q and scales of tokens may
    copy_q(block, p, tokens, 0, shared, copies);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      copies.wait();
      block.sync();  // and so nobody reads the other stage any more
      if (chunk + 1 < chunks) copy_q(block, p, tokens, chunk + 1, shared, copies);
      block.each([&](int thread) {
        BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) threads[thread].codes[tile] = threads[thread].next[tile];
      });
      read_codes(block, p, chunk + 1, threads);
      multiply(block, shared.q[chunk % kStages], threads);
    }
    finish_all(block, p, tokens, threads);
  }
};

}  // namespace bitlab::kernels
