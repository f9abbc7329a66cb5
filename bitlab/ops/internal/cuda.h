// What libbitlab_cuda (kernels/cuda_plugin.h) does for operators on NVIDIA GPUs. Where it is missing, or a case is none of its, any_device serves.
#pragma once

#include <optional>

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/ops/internal/bit_operands.h"

namespace bitlab::ops::cuda {

// Whether its kernels serve this tensor.
bool serves(const at::Tensor& tensor);

// Quantizes blocks of memory that share a scale: x, of floats, into q, where zeros may follow each, their scales into a. inv: 0, or that of a static step. Where
// serves(x).
void quantize_rows(const at::Tensor& x, int64_t rows, float limit, float inv, const at::Tensor& q, const at::Tensor& a);

// The contract on exact sums, where s.is_exact(): y = ((float(sum t q) * a) * scale) + bias, rounded to s.type at the end. None where serves() is not.
std::optional<at::Tensor> contract(const Settings& s, const Operands& operands, const OptionalTensor& bias);

// A layer of training: t int8 [N, K], contiguous, which is packed for this call alone where it holds -1, 0 and 1; scale_neg and bias may be undefined.
struct IntegerLayer {
  const at::Tensor &t, &scale, &scale_neg, &bias;
  bool is_ternary;
};
// y, of floats, contiguous: [tokens, N] of q int8 [tokens, K] and a [tokens], or, with a geometry, [B, sizes..., N] of q [B, sizes..., C] and a [B] or [1].
void product(const IntegerLayer& layer, const at::Tensor& q, const at::Tensor& a, const kernels::ConvGeometry* geometry,
             const at::Tensor& y);

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
