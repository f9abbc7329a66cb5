// What libbitlab_cuda (kernels/cuda_plugin.h) does for operators on NVIDIA GPUs. Where it is missing, or a case is none of its, any_device serves.
#pragma once

#include <optional>

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/ops/internal/bit_operands.h"

namespace bitlab::ops::cuda {

// Whether its kernels serve this tensor.
bool serves(const at::Tensor& tensor);

// Quantizes blocks of memory that share a scale: x into q, where zeros may follow each, their scales into a. inv: 0, or that of a static step. Where
// serves(x).
void quantize_rows(const at::Tensor& x, int64_t rows, float limit, float inv, const at::Tensor& q, const at::Tensor& a);

// The contract on exact sums: y = ((float(sum t q) * a) * scale) + bias, by LibTorch's product of int8 matrices. Convolutions gather their patches
// first: cuDNN transforms what it convolves (Winograd, FFT), which rounds. None for what it does not serve: two scales, transposed convolutions.
std::optional<at::Tensor> contract(const Product& product, const Operands& operands, const OptionalTensor& bias);

// A layer on packed codes, uint8 [N, ceil(K / 4)], or int8 [N, K] of weights kept in int8, checked but for their values. bias and scale_neg may be none;
// step: 0, or that of static activations. Codes are packed once for a device, and kept with them (tensor_cache.h). Errors (bitlab::Exception): Corrupt.
struct TernaryLayer {
  const char* op;
  const at::Tensor &codes, &scale;
  const OptionalTensor &scale_neg, &bias;
  ternary::ActKind kind;
  float step;
  int64_t group;
};
// y [..., N] of x [..., K].
at::Tensor linear(const TernaryLayer& layer, const at::Tensor& x);
// x [B, sizes..., C], contiguous, into y [B, sizes..., N], contiguous.
void conv(const TernaryLayer& layer, const kernels::ConvGeometry& geometry, const at::Tensor& x, const at::Tensor& y);
// Into y [..., depth]; NaN where an index is outside the table.
void embedding(const TernaryLayer& layer, const at::Tensor& indices, int64_t depth, const at::Tensor& y);

}  // namespace bitlab::ops::cuda
