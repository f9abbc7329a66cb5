// The order of sums over weights, which fixes their bits. In float64, rounded to nearest:
//
//   1. The values are cut into blocks of kSumBlock, from the first one on; the last block may be shorter.
//   2. In a block, lane j of kSumLanes begins with +0 and adds the values j, j + 16, j + 32, ... one after another. Then halves of the lanes
//      are added, lane[j] += lane[j + width] for j < width, with width 8, 4, 2 and 1. Lane 0 is the sum of the block.
//   3. The sums of blocks are added level by level, s[i] = s[2 i] + s[2 i + 1], where an odd last one moves up as it is, until one is left.
//
// The bits depend on the values and their order alone. A piece of 2^n blocks that begins at a multiple of 2^n blocks is a subtree of step 3,
// and sums of such pieces are added as blocks are: threads, or the grid of a GPU, may share the work in any such way. No partial sum is
// -0, so zeros behind the last value change nothing, in the last block or as whole blocks.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <span>

namespace bitlab::ternary {

inline constexpr size_t kSumBlock = 4096, kSumLanes = 16;

constexpr size_t sum_blocks(size_t values) { return (values + kSumBlock - 1) / kSumBlock; }

// Block i of some values.
template <class T>
std::span<T> sum_block(std::span<T> values, size_t i) {
  return values.subspan(i * kSumBlock, std::min(kSumBlock, values.size() - i * kSumBlock));
}

// Step 2: the sum of term(w[i]), a double, of up to kSumBlock values.
template <class Term>
double sum_in_block(std::span<const float> w, Term term) {
  std::array<double, kSumLanes> lane{};
  const size_t whole = w.size() / kSumLanes * kSumLanes;
  for (size_t i = 0; i < whole; i += kSumLanes)
    for (size_t j = 0; j < kSumLanes; ++j) lane[j] += term(w[i + j]);
  for (size_t i = whole; i < w.size(); ++i) lane[i - whole] += term(w[i]);
  for (size_t width = kSumLanes / 2; width > 0; width /= 2)
    for (size_t j = 0; j < width; ++j) lane[j] += lane[j + width];
  return lane[0];
}

// Step 3 for s[i] = leaf(i), i in [first, first + count), count >= 1. On the left of each addition is the largest whole subtree, which is what
// adding by levels comes to.
template <class Leaf>
auto tree_sum(size_t count, const Leaf& leaf, size_t first = 0) -> decltype(leaf(first)) {
  if (count == 1) return leaf(first);
  const size_t left = std::bit_floor(count - 1);
  const auto sum = tree_sum(left, leaf, first);
  return sum + tree_sum(count - left, leaf, first + left);
}

// All three steps, of one value at least.
template <class Term>
double ordered_sum(std::span<const float> w, Term term) {
  return tree_sum(sum_blocks(w.size()), [&](size_t i) { return sum_in_block(sum_block(w, i), term); });
}

}  // namespace bitlab::ternary
