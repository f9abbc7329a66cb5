#include "bitlab/runtime/layout.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "bitlab/base/aligned_buffer.h"
#include "bitlab/kernels/movement/cuda/movement.h"

namespace bitlab::runtime {
namespace {

using program::ImageLayout;
using program::Node;
using program::Program;
using program::ValueId;

// A node that keeps layouts has that of the first activation of its result's shape.
Layout kept_layout(const Program& p, const Node& node, const std::vector<Layout>& layouts) {
  for (ValueId id : node.inputs)
    if (p.value(id).kind != program::ValueKind::kConstant && p.value(id).shape == p.value(node.output()).shape)
      return layouts[static_cast<size_t>(id)];
  return Layout::kRowMajor;
}

}  // namespace

std::optional<Layout> wanted_layout(const Node& node) {
  switch (program::schema(node.op).layout) {
    case ImageLayout::kRowMajor:
      return Layout::kRowMajor;
    case ImageLayout::kChannelsLast:
      return Layout::kChannelsLast;
    default:
      return std::nullopt;
  }
}

Layouts::Layouts(const Program& p) : layouts_(p.values.size(), Layout::kRowMajor) {
  std::vector<bool> read(p.values.size());
  for (const Node& node : p.nodes) {  // an input lies as its first reader wants it
    for (const ValueId id : node.inputs) {
      if (id == program::kNone || read[static_cast<size_t>(id)]) continue;
      read[static_cast<size_t>(id)] = true;
      if (p.value(id).kind == program::ValueKind::kInput)
        layouts_[static_cast<size_t>(id)] = wanted_layout(node).value_or(Layout::kRowMajor);
    }
  }
  for (const Node& node : p.nodes) {
    const ImageLayout layout = program::schema(node.op).layout;
    for (const ValueId id : node.outputs) {
      Layout& own = layouts_[static_cast<size_t>(id)];
      if (layout == ImageLayout::kChannelsLast) own = Layout::kChannelsLast;
      if (layout == ImageLayout::kKept) own = kept_layout(p, node, layouts_);
    }
  }
}

std::vector<int64_t> memory_order(size_t rank, Layout layout) {
  std::vector<int64_t> order(rank);
  std::iota(order.begin(), order.end(), int64_t{0});
  if (layout == Layout::kChannelsLast && rank > 2) std::rotate(order.begin() + 1, order.begin() + 2, order.end());
  return order;
}

StridedView view_of(std::vector<int64_t> shape, Layout layout) {
  const std::vector<int64_t> order = memory_order(shape.size(), layout);
  return {std::move(shape), order};
}

namespace {

// Two views of the same sizes in the fewest dimensions, at least two: without those of size 1, and with those as one that follow each other in both.
struct Walk {
  using Dims = std::array<int64_t, program::kMaxRank + 2>;
  Dims sizes{1, 1}, from{1, 1}, to{1, 1};
  size_t rank = 2;  // the first two stay where there are fewer

  Walk(const StridedView& a, const StridedView& b) {
    for (size_t d = 0; d < a.sizes.size(); ++d) {
      const int64_t size = a.sizes[d];
      if (size == 1) continue;
      const size_t last = rank - 1;
      if (rank > 2 && from[last] == size * a.strides[d] && to[last] == size * b.strides[d]) {
        sizes[last] *= size;
      } else {
        sizes[rank++] = size;
      }
      from[rank - 1] = a.strides[d];
      to[rank - 1] = b.strides[d];
    }
  }
};

// out[j * to] = in[j * from], for elements of T.
using CopyRow = void (*)(const uint8_t* in, int64_t from, uint8_t* out, int64_t to, int64_t count);
template <class T>
void copy_row(const uint8_t* in, int64_t from, uint8_t* out, int64_t to, int64_t count) {
  const T* source = reinterpret_cast<const T*>(in);
  T* target = reinterpret_cast<T*>(out);
  for (int64_t j = 0; j < count; ++j) target[j * to] = source[j * from];
}

CopyRow copy_row_of(int64_t element_bytes) {
  switch (element_bytes) {
    case 1:
      return copy_row<uint8_t>;
    case 2:
      return copy_row<uint16_t>;
    case 4:
      return copy_row<uint32_t>;
    default:
      return copy_row<uint64_t>;
  }
}

void copy_elements(const StridedView& from, const void* source, const StridedView& to, void* target, int64_t bytes,
                   ThreadPool& pool) {
  constexpr int64_t kElements = 1 << 14,
                    kColumns = 256;  // of a task, about; and what a cache holds of columns that lie apart
  const Walk walk(from, to);
  const size_t row = walk.rank - 2, column = row + 1;
  const int64_t all_rows = walk.sizes[row], all_columns = walk.sizes[column], s = walk.from[column], t = walk.to[column];
  const bool dense = s == 1 && t == 1;
  const CopyRow copy = copy_row_of(bytes);
  // A task copies some rows, or some columns, of a plane of the last two dimensions.
  const int64_t rows = dense ? std::clamp<int64_t>(kElements / all_columns, 1, all_rows) : all_rows;
  const int64_t columns = dense ? all_columns : std::min(kColumns, all_columns);
  const int64_t in_columns = ceil_div(all_columns, columns), parts = ceil_div(all_rows, rows) * in_columns;
  const int64_t planes = std::accumulate(walk.sizes.begin(), walk.sizes.begin() + row, int64_t{1}, std::multiplies<>());
  pool.run(planes * parts, [&](int64_t task, int) {
    const int64_t first_row = task % parts / in_columns * rows, first_column = task % in_columns * columns;
    int64_t read = from.offset + first_row * walk.from[row] + first_column * s,
            written = to.offset + first_row * walk.to[row] + first_column * t;
    int64_t plane = task / parts;
    for (size_t d = row; d-- > 0; plane /= walk.sizes[d]) {
      read += plane % walk.sizes[d] * walk.from[d];
      written += plane % walk.sizes[d] * walk.to[d];
    }
    const int64_t own_rows = std::min(rows, all_rows - first_row),
                  own_columns = std::min(columns, all_columns - first_column);
    for (int64_t i = 0; i < own_rows; ++i, read += walk.from[row], written += walk.to[row]) {
      const auto* in = static_cast<const uint8_t*>(source) + read * bytes;
      auto* out = static_cast<uint8_t*>(target) + written * bytes;
      dense ? void(std::copy_n(in, own_columns * bytes, out)) : copy(in, s, out, t, own_columns);
    }
  });
}

}  // namespace

StridedCopy StridedCopy::in_rows(StridedView from, int64_t element_bytes) {
  StridedView to(from.sizes);
  return {std::move(from), std::move(to), element_bytes};
}

std::optional<int64_t> StridedCopy::found_at() const {
  const Walk walk(from, to);
  const bool is_dense = walk.rank == 2 || (walk.rank == 3 && walk.from[2] == 1 && walk.to[2] == 1);
  return is_dense && to.offset == 0 ? std::optional(from.offset * element_bytes) : std::nullopt;
}

void StridedCopy::run(const void* source, void* target, ThreadPool& pool) const {
  if (std::find(from.sizes.begin(), from.sizes.end(), 0) != from.sizes.end()) return;
  copy_elements(from, source, to, target, element_bytes, pool);
}

kernels::CudaCopy StridedCopy::on_device() const {
  kernels::CudaCopy copy{};
  const Walk walk(from, to);
  static_assert(std::tuple_size_v<Walk::Dims> <= kernels::kCudaCopyRank);
  copy.rank = static_cast<int32_t>(walk.rank);
  std::copy_n(walk.sizes.begin(), walk.rank, copy.sizes);
  std::copy_n(walk.from.begin(), walk.rank, copy.from);
  std::copy_n(walk.to.begin(), walk.rank, copy.to);
  copy.from_offset = from.offset, copy.to_offset = to.offset;
  copy.element_bytes = element_bytes;
  copy.count = std::accumulate(walk.sizes.begin(), walk.sizes.begin() + static_cast<std::ptrdiff_t>(walk.rank), int64_t{1},
                               std::multiplies<>());
  return copy;
}

}  // namespace bitlab::runtime
