// The product by mma.sync, for every scaling and any number of tokens: a block makes kTiles * 16 rows of kColumns * 8 tokens. Its warps share the
// depth: warp w takes the chunks w, w + kWarps, ...; sums are exact, so their order is free. Scales of groups are applied in the order of k by the
// threads that own a result.
#pragma once

#include "bitlab/kernels/ternary_gemm/cuda/epilogue.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"

namespace bitlab::kernels {

struct MmaWord {
  uint32_t step[4];
};
// A lane's part of a tile. once: no block reads it again, so that it is nothing for the cache.
BITLAB_HOST_DEVICE MmaWord mma_codes(const uint8_t* from, bool once = false) {
#if defined(__CUDA_ARCH__)
  const auto* words = reinterpret_cast<const uint4*>(from);
  const uint4 bits = once ? __ldcs(words) : __ldg(words);
  return {{bits.x, bits.y, bits.z, bits.w}};
#else
  static_cast<void>(once);
  MmaWord word;
  std::memcpy(&word, cuda::aligned<16>(from), sizeof(word));
  return word;
#endif
}

template <int kTiles_, int kColumns_, int kWarps_, int kAhead_, TernaryScaling kScaling>
struct MmaProduct {
  static constexpr int kTiles = kTiles_, kColumns = kColumns_, kWarps = kWarps_, kThreads = kWarps * cuda::kWarp;
  static constexpr int kAhead = kAhead_;  // chunks whose operands are read at once, while the ones before are multiplied
  static constexpr int kRows = kTiles * 16, kTokens = kColumns * 8, kResults = kRows * kTokens;
  static constexpr int kSets = kScaling == TernaryScaling::kTwo ? 2 : 1;
  // Groups of 64 are parts of a chunk: sums of each half of one.
  static constexpr int kParts = kScaling == TernaryScaling::kGroups ? 2 : kSets;
  static constexpr int kHalves =
      kScaling == TernaryScaling::kGroups ? 2 * kWarps : 1;  // of the chunks that are shared at once
  static constexpr int kOwned = (kResults + kThreads - 1) / kThreads;
  static_assert(kThreads % kRows == 0);

  struct Shared {
    int32_t sum[kWarps][kParts][kResults];
  };
  // What a warp reads of some chunks.
  struct Operands {
    MmaWord codes[kAhead][kTiles];
    uint32_t q[kAhead][4][kColumns][2];
  };
  struct Registers {
    cuda::Sums sum[kParts][kTiles][kColumns];
    Operands next;
    cuda::Fragments fragments;
    RowConstants constants;  // a thread's results are of one row
    float group_scale[kHalves];
    float a[kOwned];
    float total[kOwned];
  };
  using Threads = cuda::PerThread<Registers, kThreads>;
  using Block = cuda::Block<kThreads>;

  // Codes of the chunks `first`, first + kWarps, ... of the first warp, and of those behind them of the others. What does not exist is zero.
  static BITLAB_HOST_DEVICE void read_codes(const Block& block, const TernaryGemmArgs& p, int64_t first, Threads& threads) {
    const int64_t chunks = mma_chunks(p.depth), tiles = mma_tiles(p.rows);
    block.each([&](int thread) {
      BITLAB_UNROLL for (int i = 0; i < kAhead; ++i) {
        const int64_t chunk = first + thread / cuda::kWarp + i * kWarps;
        BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
          const int64_t at = block.x * kTiles + tile;
          MmaWord& word = threads[thread].next.codes[i][tile];
          word = {};
          if (chunk >= chunks || at >= tiles) continue;
          word = mma_codes(p.weights + (at * chunks + chunk) * kMmaTileBytes + thread % cuda::kWarp * 16, true);
        }
      }
    });
  }

  static BITLAB_HOST_DEVICE uint32_t word_at(const int8_t* q) {
    uint32_t word;
    std::memcpy(&word, cuda::aligned<sizeof(word)>(q), sizeof(word));
    return word;
  }

  // Their q.
  static BITLAB_HOST_DEVICE void read_q(const Block& block, const TernaryGemmArgs& p, int64_t tokens, int64_t first,
                                        Threads& threads) {
    const int64_t chunks = mma_chunks(p.depth);
    block.each([&](int thread) {
      const int lane = thread % cuda::kWarp;
      BITLAB_UNROLL for (int i = 0; i < kAhead; ++i) {
        const int64_t chunk = first + thread / cuda::kWarp + i * kWarps;
        BITLAB_UNROLL for (int column = 0; column < kColumns; ++column) {
          const int64_t token = block.y * kTokens + column * 8 + lane / 4;
          const bool exists = token < tokens && chunk < chunks;
          const int8_t* q = p.q + token * p.q_stride + chunk * kMmaDepth + lane % 4 * 4;
          BITLAB_UNROLL for (int step = 0; step < 4; ++step) BITLAB_UNROLL for (int half = 0; half < 2; ++half) {
            uint32_t& word = threads[thread].next.q[i][step][column][half];
            word = exists ? word_at(q + step * 32 + half * 16) : 0;
          }
        }
      }
    });
  }

  // The products of what was read, while the chunks from `next` on are.
  static BITLAB_HOST_DEVICE void multiply(const Block& block, const TernaryGemmArgs& p, int64_t tokens, int64_t next,
                                          Threads& threads) {
    cuda::PerThread<Operands, kThreads> operands;
    block.each([&](int thread) { operands[thread] = threads[thread].next; });
    read_codes(block, p, next, threads);
    read_q(block, p, tokens, next, threads);
    const auto fragments = [&](int thread) -> const cuda::Fragments& { return threads[thread].fragments; };
    BITLAB_UNROLL for (int i = 0; i < kAhead; ++i) BITLAB_UNROLL for (int step = 0; step < 4; ++step)
        BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
      block.each([&](int thread) {
        BITLAB_UNROLL for (int a = 0; a < 4; ++a) threads[thread].fragments.a[a] =
            expanded(operands[thread].codes[i][tile].step[step], a);
      });
      const int part = kScaling == TernaryScaling::kGroups ? step / 2 : 0;
      BITLAB_UNROLL for (int set = 0; set < kSets; ++set) {
        BITLAB_UNROLL for (int column = 0; column < kColumns; ++column) {
          block.each([&](int thread) {
            BITLAB_UNROLL for (int half = 0; half < 2; ++half) threads[thread].fragments.b[half] =
                operands[thread].q[i][step][column][half];
          });
          cuda::multiply_add(block, fragments,
                             [&](int thread) -> cuda::Sums& { return threads[thread].sum[part + set][tile][column]; });
        }
        if (set + 1 == kSets) continue;
        block.each([&](int thread) {
          BITLAB_UNROLL for (int a = 0; a < 4; ++a) threads[thread].fragments.a[a] =
              magnitudes(threads[thread].fragments.a[a]);
        });
      }
    }
  }

  // Sums, without the factor 64, to shared memory; those of the registers begin again.
  static BITLAB_HOST_DEVICE void share(const Block& block, Threads& threads, Shared& shared) {
    block.each([&](int thread) {
      const int lane = thread % cuda::kWarp;
      BITLAB_UNROLL for (int part = 0; part < kParts; ++part) BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile)
          BITLAB_UNROLL for (int column = 0; column < kColumns; ++column) BITLAB_UNROLL for (int i = 0; i < 4; ++i) {
        int32_t& sum = threads[thread].sum[part][tile][column].at[i];
        const int row = tile * 16 + lane / 4 + i / 2 * 8, token = column * 8 + lane % 4 * 2 + i % 2;
        shared.sum[thread / cuda::kWarp][part][token * kRows + row] = sum >> 6;
        sum = 0;
      }
    });
    block.sync();
  }

  // f(result of the block, its place among the thread's own, token, row) for the results that exist.
  template <class F>
  static BITLAB_HOST_DEVICE void each_result(const Block& block, const TernaryGemmArgs& p, int64_t tokens, const F& f) {
    block.each([&](int thread) {
      BITLAB_UNROLL for (int own = 0; own < kOwned; ++own) {
        const int result = own * kThreads + thread;
        const int64_t token = block.y * kTokens + result / kRows, row = block.x * kRows + result % kRows;
        if (result < kResults && token < tokens && row < p.rows) f(thread, own, result, token, row);
      }
    });
  }

  static BITLAB_HOST_DEVICE int32_t sum_of_warps(const Shared& shared, int part, int result) {
    int32_t sum = 0;
    BITLAB_UNROLL for (int warp = 0; warp < kWarps; ++warp) sum += shared.sum[warp][part][result];
    return sum;
  }

  // f(thread, its row) for the rows that exist.
  template <class F>
  static BITLAB_HOST_DEVICE void each_row(const Block& block, const TernaryGemmArgs& p, const F& f) {
    block.each([&](int thread) {
      const int64_t row = block.x * kRows + thread % kRows;
      if (row < p.rows) f(thread, row);
    });
  }

  // The scales of the groups that end in the chunks [first, first + kWarps), in front of the products that they are waited for behind.
  static BITLAB_HOST_DEVICE void read_group_scales(const Block& block, const TernaryGemmArgs& p, int first,
                                                   Threads& threads) {
    const GroupEnds groups(p);
    const uint32_t ends = groups.from(first * 2);
    each_row(block, p, [&](int thread, int64_t row) {
      BITLAB_UNROLL for (int i = 0; i < kHalves; ++i) {
        if ((ends >> i & 1) == 0) continue;
        threads[thread].group_scale[i] = group_scale_at(p, groups.group(first * 2 + i), row);
      }
    });
  }

  // Adds these groups in the order of k.
  static BITLAB_HOST_DEVICE void add_groups(const Block& block, const TernaryGemmArgs& p, int64_t tokens, int first,
                                            Threads& threads, const Shared& shared) {
    const uint32_t ends = GroupEnds(p).from(first * 2);
    each_result(block, p, tokens, [&](int thread, int own, int result, int64_t, int64_t) {
      Registers& r = threads[thread];
      int32_t sum = 0;
      BITLAB_UNROLL for (int i = 0; i < kHalves; ++i) {
        sum += shared.sum[i / 2][i % 2][result];
        if ((ends >> i & 1) == 0) continue;
        r.total[own] = r.total[own] + static_cast<float>(sum) * r.group_scale[i];
        sum = 0;
      }
    });
    block.sync();
  }

  static BITLAB_HOST_DEVICE void run(const Block& block, const TernaryGemmArgs& p, int64_t tokens, Threads& threads,
                                     Shared& shared) {
    const int64_t chunks = mma_chunks(p.depth);
    cuda::let_later_work_begin();
    read_codes(block, p, 0, threads);
    cuda::wait_for_earlier_work();  // codes do not come from it; q and scales of tokens may
    read_q(block, p, tokens, 0, threads);
    each_row(block, p, [&](int thread, int64_t row) { threads[thread].constants = RowConstants::of(p, row); });
    each_result(block, p, tokens,
                [&](int thread, int own, int, int64_t token, int64_t) { threads[thread].a[own] = token_scale(p, token); });
    constexpr int64_t kStep = kWarps * kAhead;
    if constexpr (kScaling == TernaryScaling::kGroups) {
      static_assert(kWarps % 2 == 0 && kAhead == 1, "groups of 256 do not cross what is shared at once");
      for (int64_t first = 0; first < chunks; first += kStep) {
        read_group_scales(block, p, static_cast<int>(first), threads);
        multiply(block, p, tokens, first + kStep, threads);
        share(block, threads, shared);
        add_groups(block, p, tokens, static_cast<int>(first), threads, shared);
      }
      each_result(block, p, tokens, [&](int thread, int own, int, int64_t token, int64_t row) {
        const Registers& r = threads[thread];
        finish(p, r.constants, r.total[own] * r.a[own], token, row);
      });
    } else {
      for (int64_t first = 0; first < chunks; first += kStep) multiply(block, p, tokens, first + kStep, threads);
      share(block, threads, shared);
      each_result(block, p, tokens, [&](int thread, int own, int result, int64_t token, int64_t row) {
        const Registers& r = threads[thread];
        const int32_t sum = sum_of_warps(shared, 0, result);
        if constexpr (kScaling == TernaryScaling::kTwo) {
          finish(p, r.constants, scaled(r.constants, sum, sum_of_warps(shared, 1, result), r.a[own]), token, row);
        } else {
          finish(p, r.constants, scaled(r.constants, sum, r.a[own]), token, row);
        }
      });
    }
  }
};

}  // namespace bitlab::kernels
