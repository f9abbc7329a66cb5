#include "bitlab/runtime/layout.h"

#include <algorithm>
#include <functional>
#include <numeric>

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

constexpr size_t kDims = program::kMaxRank;
using Dims = std::array<int64_t, kDims>;

// Sizes or strides with dimensions of size 1 in front.
Dims padded(const std::vector<int64_t>& numbers, int64_t fill) {
  Dims dims;
  dims.fill(fill);
  std::copy(numbers.begin(), numbers.end(), dims.end() - static_cast<int64_t>(numbers.size()));
  return dims;
}

template <class T>
void copy_elements(const StridedView& from, const void* source, const StridedView& to, void* target, ThreadPool& pool) {
  constexpr size_t kRow = kDims - 2, kColumn = kDims - 1;
  const Dims sizes = padded(from.sizes, 1), s = padded(from.strides, 0), t = padded(to.strides, 0);
  const bool dense = s[kColumn] == 1 && t[kColumn] == 1;
  const int64_t planes = std::accumulate(sizes.begin(), sizes.begin() + kRow, int64_t{1}, std::multiplies<>());
  // A task copies one plane of the last two dimensions.
  pool.run(planes, [&](int64_t plane, int) {
    const T* in = static_cast<const T*>(source) + from.offset;
    T* out = static_cast<T*>(target) + to.offset;
    for (size_t d = kRow; d-- > 0; plane /= sizes[d]) {
      in += plane % sizes[d] * s[d];
      out += plane % sizes[d] * t[d];
    }
    for (int64_t i = 0; i < sizes[kRow]; ++i, in += s[kRow], out += t[kRow]) {
      if (dense) {
        std::copy_n(in, sizes[kColumn], out);
      } else {
        for (int64_t j = 0; j < sizes[kColumn]; ++j) out[j * t[kColumn]] = in[j * s[kColumn]];
      }
    }
  });
}

}  // namespace

StridedCopy StridedCopy::in_rows(StridedView from, int64_t element_bytes) {
  StridedView to(from.sizes);
  return {std::move(from), std::move(to), element_bytes};
}

void StridedCopy::run(const void* source, void* target, ThreadPool& pool) const {
  if (std::find(from.sizes.begin(), from.sizes.end(), 0) != from.sizes.end()) return;
  switch (element_bytes) {
    case 1:
      return copy_elements<uint8_t>(from, source, to, target, pool);
    case 2:
      return copy_elements<uint16_t>(from, source, to, target, pool);
    case 4:
      return copy_elements<uint32_t>(from, source, to, target, pool);
    default:
      return copy_elements<uint64_t>(from, source, to, target, pool);
  }
}

}  // namespace bitlab::runtime
