// Sixteen partial sums and their tree (simd.h), by threads: several rows a block, sixteen threads a row.
#pragma once

#include "bitlab/kernels/internal/cuda_block.h"

namespace bitlab::cuda {

inline constexpr int kSumLanes = 16;

// The tree of halves over each sixteen of the values in shared memory: lane i with lane i + 8, then i + 4, i + 2, i + 1. The result is in lane 0; all
// threads see it.
template <int kThreads, class T, class Op>
BITLAB_HOST_DEVICE void tree(const Block<kThreads>& block, T (&lanes)[kThreads], const Op& op) {
  block.sync();
  for (int half = kSumLanes / 2; half > 0; half /= 2) {
    block.each([&](int thread) {
      if (thread % kSumLanes < half) lanes[thread] = op(lanes[thread], lanes[thread + half]);
    });
    block.sync();
  }
}
template <int kThreads, class T>
BITLAB_HOST_DEVICE void tree_sum(const Block<kThreads>& block, T (&lanes)[kThreads]) {
  tree(block, lanes, [](T a, T b) { return a + b; });
}
// Without NaN.
template <int kThreads>
BITLAB_HOST_DEVICE void tree_largest(const Block<kThreads>& block, float (&lanes)[kThreads]) {
  tree(block, lanes, [](float a, float b) { return a > b ? a : b; });
}

}  // namespace bitlab::cuda
