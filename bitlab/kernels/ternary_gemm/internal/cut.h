// How a product is cut into calls of its kernel.
#pragma once

#include <algorithm>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/base/internal/float_environment.h"
#include "bitlab/base/thread_pool.h"
#include "bitlab/kernels/ternary_gemm/arguments.h"

namespace bitlab::kernels {

// The part of a layer that belongs to one of `groups` of its rows, each with weight_bytes of packed weights.
inline TernaryGemmArgs rows_of_group(TernaryGemmArgs layer, int64_t groups, int64_t group, int64_t weight_bytes) {
  const int64_t rows = layer.rows / groups, first = group * rows;
  layer.rows = rows;
  layer.weights += group * weight_bytes;
  layer.scale += first * layer.scale_stride;
  for (const float** values : {&layer.bias, &layer.alpha, &layer.beta})
    if (*values != nullptr) *values += first;
  if (layer.scale_neg != nullptr) layer.scale_neg += first * layer.scale_stride;
  if (layer.residual != nullptr) layer.residual += first;
  if (layer.y != nullptr) layer.y += first;
  if (layer.y_q != nullptr) layer.y_q += first;
  return layer;
}

// The same layer with its results `tokens` further on.
inline TernaryGemmArgs results_at(TernaryGemmArgs layer, int64_t tokens) {
  if (layer.residual != nullptr) layer.residual += tokens * layer.y_stride;
  if (layer.y != nullptr) layer.y += tokens * layer.y_stride;
  if (layer.y_q != nullptr) layer.y_q += tokens * layer.y_stride;
  return layer;
}

inline constexpr int64_t kTokenUnit = 16;  // tokens that kernels take together, at most

// All tokens and rows, on the pool's threads; each has scratch_bytes of `scratch`. Tokens by up to 64; rows as long as there are enough calls for
// all threads, since a kernel may prepare a block of tokens once for all rows of a call.
inline void run_in_parts(TernaryGemmKernel* kernel, const TernaryGemmArgs& args, int64_t tokens, uint8_t* scratch,
                         int64_t scratch_bytes, ThreadPool& pool) {
  if (tokens == 0 || args.rows == 0) return;
  if (args.depth == 0) kernel = ternary_gemm_reference;  // It reads neither weights nor q; others count on a first step.
  // Below this many products a hand-over to other threads costs more than it saves.
  constexpr int64_t kMinProducts = 1 << 18, kMostRows = 2048;
  if (pool.threads() == 1 || tokens * args.rows * args.depth < kMinProducts) {
    ScopedFloatEnvironment environment;
    kernel(args, 0, tokens, 0, args.rows, scratch);
    return;
  }
  const EvenParts blocks(tokens, kSumTokens, kTokenUnit, 1, pool.threads());
  const int64_t wanted = blocks.parts >= pool.threads() ? 1 : ceil_div(pool.threads(), blocks.parts);
  const int64_t rows = std::min(round_up(ceil_div(args.rows, wanted), kVnBlock), kMostRows);
  const int64_t row_parts = ceil_div(args.rows, rows);
  pool.run(blocks.parts * row_parts, [&](int64_t i, int worker) {
    const int64_t block = i / row_parts, first = i % row_parts * rows;
    kernel(args, blocks.begin(block), blocks.begin(block + 1), first, std::min(first + rows, args.rows),
           scratch + worker * scratch_bytes);
  });
}

}  // namespace bitlab::kernels
