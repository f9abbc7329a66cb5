// What libbitlab_cuda (kernels/cuda_plugin.h) does for operators on NVIDIA GPUs. Where it is missing, or a case is none of its, any_device serves.
#pragma once

#include <optional>

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

// A ternary linear layer on packed codes, uint8 [N, ceil(K / 4)], checked but for their values. bias and scale_neg may be none; step: 0, or that of
// static activations.
struct TernaryLinear {
  const at::Tensor &x, &codes, &scale;
  const OptionalTensor &scale_neg, &bias;
  float limit, step;
  int64_t group;
};
// From the one copy of codes as ternary_gemm reads them, which is kept with `codes` (tensor_cache.h). Errors (bitlab::Exception): Unsupported (no
// plug-in), Corrupt.
at::Tensor run(const TernaryLinear& layer);

}  // namespace bitlab::ops::cuda
