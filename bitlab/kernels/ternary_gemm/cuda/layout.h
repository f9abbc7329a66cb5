// The layout kMma of packed ternary weights, which tensor cores read: codes pass from memory into the registers of a matrix instruction, without
// shared memory.
//
// Tiles of 16 rows x 128 k lie one after another along k, then along the rows; padding is t = 0. A tile is four steps of 32 k. Lane l of a warp reads
// its 16 bytes at 16 l: a word for each step s, whose bits 8 j + 2 i and 8 j + 2 i + 1 are t in two's complement, for byte j of register i of the
// fragment `a` (cuda_block.h): row l / 4 + 8 (i % 2), k = 32 s + 16 (i / 2) + 4 (l % 4) + j. Two bits a weight.
//
// A register is one shift and one mask away: its bytes are 64 t, and sums 64 times too large, which fits 32 bits up to kMmaMaxDepth.
#pragma once

#include <cstdint>

#include "bitlab/kernels/internal/cuda_block.h"

namespace bitlab::kernels {

inline constexpr int64_t kMmaRows = 16, kMmaDepth = 128, kMmaTileBytes = kMmaRows * kMmaDepth / 4;
inline constexpr int64_t kMmaMaxDepth = (int64_t{1} << 31) / (64 * 127) / kMmaDepth * kMmaDepth;  // 264192

constexpr int64_t mma_chunks(int64_t depth) { return (depth + kMmaDepth - 1) / kMmaDepth; }
constexpr int64_t mma_tiles(int64_t rows) { return (rows + kMmaRows - 1) / kMmaRows; }
constexpr int64_t mma_bytes(int64_t rows, int64_t depth) { return mma_tiles(rows) * mma_chunks(depth) * kMmaTileBytes; }

// How sums become results: by one scale a row or tensor, by one for each sign, by scales of groups of k.
enum class TernaryScaling { kOne, kTwo, kGroups };

// Register i of a step: bytes of 64 t.
BITLAB_HOST_DEVICE uint32_t expanded(uint32_t word, int i) { return (word << (6 - 2 * i)) & 0xC0C0C0C0U; }
// Of 64 |t|.
BITLAB_HOST_DEVICE uint32_t magnitudes(uint32_t expanded_word) { return expanded_word & 0x40404040U; }

// Where the weight (row, k) stands: a byte of the packed weight, and the shift of its two bits.
struct MmaPlace {
  int64_t byte;
  int shift;
};
BITLAB_HOST_DEVICE MmaPlace mma_place(int64_t row, int64_t k, int64_t depth) {
  const int64_t tile = row / kMmaRows * mma_chunks(depth) + k / kMmaDepth, step = k % kMmaDepth / 32;
  const auto lane = row % 8 * 4 + k % 16 / 4;
  const auto i = static_cast<int>(row % kMmaRows / 8 + k % 32 / 16 * 2);
  return {tile * kMmaTileBytes + lane * 16 + step * 4 + k % 4, 2 * i};
}
BITLAB_HOST_DEVICE int mma_weight(const uint8_t* weights, int64_t row, int64_t k, int64_t depth) {
  const MmaPlace at = mma_place(row, k, depth);
  const int bits = weights[at.byte] >> at.shift & 3;
  return bits == 3 ? -1 : bits;
}

}  // namespace bitlab::kernels
