// Encoders of weights as matrices: on the CPU by ternary/encode.h, and in operators of LibTorch on any device, to the same bits.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "bitlab/ternary/encode.h"

namespace bitlab::ops {

// What an encoder reads.
struct Latent {
  ternary::WeightSpec spec;
  at::Tensor w;                     // float32 [rows, depth], contiguous
  std::vector<at::Tensor> learned;  // float32, one dimension each
  int64_t rows() const { return w.size(0); }
  int64_t depth() const { return w.size(1); }
  int64_t scales() const { return scale_count(spec, rows(), depth()); }
};

struct Encoded {
  at::Tensor t;                            // int8 [rows, depth]
  at::Tensor scale, scale_neg, threshold;  // float32; scale_neg has no values where a method has one scale
};

namespace cpu {
Encoded encode(const Latent& from);
// The codes, uint8 [rows, ceil(depth / 4)], of t in {-1, 0, 1}, int8 [rows, depth], contiguous.
at::Tensor codes_of(const at::Tensor& t);
}  // namespace cpu

// By libbitlab_cuda where it serves (cuda.h), else any_device's.
namespace cuda {
Encoded encode(const Latent& from);
}  // namespace cuda

// IEEE 754 fixes the results of the operators that it takes: the bits of the CPU on every device that has float64. Divisors are tensors of the
// device, since some devices multiply by the reciprocal of a number instead.
namespace any_device {
Encoded encode(const Latent& from);
// Where a value is not finite; 0 where all are.
int64_t first_not_finite(const at::Tensor& values);
}  // namespace any_device

}  // namespace bitlab::ops
