// How the values of a program lie in memory. Callers pass and get everything row-major; inside, what convolutions and pools touch is stored
// channels last, [batch, sizes..., channels], as their kernels read it.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "bitlab/base/thread_pool.h"
#include "bitlab/program/program.h"
#include "bitlab/program/strided_view.h"

namespace bitlab::kernels {
struct CudaCopy;
}

namespace bitlab::runtime {

using program::StridedView;

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

// The order in which a tensor's dimensions follow each other in memory.
std::vector<int64_t> memory_order(size_t rank, Layout layout);

// A tensor of this shape in this layout.
StridedView view_of(std::vector<int64_t> shape, Layout layout);

// A copy of the elements of one view to those of another with the same sizes: made once, run as often as there is data.
struct StridedCopy {
  StridedView from, to;
  int64_t element_bytes;  // 1, 2, 4 or 8

  // To where the elements follow each other.
  static StridedCopy in_rows(StridedView from, int64_t element_bytes);
  // Where the source has the elements one behind the other as the target is to have them: bytes from its beginning. Nothing: they have to be copied.
  std::optional<int64_t> found_at() const;
  // On the pool's threads.
  void run(const void* source, void* target, ThreadPool& pool) const;
  // The same for a device's memory (kernels/movement/cuda/movement.h), without its pointers.
  kernels::CudaCopy on_device() const;
};

}  // namespace bitlab::runtime
