// Padding "same" of convolutions, in numbers.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace bitlab::ops {

// What lies around each size, so that the output has the input's sizes: dilation * (kernel - 1) in all, the half of it on both sides; where
// that is odd, one more behind. As LibTorch's.
struct SamePadding {
  std::vector<int64_t> both;
  std::vector<int64_t> odd;  // 0 or 1
};

// One stride and one dilation for each size, or one for all. Error (bitlab::Exception): InvalidArgument, for strides other than 1.
SamePadding same_padding(at::IntArrayRef kernel_size, at::IntArrayRef stride, at::IntArrayRef dilation);

// The argument of at::pad: in front and behind, of the last size first.
std::vector<int64_t> sides(at::IntArrayRef front, at::IntArrayRef behind);

}  // namespace bitlab::ops
