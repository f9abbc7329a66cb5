#include "bitlab/ops/padding.h"

#include <algorithm>

#include "bitlab/ops/internal/check.h"

namespace bitlab::ops {

SamePadding same_padding(at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef dilation) {
  require(std::all_of(stride.begin(), stride.end(), [](int64_t s) { return s == 1; }), ErrorCode::kInvalidArgument,
          "[convolution] a stride of 1 with padding 'same', got {}", show(c10::fromIntArrayRefSlow(stride)));
  SamePadding padding;
  for (size_t i = 0; i < kernel_size.size(); ++i) {
    const int64_t total = dilation[dilation.size() == 1 ? 0 : i] * (kernel_size[i] - 1);
    padding.both.push_back(total / 2);
    padding.odd.push_back(total % 2);
  }
  return padding;
}

std::vector<int64_t> sides(at::IntArrayRef front, at::IntArrayRef behind) {
  std::vector<int64_t> list;
  for (size_t i = front.size(); i-- > 0;) list.insert(list.end(), {front[i], behind[i]});
  return list;
}

}  // namespace bitlab::ops
