// Products that the host runs, too, and which of them serves a problem.
#pragma once

#include "bitlab/kernels/internal/cuda_launch.h"
#include "bitlab/kernels/ternary_gemm/cuda/mma_body.h"
#include "bitlab/kernels/ternary_gemm/cuda/mma_tiles_body.h"

namespace bitlab::kernels {

// What is wrong with where weights and q lie, which kernels read 16 bytes at a time; or null.
inline const char* wrong_places(const TernaryGemmArgs& p) {
  const uint64_t all =
      reinterpret_cast<uintptr_t>(p.weights) | reinterpret_cast<uintptr_t>(p.q) | static_cast<uint64_t>(p.q_stride);
  return all % 16 == 0 ? nullptr : "weights and q aligned to 16";
}

BITLAB_HOST_DEVICE bool fits_mma(const TernaryGemmArgs& p) { return p.depth > 0 && p.depth <= kMmaMaxDepth; }

// A thread for each result; every depth.
struct EachResult {
  TernaryGemmArgs p;
  int64_t count;  // results

  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t token = cuda::divided(i, p.rows), row = i - token * p.rows;
    const int8_t* q = p.q + token * p.q_stride;
    int32_t sum = 0, magnitude = 0;
    float total = 0;
    for (int64_t k = 0; k < p.depth; ++k) {
      const int t = mma_weight(p.weights, row, k, p.depth);
      sum += t * q[k];
      magnitude += (t & 1) * q[k];
      if (p.group == 0 || ((k + 1) % p.group != 0 && k + 1 < p.depth)) continue;
      total = total + static_cast<float>(sum) * group_scale_at(p, k / p.group, row);
      sum = 0;
    }
    const RowConstants constants = RowConstants::of(p, row);
    const float a = token_scale(p, token);
    const TernaryScaling scaling = scaling_of(p);
    const float y = scaling == TernaryScaling::kGroups ? total * a
                    : scaling == TernaryScaling::kTwo  ? scaled(constants, sum, magnitude, a)
                                                       : scaled(constants, sum, a);
    finish(p, constants, y, token, row);
  }
};

// What follows sums that others made.
struct EachSumOfOthers {
  TernaryGemmArgs p;
  const int32_t* sums;
  int64_t sum_stride, count;

  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    const int64_t token = cuda::divided(i, p.rows), row = i - token * p.rows;
    const RowConstants constants = RowConstants::of(p, row);
    finish(p, constants, scaled(constants, sums[token * sum_stride + row], token_scale(p, token)), token, row);
  }
};

// A thread packs a word: four k of four rows and halves of a step.
struct EachWordOfWeights {
  const int8_t* t;
  int64_t rows, depth;
  uint8_t* packed;
  int64_t count;
  bool fours;

  EachWordOfWeights(const int8_t* codes, int64_t rows_, int64_t depth_, uint8_t* to)
      : t(codes),
        rows(rows_),
        depth(depth_),
        packed(to),
        count(mma_bytes(rows, depth) / 4),
        fours(cuda::are_fours(t, depth)) {}

  BITLAB_HOST_DEVICE void operator()(int64_t i) const {
    constexpr int64_t kWords = kMmaTileBytes / 4;
    const int64_t tile = cuda::divided(i, kWords), chunks = mma_chunks(depth), row_tile = cuda::divided(tile, chunks);
    const auto lane = static_cast<int>(i % kWords / 4), step = static_cast<int>(i % 4);
    const int64_t row0 = row_tile * kMmaRows + lane / 4,
                  k0 = (tile - row_tile * chunks) * kMmaDepth + step * 32 + lane % 4 * 4;
    uint32_t word = 0;
    BITLAB_UNROLL for (int r = 0; r < 4; ++r) {
      const int64_t row = row0 + r % 2 * 8, k = k0 + r / 2 * 16;
      if (row >= rows || k >= depth) continue;
      const int8_t* from = t + row * depth + k;
      uint32_t codes = 0;  // a byte each
      if (fours) {
        std::memcpy(&codes, cuda::aligned<sizeof(codes)>(from), sizeof(codes));
      } else {
        BITLAB_UNROLL for (int j = 0; j < 4; ++j) if (k + j < depth) codes |=
            static_cast<uint32_t>(static_cast<uint8_t>(from[j])) << 8 * j;
      }
      word |= (codes & 0x03030303U) << 2 * r;
    }
    std::memcpy(cuda::aligned<sizeof(word)>(packed + i * 4), &word, sizeof(word));
  }
};

// Whether blocks of MmaTiles serve better than those of MmaProduct, of which each reads the codes for 16 tokens: there are many tokens, and enough of the
// smaller blocks for half of the device's multiprocessors.
inline bool is_for_tiles(const TernaryGemmArgs& p, int64_t tokens) {
  const int64_t blocks = cuda::blocks_for(p.rows, 64) * cuda::blocks_for(tokens, 64);
  return tokens > 16 && blocks * 2 >= cuda::multiprocessors();
}

// The same product from a token on.
inline TernaryGemmArgs from_token(TernaryGemmArgs p, int64_t token) {
  const int64_t y = token * p.y_stride;
  p.q += token * p.q_stride, p.a += token * p.a_stride;
  if (p.residual != nullptr) p.residual += y;
  if (p.y_q != nullptr) p.y_q += y;
  if (p.y != nullptr && p.y_type == CudaType::kFloat32) p.y += y;
  if (p.y != nullptr && p.y_type != CudaType::kFloat32) p.y = reinterpret_cast<float*>(reinterpret_cast<uint16_t*>(p.y) + y);
  return p;
}

// Calls with the product of mma.sync for so many tokens.
template <TernaryScaling kScaling, class Start>
const char* with_product_of(const TernaryGemmArgs& p, int64_t tokens, const Start& start) {
  if constexpr (kScaling == TernaryScaling::kGroups) {
    if (tokens > 8) return start(MmaProduct<2, 2, 4, 1, kScaling>());
    return start(MmaProduct<1, 1, 8, 1, kScaling>());
  } else {
    if (tokens > 8) return start(MmaProduct < 2, 2, kScaling == TernaryScaling::kOne ? 8 : 4, 1, kScaling > ());
    // Taller blocks read q less often, which counts where its rows do not stay in the first cache.
    if constexpr (kScaling == TernaryScaling::kOne)
      if (tokens > 4 && p.depth >= 16384) return start(MmaProduct<4, 1, 16, 1, kScaling>());
    if (tokens > 2) return start(MmaProduct<2, 1, 8, 2, kScaling>());
    return start(MmaProduct<1, 1, 4, 4, kScaling>());
  }
}
template <class Start>
const char* with_mma_product(const TernaryGemmArgs& p, int64_t tokens, const Start& start) {
  return with_scaling(p, [&](auto scaling) { return with_product_of<decltype(scaling)::value>(p, tokens, start); });
}

}  // namespace bitlab::kernels
