#include "bitlab/program/strided_view.h"

#include <utility>

#include "bitlab/program/shape.h"

namespace bitlab::program {

StridedView::StridedView(std::vector<int64_t> shape) : sizes(std::move(shape)), strides(sizes.size()) {
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0; stride = saturated_product(stride, sizes[i])) strides[i] = stride;
}

StridedView::StridedView(std::vector<int64_t> shape, const std::vector<int64_t>& memory_order)
    : sizes(std::move(shape)), strides(sizes.size()) {
  int64_t stride = 1;
  for (size_t i = memory_order.size(); i-- > 0;) {
    const auto dim = static_cast<size_t>(memory_order[i]);
    strides[dim] = stride;
    stride = saturated_product(stride, sizes[dim]);
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

StridedView StridedView::part(size_t dim, int64_t start, int64_t length, int64_t step) const {
  StridedView view = *this;
  view.offset += (start < 0 ? sizes[dim] + start : start) * strides[dim];
  view.sizes[dim] = length;
  view.strides[dim] *= step;
  return view;
}

}  // namespace bitlab::program
