// How the values of a program lie in memory. Callers pass and get everything row-major; inside, what convolutions and pools touch is stored
// channels last, [batch, sizes..., channels], as their kernels read it.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "bitlab/base/thread_pool.h"
#include "bitlab/program/program.h"

namespace bitlab::runtime {

enum class Layout { kRowMajor, kChannelsLast };

class Layouts {
 public:
  Layouts() = default;
  explicit Layouts(const program::Program& program);
  Layout of(program::ValueId id) const { return layouts_[static_cast<size_t>(id)]; }

 private:
  std::vector<Layout> layouts_;
};

// What a node's kernel reads its activations as; nothing for nodes that take any layout.
std::optional<Layout> wanted_layout(const program::Node& node);

// A tensor seen through strides, in elements: what moving, broadcasting and reordering values comes down to.
struct StridedView {
  std::vector<int64_t> sizes, strides;
  int64_t offset = 0;

  // A tensor of this shape, its dimensions in the order of the shape.
  StridedView(std::vector<int64_t> shape, Layout layout);
  // The dimensions in another order; `order` is a permutation.
  StridedView permuted(const std::vector<int64_t>& order) const;
  // A tensor of these sizes whose elements follow each other.
  StridedView in_rows() const { return {sizes, Layout::kRowMajor}; }
  // Repeated to `shape`, whose last dimensions are this view's or broadcast from them.
  StridedView broadcast(const std::vector<int64_t>& shape) const;
};

// The order in which a tensor's dimensions follow each other in memory.
std::vector<int64_t> memory_order(size_t rank, Layout layout);

// Copies the elements of one view to those of another with the same sizes, on the pool's threads. `element_bytes`: 1, 2, 4 or 8.
void copy_strided(const StridedView& from, const void* source, const StridedView& to, void* target, int64_t element_bytes,
                  ThreadPool& pool);

}  // namespace bitlab::runtime
