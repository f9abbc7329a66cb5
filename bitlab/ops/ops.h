// BitLab's operators for LibTorch: two families with one vocabulary.
//
//   bit_linear, bit_conv2d           latent float weights, differentiable: for training
//   ternary_linear, ternary_conv2d   packed codes, no gradients: for evaluation, capture and deployment
//
// Both families compute docs/numerics.md:  y = ((float(sum t q) * a) * s) + b  with t, s from the weights (ternary/encode.h) and
// q, a from the activations (kernels/activation_quant). On the CPU, for float32 inputs, they return the same bits as each other and
// as the runtime. They are registered in the namespace "bitlab" of LibTorch's dispatcher, for CPU, Meta, Autograd and Autocast
// (which runs them in float32), and callable from Python as torch.ops.bitlab.*.
//
// Shapes. linear: x float32 [..., K], weight [N, K], bias [N] -> [..., N]; activations share a scale by token. conv2d: x float32
// [B, C, H, W] or [C, H, W], weight [N, C, kh, kw], bias [N] -> [B, N, out_h, out_w]; activations share a scale by sample.
//
// Gradients of the bit_ family are straight-through: those of y = x' w'^T + b at the quantized x' = q a and w' = t s, passed to x and
// the latent weight unchanged (arXiv:1308.3432, arXiv:2402.17764).
//
// Errors (bitlab::Exception): ShapeMismatch, TypeMismatch, NotFinite (in x or a weight), UnknownName, Unsupported (a gradient of
// the ternary_ family; K > 2^24), Corrupt (codes), NoKernel.
#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "bitlab/ternary/spec.h"

namespace bitlab::ops {

struct QuantizedWeight {
  at::Tensor t;      // int8, the shape of the weight, in {-1, 0, 1}
  at::Tensor scale;  // float32 [1] or [N]
};

struct QuantizedActivation {
  at::Tensor q;  // int8, the shape of x, in [-127, 127]
  at::Tensor a;  // float32, the shape of x with 1 from start_dim on; x is about q * a
};

struct PackedWeight {
  at::Tensor codes;  // uint8 [N, ceil(K / 4)], canonical (ternary/codes.h); K of a convolution runs over (kh, kw, c)
  at::Tensor scale;  // float32 [1] or [N]
};

struct Conv2dWindow {
  at::IntArrayRef stride, padding, dilation;  // two numbers each
};

// weight: float32 [N, K] or [N, C, kh, kw].
QuantizedWeight quantize_weight(const at::Tensor& weight, const ternary::WeightSpec& spec);
PackedWeight ternary_pack(const at::Tensor& weight, const ternary::WeightSpec& spec);

// Values that share their indices before `start_dim` share a scale: -1 for tokens, 1 for samples.
QuantizedActivation quantize_activation(const at::Tensor& x, int64_t start_dim, ternary::ActKind activation);

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      const ternary::WeightSpec& spec, ternary::ActKind activation);
at::Tensor bit_conv2d(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                      const Conv2dWindow& window, const ternary::WeightSpec& spec, ternary::ActKind activation);

at::Tensor ternary_linear(const at::Tensor& x, const PackedWeight& weight, const std::optional<at::Tensor>& bias,
                          ternary::ActKind activation);
at::Tensor ternary_conv2d(const at::Tensor& x, const PackedWeight& weight, const std::optional<at::Tensor>& bias,
                          at::IntArrayRef kernel_size, const Conv2dWindow& window, ternary::ActKind activation);

}  // namespace bitlab::ops
