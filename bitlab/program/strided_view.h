// A tensor seen through strides: what moving, broadcasting and reordering values comes down to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bitlab::program {

// Sizes, strides and the offset of the first element, in elements. Strides saturate: sizes beside one of 0 may be any.
struct StridedView {
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;

  // A tensor of this shape, whose dimensions follow each other in memory in the order of the shape, or in another one.
  explicit StridedView(std::vector<int64_t> shape);
  StridedView(std::vector<int64_t> shape, const std::vector<int64_t>& memory_order);
  // The dimensions in another order; `order` is a permutation.
  StridedView permuted(const std::vector<int64_t>& order) const;
  // Repeated to `shape`, whose last dimensions are this view's or broadcast from them, as NumPy does.
  StridedView broadcast(const std::vector<int64_t>& shape) const;
  // `length` elements of a dimension from `start` on, which counts from the end where it is negative; each `step` from the one before.
  StridedView part(size_t dim, int64_t start, int64_t length, int64_t step = 1) const;
};

}  // namespace bitlab::program
