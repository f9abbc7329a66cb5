// The product on Hopper. A block makes tiles of kWorkers * 64 rows and kTokens tokens, one after another. Its warps have roles:
//
//   one copies q, 128 k at a time, into a ring in shared memory, and has the cache fetch codes that are needed soon;
//   kWorkers warpgroups read codes from memory straight into the registers of their matrix instructions; while one waits for its sums, the others
//     prepare their next operands. They leave a tile's sums in shared memory;
//   three warps make results of these, while the next tile is multiplied.
//
// Where rows and tokens give too few tiles for the machine, the blocks of a cluster share the depth of one and add their sums, which are exact,
// through each other's shared memory.
#pragma once

#include <cooperative_groups.h>

#include "bitlab/kernels/ternary_gemm/cuda/epilogue.h"
#include "bitlab/kernels/ternary_gemm/cuda/layout.h"
#include "bitlab/kernels/ternary_gemm/cuda/wgmma.cuh"

namespace bitlab::kernels::hopper {

using namespace cuda::hopper;

inline constexpr int kGroupThreads = 128, kGroupWarps = 4;
inline constexpr int kFinishers = 3;  // warps, beside the one that copies

// Barriers of some warps of a block, by number.
struct WarpBarrier {
  int id, threads;
  __device__ __forceinline__ void sync() const { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
  __device__ __forceinline__ void arrive() const { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
};

template <int kWorkers_, int kTokens_, int kStages_>
struct WgmmaProduct {
  static constexpr int kWorkers = kWorkers_;  // warpgroups that multiply
  static constexpr int kTokens = kTokens_, kStages = kStages_;
  static constexpr int kWorkerThreads = kWorkers * kGroupThreads, kSumThreads = kWorkerThreads + kFinishers * cuda::kWarp;
  static constexpr int kThreads = kWorkerThreads + kGroupThreads;
  // Registers of a thread: what the kernel is compiled for, and what its roles make of that.
  static constexpr int kRegisters = 65536 / kThreads / 8 * 8, kHelperRegisters = kWorkers == 2 ? 72 : 56;
  static constexpr int kWorkerRegisters = (kRegisters * kThreads - kHelperRegisters * kGroupThreads) / kWorkerThreads / 8 * 8;
  static constexpr int kRows = kWorkers * 64, kSums = kTokens / 2;
  static constexpr int kAhead = 4;     // chunks whose codes are on their way to registers
  static constexpr int kFetched = 16;  // and to the cache
  static constexpr int kStageBytes = kTokens * static_cast<int>(kMmaDepth);
  // A token's rows follow each other, and tokens lie so far apart that a warp's stores meet every bank once.
  static constexpr int kTokenStride = kRows + 4;

  struct Shared {
    alignas(1024) int8_t q[kStages][kStageBytes];
    alignas(16) int32_t sum[kTokens * kTokenStride];
    Barrier full[kStages], empty[kStages];
  };
  static constexpr size_t kSharedBytes = sizeof(Shared) + 1024;  // for the alignment

  // Tiles and chunks of a block.
  struct Work {
    int64_t row_tiles, token_tiles, chunks;
    int64_t begin, end;   // chunks
    int64_t first, step;  // tiles: first, first + step, ...

    __device__ __forceinline__ Work(const TernaryGemmArgs& p, int64_t tokens, unsigned share, unsigned rank)
        : row_tiles((p.rows + kRows - 1) / kRows),
          token_tiles((tokens + kTokens - 1) / kTokens),
          chunks(mma_chunks(p.depth)),
          begin(static_cast<unsigned>(chunks) * rank / share),
          end(static_cast<unsigned>(chunks) * (rank + 1) / share),
          first(blockIdx.x / share),
          step(gridDim.x / share) {}
    __device__ __forceinline__ int64_t tiles() const { return row_tiles * token_tiles; }
    // Tiles that run at the same time are near each other in both directions, so that the cache serves them.
    struct Tile {
      int64_t row, token;  // the first ones
    };
    __device__ __forceinline__ Tile tile(int64_t i) const {  // in 32 bits: no memory has the results of more tiles
      constexpr unsigned kBand = 8;
      const auto number = static_cast<unsigned>(i), across = static_cast<unsigned>(row_tiles), down = static_cast<unsigned>(token_tiles);
      const unsigned band = number / (kBand * across), height = min(down - band * kBand, kBand), within = number - band * kBand * across;
      return {static_cast<int64_t>(within / height) * kRows, static_cast<int64_t>(band * kBand + within % height) * kTokens};
    }
  };

  // A count of chunks as a place in the ring.
  struct Place {
    uint32_t stage, parity;
    __device__ __forceinline__ explicit Place(uint32_t count) : stage(count % kStages), parity(count / kStages & 1) {}
  };

  static __device__ __forceinline__ void fetch(const TernaryGemmArgs& p, const Work& work, int64_t row, int64_t begin, int64_t end) {
    const int64_t tile = row / 16 + threadIdx.x;
    if (threadIdx.x >= kRows / 16 || tile >= mma_tiles(p.rows) || begin >= work.end) return;
    const uint8_t* from = p.weights + (tile * work.chunks + begin) * kMmaTileBytes;
    const auto bytes = static_cast<uint32_t>((min(end, work.end) - begin) * kMmaTileBytes);
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
  }

  static __device__ __forceinline__ void copy(const CUtensorMap& map, const TernaryGemmArgs& p, const Work& work, Shared& shared) {
    constexpr int kPart = kFetched / 2;
    uint32_t count = 0;
    fetch(p, work, work.tile(work.first).row, work.begin, work.begin + kFetched);
    cuda::wait_for_earlier_work();  // q comes from it; codes do not
    for (int64_t i = work.first; i < work.tiles(); i += work.step) {
      const auto tile = work.tile(i);
      if (i != work.first) fetch(p, work, tile.row, work.begin, work.begin + kFetched);
      for (int64_t chunk = work.begin; chunk < work.end; ++chunk, ++count) {
        const Place at(count);
        if (count >= kStages) shared.empty[at.stage].wait(at.parity ^ 1);
        if (threadIdx.x == 0) {
          shared.full[at.stage].arrive_and_expect(kStageBytes);
          copy_box(shared.q[at.stage], map, static_cast<int>(chunk * kMmaDepth), static_cast<int>(tile.token), shared.full[at.stage]);
        }
        if ((chunk - work.begin) % kPart == kPart - 1) fetch(p, work, tile.row, chunk + 1 + kPart, chunk + 1 + kFetched);
      }
    }
  }

  using Sums = int32_t[kSums];

  // The first row within a tile that the warp multiplies.
  static __device__ __forceinline__ int first_row() { return (static_cast<int>(threadIdx.x / cuda::kWarp) - kGroupWarps) * 16; }

  // The chunks of all tiles of a block in one row. Codes are on their way kAhead chunks before they are needed, across the ends of tiles.
  struct Stream {
    const TernaryGemmArgs& p;
    const Work& work;
    uint4 ahead[kAhead];
    uint32_t count = 0;

    __device__ __forceinline__ Stream(const TernaryGemmArgs& args, const Work& blocks) : p(args), work(blocks) {
      const uint8_t* from = codes(work.first);
#pragma unroll
      for (int i = 0; i < kAhead; ++i) ahead[i] = read(from + i * kMmaTileBytes);
    }

    // Where the warp's codes of a tile begin. Rows and tiles that do not exist have those of others, and their sums are left alone.
    __device__ __forceinline__ const uint8_t* codes(int64_t tile) const {
      const int64_t rows = (work.tile(min(tile, work.tiles() - 1)).row + first_row()) / 16;
      return p.weights + (min(rows, mma_tiles(p.rows) - 1) * work.chunks + work.begin) * kMmaTileBytes + threadIdx.x % cuda::kWarp * 16;
    }
    // What lies behind the last chunk of a weight, where a tile has fewer than kAhead, is not touched.
    __device__ __forceinline__ uint4 read(const uint8_t* from) const {
      const uint8_t* end = p.weights + mma_bytes(p.rows, p.depth);
      return __ldg(reinterpret_cast<const uint4*>(from < end ? from : end - 16));
    }

    __device__ __forceinline__ void multiply(int64_t tile, Shared& shared, Sums& sum) {
      const auto chunks = static_cast<int>(work.end - work.begin);
      const uint8_t *here = codes(tile) + kAhead * kMmaTileBytes, *next = codes(tile + work.step);
      for (int begin = 0; begin < chunks; begin += kAhead, here += kAhead * kMmaTileBytes) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (begin + i >= chunks) break;
          const uint4 words = ahead[i];
          uint32_t a[4][4];
#pragma unroll
          for (int r = 0; r < 4; ++r) {
            a[0][r] = expanded(words.x, r);
            a[1][r] = expanded(words.y, r);
            a[2][r] = expanded(words.z, r);
            a[3][r] = expanded(words.w, r);
          }
          ahead[i] = read((begin + i + kAhead < chunks ? here : next) + i * kMmaTileBytes);
#pragma unroll
          for (int step = 0; step < 4; ++step) written_above(a[step]);
          const Place at(count++);
          shared.full[at.stage].wait(at.parity);
          const uint64_t b = matrix(shared.q[at.stage]);
          begin_batch();
#pragma unroll
          for (int step = 0; step < 4; ++step) Multiply<kTokens>::add(sum, a[step], b + 2 * step);
          end_batch();
          wait_for_batch();
          if (threadIdx.x % cuda::kWarp == 0) shared.empty[at.stage].arrive();
        }
      }
    }
  };

  // The sums of the tile to shared memory, from where wgmma lays them over a warp.
  static __device__ __forceinline__ void share(const Sums& sum, Shared& shared) {
    const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
    int32_t* to = shared.sum + lane % 4 * 2 * kTokenStride + first_row() + lane / 4;
#pragma unroll
    for (int i = 0; i < kSums; ++i) to[(i / 4 * 8 + i % 2) * kTokenStride + i % 4 / 2 * 8] = sum[i] >> 6;
  }

  // Sums of four rows of a token, of all blocks that share the tile.
  static __device__ __forceinline__ int4 total(Shared& shared, unsigned blocks, int at) {
    if (blocks == 1) return *reinterpret_cast<const int4*>(shared.sum + at);
    auto cluster = cooperative_groups::this_cluster();
    int4 sum = make_int4(0, 0, 0, 0);
    for (unsigned block = 0; block < blocks; ++block) {
      const int4 more = *reinterpret_cast<const int4*>(cluster.map_shared_rank(shared.sum, block) + at);
      sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }
    return sum;
  }

  // Whether the results of four rows side by side, from a multiple of four on, are a word of memory.
  static __device__ __forceinline__ bool has_whole_words(const TernaryGemmArgs& p) {
    const auto y = p.y_q == nullptr ? reinterpret_cast<uintptr_t>(p.y) : reinterpret_cast<uintptr_t>(p.y_q);
    return p.y_stride % 4 == 0 && y % (p.y_q != nullptr ? 4 : p.y_type == CudaType::kFloat32 ? 16 : 8) == 0;
  }
  static __device__ __forceinline__ void store_four(const TernaryGemmArgs& p, const float (&y)[4], int64_t at) {
    if (p.y_q != nullptr) {
      *reinterpret_cast<char4*>(p.y_q + at) = make_char4(quantized(p, y[0]), quantized(p, y[1]), quantized(p, y[2]), quantized(p, y[3]));
    } else if (p.y_type == CudaType::kFloat32) {
      *reinterpret_cast<float4*>(p.y + at) = make_float4(y[0], y[1], y[2], y[3]);
    } else {
      *reinterpret_cast<ushort4*>(reinterpret_cast<uint16_t*>(p.y) + at) =
          make_ushort4(short_bits(p, y[0]), short_bits(p, y[1]), short_bits(p, y[2]), short_bits(p, y[3]));
    }
  }

  // Results of the tokens rank, rank + blocks, ... of a tile, by `warps` warps of which this is number `warp`: a warp takes 128 rows of a token.
  static __device__ __forceinline__ void finish_tile(const TernaryGemmArgs& p, int64_t tokens, typename Work::Tile tile, Shared& shared,
                                                     unsigned rank, unsigned blocks, int warp, int warps) {
    constexpr int kBatch = kWorkers == 2 ? 4 : 2;  // tokens that are read before the first of them is stored
    const int64_t count = tokens - tile.token < kTokens ? tokens - tile.token : kTokens;
    const int64_t step = static_cast<int64_t>(blocks) * warps;
    const bool whole_words = has_whole_words(p);
#pragma unroll 1
    for (int within = static_cast<int>(threadIdx.x % cuda::kWarp) * 4; within < kRows; within += 128) {
      const int64_t row = tile.row + within, exist = p.rows - row;
      if (exist <= 0) continue;
      RowConstants constants[4];
#pragma unroll
      for (int r = 0; r < 4; ++r)
        if (r < exist) constants[r] = RowConstants::of(p, row + r);
#pragma unroll 1
      for (int64_t begin = rank + static_cast<int64_t>(blocks) * warp; begin < count; begin += step * kBatch) {
        int4 sum[kBatch];
        float a[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int64_t token = begin + i * step;
          if (token >= count) break;
          a[i] = token_scale(p, tile.token + token);
          sum[i] = total(shared, blocks, static_cast<int>(token) * kTokenStride + within);
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          const int64_t token = begin + i * step;
          if (token >= count) break;
          const int32_t of[4] = {sum[i].x, sum[i].y, sum[i].z, sum[i].w};
          const int64_t at = (tile.token + token) * p.y_stride + row;
          float y[4];
#pragma unroll
          for (int r = 0; r < 4; ++r) y[r] = scaled(constants[r], of[r], a[i]);
          const auto place = [&](int r) { return r < exist ? at + r : -1; };
          finish_some(p, [&](int r) { return constants[r]; }, place, y);
          if (whole_words && exist >= 4) {
            store_four(p, y, at);
          } else {
            store_some(p, place, y);
          }
        }
      }
    }
  }

  // A block alone: tiles one after another. The last one is finished by those who multiplied it, who have nothing else to do.
  static __device__ __forceinline__ void work_alone(const TernaryGemmArgs& p, int64_t tokens, const Work& work, Shared& shared) {
    constexpr WarpBarrier kAllWorkers{1, kWorkerThreads}, kSumsThere{2, kSumThreads}, kSumsRead{3, kSumThreads};
    const int warp = static_cast<int>(threadIdx.x / cuda::kWarp);
    if (threadIdx.x < kGroupThreads) {
      cuda::wait_for_earlier_work();
      for (int64_t i = work.first; i + work.step < work.tiles(); i += work.step) {
        kSumsThere.sync();
        finish_tile(p, tokens, work.tile(i), shared, 0, 1, warp - 1, kFinishers);
        kSumsRead.arrive();
      }
      return;
    }
    Stream stream(p, work);
    for (int64_t i = work.first; i < work.tiles(); i += work.step) {
      const auto tile = work.tile(i);
      Sums sum = {};
      stream.multiply(i, shared, sum);
      if (i != work.first) kSumsRead.sync();
      share(sum, shared);
      if (i + work.step < work.tiles()) {
        kSumsThere.arrive();
      } else {
        cuda::wait_for_earlier_work();
        kAllWorkers.sync();
        finish_tile(p, tokens, tile, shared, 0, 1, warp - kGroupWarps, kWorkers * kGroupWarps);
      }
    }
  }

  static __device__ __forceinline__ void run(const CUtensorMap& map, const TernaryGemmArgs& p, int64_t tokens, uint8_t* memory) {
    auto& shared = *reinterpret_cast<Shared*>(memory + (1024 - shared_address(memory) % 1024) % 1024);
    auto cluster = cooperative_groups::this_cluster();
    const unsigned share_of = cluster.num_blocks(), rank = cluster.block_rank();
    const Work work(p, tokens, share_of, rank);
    cuda::let_later_work_begin();
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) shared.full[i].init(1), shared.empty[i].init(kWorkers * kGroupWarps);
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    const int warp = static_cast<int>(threadIdx.x / cuda::kWarp);
    if (threadIdx.x < kGroupThreads) {
      shrink_registers<kHelperRegisters>();
      if (warp == 0) {
        copy(map, p, work, shared);
      } else if (share_of == 1) {
        work_alone(p, tokens, work, shared);
      }
      if (share_of > 1) cluster.sync(), cluster.sync();
    } else {
      grow_registers<kWorkerRegisters>();
      if (share_of == 1) {
        work_alone(p, tokens, work, shared);
        return;
      }
      const auto tile = work.tile(work.first);
      Stream stream(p, work);
      Sums sum = {};
      stream.multiply(work.first, shared, sum);
      cuda::wait_for_earlier_work();  // what is about to be written may still be read by it
      share(sum, shared);
      cluster.sync();
      finish_tile(p, tokens, tile, shared, rank, share_of, warp - kGroupWarps, kWorkers * kGroupWarps);
      cluster.sync();  // nobody leaves while others read
    }
  }
};

}  // namespace bitlab::kernels::hopper
