#include "bitlab/runtime/layout.h"

#include <algorithm>
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
    if (p.value(id).kind != program::ValueKind::kConstant && p.value(id).shape == p.value(node.output).shape)
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
    Layout& own = layouts_[static_cast<size_t>(node.output)];
    if (layout == ImageLayout::kChannelsLast) own = Layout::kChannelsLast;
    if (layout == ImageLayout::kKept) own = kept_layout(p, node, layouts_);
  }
}

std::vector<int64_t> memory_order(size_t rank, Layout layout) {
  std::vector<int64_t> order(rank);
  std::iota(order.begin(), order.end(), int64_t{0});
  if (layout == Layout::kChannelsLast && rank > 2) std::rotate(order.begin() + 1, order.begin() + 2, order.end());
  return order;
}

StridedView::StridedView(std::vector<int64_t> shape, Layout layout) : sizes(std::move(shape)), strides(sizes.size()) {
  const std::vector<int64_t> order = memory_order(sizes.size(), layout);
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    const auto dim = static_cast<size_t>(order[i]);
    strides[dim] = stride;
    stride *= sizes[dim];
  }
}

StridedView StridedView::permuted(const std::vector<int64_t>& order) const {
  StridedView view = *this;
  for (size_t i = 0; i < order.size(); ++i) {
    view.sizes[i] = sizes[static_cast<size_t>(order[i])];
    view.strides[i] = strides[static_cast<size_t>(order[i])];
  }
  return view;
}

StridedView StridedView::broadcast(const std::vector<int64_t>& shape) const {
  StridedView view = *this;
  const size_t lead = shape.size() - sizes.size();
  view.sizes = shape;
  view.strides.assign(shape.size(), 0);
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sizes[i] == shape[lead + i]) view.strides[lead + i] = strides[i];
  return view;
}

void copy_strided(const StridedView& view, const float* from, float* to, ThreadPool& pool) {
  if (std::find(view.sizes.begin(), view.sizes.end(), 0) != view.sizes.end()) return;
  constexpr size_t kDims = program::kMaxRank;
  std::array<int64_t, kDims> sizes, strides;  // dimensions of size 1 in front
  sizes.fill(1);
  strides.fill(0);
  std::copy(view.sizes.begin(), view.sizes.end(), sizes.end() - static_cast<int64_t>(view.sizes.size()));
  std::copy(view.strides.begin(), view.strides.end(), strides.end() - static_cast<int64_t>(view.strides.size()));
  const int64_t inner = sizes[3] * sizes[4], middle = sizes[1] * sizes[2], step = strides[4];
  // A task copies one plane of the last two dimensions.
  pool.run(sizes[0] * middle, [&](int64_t plane, int) {
    const float* source = from + view.offset + plane / middle * strides[0] + plane % middle / sizes[2] * strides[1] +
                          plane % sizes[2] * strides[2];
    float* out = to + plane * inner;
    for (int64_t i = 0; i < sizes[3]; ++i, source += strides[3], out += sizes[4]) {
      if (step == 1) {
        std::copy_n(source, sizes[4], out);
      } else {
        for (int64_t j = 0; j < sizes[4]; ++j) out[j] = source[j * step];
      }
    }
  });
}

}  // namespace bitlab::runtime
