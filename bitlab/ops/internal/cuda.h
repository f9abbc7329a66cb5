// What libbitlab_cuda (kernels/internal/cuda_plugin.h) does for operators on NVIDIA GPUs. Where it is missing, or a case is none of its, any_device serves.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include <c10/core/Stream.h>

#include "bitlab/kernels/conv_geometry.h"
#include "bitlab/ops/internal/bit_operands.h"

namespace bitlab::ops::cuda {

// Whether its kernels serve this tensor.
bool serves(const at::Tensor& tensor);

// Quantizes blocks of memory that share a scale: x, of floats, into q, where zeros may follow each, their scales into a. inv: 0, or that of a static step. Where
// serves(x).
void quantize_rows(const at::Tensor& x, int64_t rows, float limit, float inv, const at::Tensor& q, const at::Tensor& a);

// A layer's codes as products read them.
struct LayerCodes {
  int64_t rows, depth;
  bool is_mma;
  at::Tensor
      values;  // uint8, packed for the matrix units, of ternary weights in one group of channels; else int8 [rows, depth]
  at::Tensor scale;                      // float32 [1] or [rows], or with a group float16 [groups, rows]; contiguous
  at::Tensor scale_neg;                  // contiguous; may be undefined
  int64_t group;                         // of k, or 0
  bool are_new = false;                  // of work on the stream, for which nobody has waited
  std::optional<c10::Stream> made_on{};  // of codes that are kept
};
// Whether products serve a layer's evaluation, to the bits of the ternary_ operator of its packed codes.
bool evaluates(const Settings& s);
// Where serves(weight.t).
LayerCodes layer_codes(const Settings& s, const QuantizedWeight& weight);
// Of a latent weight, by `encode` when it is first seen with this encoding, and again after a change of it or of what its method learns (tensor_cache.h);
// made anew in a CUDA graph, which finds its weight changed without a word.
std::shared_ptr<const LayerCodes> kept_codes(const Settings& s, const at::Tensor& weight, at::TensorList learned,
                                             const std::function<QuantizedWeight()>& encode);
void forget_codes(const at::Tensor& weight);

// Where s.is_exact() or evaluates(s): the contract, y = ((float(sum t q) * a) * scale) + bias with one scale, rounded to s.type at the end; of q and a in o, or of
// x where they are undefined, and the sizes of the weight. Where serves() is true of them, which have values.
at::Tensor contract(const Settings& s, const LayerCodes& codes, const Operands& o, at::IntArrayRef weight,
                    const OptionalTensor& bias);
// y, of floats, contiguous: [tokens, N] of x int8 [tokens, K] and a [tokens], or, with a geometry, [B, sizes..., N] of x [B, sizes..., C] and a [B] or [1]. Where
// a is undefined, x is of float32.
void product(const LayerCodes& codes, const OptionalTensor& bias, const at::Tensor& x, const at::Tensor& a,
             const kernels::ConvGeometry* geometry, const at::Tensor& y);

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
