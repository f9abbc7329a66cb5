// The product by mma.sync for many tokens: a block of four warps makes 32 kTiles rows of 16 kColumns tokens, each warp half of the rows and half of the
// tokens. Codes go to registers, as in mma_body.h; q is copied to shared memory 128 k ahead of what is multiplied. So codes are read once for all tokens
// of a block, and q once for all of its rows. A convolution's patches are gathered on that way (implicit GEMM). A thread has all k of its results, and
// so applies scales of groups in their order.
#pragma once

#include "bitlab/kernels/internal/cuda_copies.h"
#include "bitlab/kernels/internal/cuda_image.h"
#include "bitlab/kernels/ternary_gemm/cuda/epilogue.h"
#include "bitlab/kernels/ternary_gemm/cuda/mma_body.h"

namespace bitlab::kernels {

// q: rows, or, where it is gathered, images [batch, pixels, channels] of 16 n channels, aligned to 16, whose scales are a[sample * a_stride].
struct TilesArgs {
  TernaryGemmArgs p;
  int64_t tokens;
  CudaImage image;
};

template <int kTiles_, int kColumns_, TernaryScaling kScaling, bool kGathers>
struct MmaTiles {
  using Args = TilesArgs;
  static constexpr int kTiles = kTiles_, kColumns = kColumns_;  // of a warp: 16 rows, and 8 tokens
  static constexpr int kWarps = 4, kThreads = kWarps * cuda::kWarp;
  static constexpr int kRows = 2 * kTiles * 16, kTokens = 2 * kColumns * 8;
  static constexpr int kSets = kScaling == TernaryScaling::kTwo ? 2 : 1;
  static constexpr bool kGroups = kScaling == TernaryScaling::kGroups;
  static constexpr int kDepth = static_cast<int>(kMmaDepth);
  // Tokens lie so far apart that the words that a warp reads at once are in 32 banks.
  static constexpr int kTokenBytes = kDepth + 16, kStages = 2;

  struct Shared {
    alignas(16) int8_t q[kStages][kTokens * kTokenBytes];
    CudaImage::Pixel pixels[kGathers ? kTokens : 1];
  };
  // Of groups: their results so far, and the scales of those that end in the half chunks at hand, over the factor 64 that sums have.
  struct Totals {
    float at[4];
  };
  struct GroupScales {
    float at[2];  // of the two rows of a tile
  };
  struct Registers {
    cuda::Sums sum[kSets][kTiles][kColumns];
    Totals total[kGroups ? kTiles : 1][kGroups ? kColumns : 1];
    GroupScales group_scale[kGroups ? 2 : 1][kGroups ? kTiles : 1];
    MmaWord next[kTiles], codes[kTiles];
    cuda::Fragments fragments[kColumns];  // b of each column; a is that of the first
  };
  using Threads = cuda::PerThread<Registers, kThreads>;
  using Block = cuda::Block<kThreads>;

  // Blocks that follow each other share their tokens.
  static cuda::Grid grid(const Args& args) {
    return {cuda::blocks_for(args.p.rows, kRows) * cuda::blocks_for(args.tokens, kTokens)};
  }
  struct Place {
    int64_t tile, token;  // the first of a block
    BITLAB_HOST_DEVICE Place(const Block& block, const Args& args) {
      const int64_t across = cuda::blocks_for(args.p.rows, kRows), down = cuda::divided(block.x, across);
      tile = (block.x - down * across) * (2 * kTiles), token = down * kTokens;
    }
  };
  // The first tile and token of a thread's warp, within the block.
  static BITLAB_HOST_DEVICE int first_tile(int thread) { return thread / cuda::kWarp % 2 * kTiles; }
  static BITLAB_HOST_DEVICE int first_token(int thread) { return thread / cuda::kWarp / 2 * kColumns * 8; }

  // Of a thread's sums, whose second two are those of the row 8 behind.
  static BITLAB_HOST_DEVICE int64_t row_of(const Place& first, int thread, int tile, int upper) {
    return (first.tile + first_tile(thread) + tile) * 16 + thread % cuda::kWarp / 4 + upper * 8;
  }

  // Tiles that do not exist are zero.
  static BITLAB_HOST_DEVICE void read_codes(const Block& block, const TernaryGemmArgs& p, const Place& first, int64_t chunk,
                                            Threads& threads) {
    const int64_t chunks = mma_chunks(p.depth), tiles = mma_tiles(p.rows);
    block.each([&](int thread) {
      BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) {
        const int64_t at = first.tile + first_tile(thread) + tile;
        MmaWord& word = threads[thread].next[tile];
        word = {};
        if (at < tiles && chunk < chunks)
          word = mma_codes(p.weights + (at * chunks + chunk) * kMmaTileBytes + thread % cuda::kWarp * 16);
      }
    });
  }

  // What tokens are, where they are gathered.
  static BITLAB_HOST_DEVICE void find_pixels(const Block& block, const Args& args, const Place& first, Shared& shared) {
    block.each([&](int thread) {
      for (int i = thread; i < kTokens; i += kThreads) shared.pixels[i] = args.image.pixel(first.token + i);
    });
    block.sync();
  }

  // Tokens that do not exist, and the padding of images, are zero. A thread's pieces are of the same k.
  static BITLAB_HOST_DEVICE void copy_q(const Block& block, const Args& args, const Place& first, int64_t chunk,
                                        Shared& shared, cuda::Copies& copies) {
    constexpr int kPiece = cuda::Copies::kBytes, kPieces = kDepth / kPiece, kApart = kThreads / kPieces;
    static_assert(kThreads % kPieces == 0 && kTokens % kApart == 0);
    const TernaryGemmArgs& p = args.p;
    const int64_t count = args.tokens - first.token;
    block.each([&](int thread) {
      const int64_t k = chunk * kMmaDepth + thread % kPieces * kPiece;
      int8_t* const to = shared.q[chunk % kStages] + thread % kPieces * kPiece;
      // place(token of the block): from where; -1: zeros.
      const auto copy_all = [&](const auto& place) {
        BITLAB_UNROLL for (int n = 0; n < kTokens / kApart; ++n) {
          const int i = thread / kPieces + n * kApart;
          const int64_t from = i < count && k < p.depth ? place(i) : -1;
          copies.copy(to + i * kTokenBytes, p.q + (from < 0 ? 0 : from), from >= 0);
        }
      };
      if constexpr (kGathers) {  // the question is asked once for all
        const CudaImage::Tap tap = args.image.tap(k);
        if (args.image.transposed) {
          copy_all([&](int i) { return args.image.place_of_transposed(shared.pixels[i], tap); });
        } else {
          copy_all([&](int i) { return args.image.place_of_plain(shared.pixels[i], tap); });
        }
      } else {
        copy_all([&](int i) { return (first.token + i) * p.q_stride + k; });
      }
    });
  }

  static BITLAB_HOST_DEVICE void multiply(const Block& block, const TernaryGemmArgs& p, const Place& first, int64_t chunk,
                                          const int8_t* q, Threads& threads) {
    if constexpr (kGroups) read_group_scales(block, p, first, chunk, threads);
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
      if constexpr (kGroups)
        if (step % 2 == 1 && (GroupEnds(p).from(static_cast<int>(chunk) * 2) >> step / 2 & 1) != 0)
          add_group(block, step / 2, threads);
    }
  }

  // In front of the products that they are waited for behind.
  static BITLAB_HOST_DEVICE void read_group_scales(const Block& block, const TernaryGemmArgs& p, const Place& first,
                                                   int64_t chunk, Threads& threads) {
    const GroupEnds groups(p);
    const int from = static_cast<int>(chunk) * 2;
    const uint32_t ends = groups.from(from);
    block.each([&](int thread) {
      BITLAB_UNROLL for (int half = 0; half < 2; ++half) BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile)
          BITLAB_UNROLL for (int upper = 0; upper < 2; ++upper) {
        const int64_t row = row_of(first, thread, tile, upper);
        if ((ends >> half & 1) == 0 || row >= p.rows) continue;
        threads[thread].group_scale[half][tile].at[upper] = group_scale_at(p, groups.group(from + half), row) / 64;
      }
    });
  }

  // Adds the group that ends with a half chunk; sums begin again. Those of 256 k are exact as floats, and so are scales, which have 16 bits, over 64:
  // the product is that of what they stand for.
  static BITLAB_HOST_DEVICE void add_group(const Block& block, int half, Threads& threads) {
    block.each([&](int thread) {
      Registers& r = threads[thread];
      BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) BITLAB_UNROLL for (int column = 0; column < kColumns; ++column)
          BITLAB_UNROLL for (int i = 0; i < 4; ++i) {
        int32_t& sum = r.sum[0][tile][column].at[i];
        float& total = r.total[tile][column].at[i];
        total = total + static_cast<float>(sum) * r.group_scale[half][tile].at[i / 2];
        sum = 0;
      }
    });
  }

  // Results, from where mma lays sums over a warp, a row of a thread at a time.
  static BITLAB_HOST_DEVICE void finish_all(const Block& block, const Args& args, const Place& first, const Shared& shared,
                                            Threads& threads) {
    constexpr int kCount = 2 * kColumns;
    const TernaryGemmArgs& p = args.p;
    block.each([&](int thread) {
      const int from = first_token(thread) + thread % cuda::kWarp % 4 * 2;
      float scales[kCount];
      int64_t places[kCount];  // of a token's first result
      BITLAB_UNROLL for (int i = 0; i < kCount; ++i) {
        const int within = from + i / 2 * 8 + i % 2;
        const int64_t token = first.token + within;
        const bool exists = token < args.tokens;
        scales[i] = exists ? token_scale(p, kGathers ? shared.pixels[within].sample : token) : 0.0F;
        places[i] = exists ? token * p.y_stride : -1;
      }
      BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) BITLAB_UNROLL for (int upper = 0; upper < 2; ++upper) {
        const int64_t row = row_of(first, thread, tile, upper);
        if (row >= p.rows) continue;
        const RowConstants constants = RowConstants::of(p, row);
        float y[kCount];
        BITLAB_UNROLL for (int i = 0; i < kCount; ++i) {
          const auto sum = [&](int set) { return threads[thread].sum[set][tile][i / 2].at[upper * 2 + i % 2] >> 6; };
          if constexpr (kGroups) {
            y[i] = threads[thread].total[tile][i / 2].at[upper * 2 + i % 2] * scales[i];
          } else if constexpr (kScaling == TernaryScaling::kTwo) {
            y[i] = scaled(constants, sum(0), sum(1), scales[i]);
          } else {
            y[i] = scaled(constants, sum(0), scales[i]);
          }
        }
        const auto at = [&](int i) { return places[i] < 0 ? -1 : places[i] + row; };
        finish_some(
            p, [&](int) { return constants; }, at, y);
        store_some(p, at, y);
      }
    });
  }

  static BITLAB_HOST_DEVICE void run(const Block& block, const Args& args, Shared& shared) {
    const int64_t chunks = mma_chunks(args.p.depth);
    const Place first(block, args);
    Threads threads;
    cuda::Copies copies;
    if constexpr (kGathers) find_pixels(block, args, first, shared);
    read_codes(block, args.p, first, 0, threads);
    copy_q(block, args, first, 0, shared, copies);
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      copies.wait();
      block.sync();  // and so nobody reads the other stage any more
      if (chunk + 1 < chunks) copy_q(block, args, first, chunk + 1, shared, copies);
      block.each([&](int thread) {
        BITLAB_UNROLL for (int tile = 0; tile < kTiles; ++tile) threads[thread].codes[tile] = threads[thread].next[tile];
      });
      read_codes(block, args.p, first, chunk + 1, threads);
      multiply(block, args.p, first, chunk, shared.q[chunk % kStages], threads);
    }
    finish_all(block, args, first, shared, threads);
  }
};

// By blocks of more rows and tokens where they keep all multiprocessors at work.
template <bool kGathers>
const char* start_tiles(const TilesArgs& args, void* stream) {
  const auto start = [&](auto tiles) { return cuda::launch<decltype(tiles)>(decltype(tiles)::grid(args), args, stream); };
  const auto is_enough = [&](auto tiles) { return decltype(tiles)::grid(args).x >= cuda::multiprocessors(); };
  return with_scaling(args.p, [&](auto scaling) {
    constexpr TernaryScaling kScaling = decltype(scaling)::value;
    if constexpr (kScaling == TernaryScaling::kOne)  // the others have two sets of sums
      if (args.p.rows > 64 && is_enough(MmaTiles<4, 8, kScaling, kGathers>()))
        return start(MmaTiles<4, 8, kScaling, kGathers>());
    if (is_enough(MmaTiles<2, 8, kScaling, kGathers>())) return start(MmaTiles<2, 8, kScaling, kGathers>());
    return start(MmaTiles<2, 4, kScaling, kGathers>());
  });
}

}  // namespace bitlab::kernels
