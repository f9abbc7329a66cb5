// BitLab's operators for LibTorch: two families with one vocabulary.
//
//   bit_linear, bit_conv, bit_recurrent, bit_embedding, bit_weight       latent float weights, differentiable: for training
//   ternary_linear, ternary_conv, ternary_recurrent, ternary_embedding   packed codes, no gradients: for evaluation, capture and deployment
// and batch_norm, the affine step by channel; rotary; sigmoid and tanh, which on the CPU have the runtime's bits.
//
// Both families compute docs/numerics.md:  y = ((float(sum t q) * a) * s) + b  with t, s from the weights (ternary/encode.h) and
// q, a from the activations (kernels/activation_quant). On the CPU, for float32 inputs and scales by tensor or channel, they return the
// same bits as each other and as the runtime; with scales of groups, and with float activations, they agree within rounding (the sums have
// another order). They are registered in the namespace "bitlab" of LibTorch's dispatcher, for CPU, CUDA, Meta, Autograd and Autocast
// (which gives them float32, but on CUDA the type of results: run_under_autocast in ops.cc), and callable from Python as torch.ops.bitlab.*.
//
// Shapes. linear: x float32 [..., K], weight [N, K], bias [N] -> [..., N]; activations share a scale by token. conv: x float32
// [B, C, L], [B, C, H, W] or [B, C, D, H, W], or without B; weight [N, C / groups, kernel...], or [C, N / groups, kernel...] where it is
// transposed; bias [N] -> [B, N, out...]; activations share a scale by sample.
//
// Gradients of the bit_ family. That of a quantized weight w' = t s reaches the latent one as ternary/spec.h's Gradient says; methods that learn
// have rules of their own, from their papers: methods/ttq.cc, lsq.cc and tga.cc. That of quantized
// activations passes unchanged where they are dynamic; with a static step it stops where they are clamped, and the step learns as in LSQ.
// With blend < 1 the product is of w + blend (w' - w) and of x + blend (x' - x), in float32, with and without gradients.
//
// On CUDA the operators of training have the CPU's bits; where autocast is on, their results are rounded to its type once, x may have it, and
// gradients come from products in it. There, and in the ternary_ family but for ternary_recurrent, values that are not finite raise no error: they
// make NaN of what depends on them (kernels/internal/cuda_plugin.h).
//
// On the CPU, where gradients are off (torch::NoGradGuard) and the blend is 1, bit_linear, bit_conv, bit_recurrent and bit_embedding are what they stand for:
// the ternary_ operator of the weight's packed codes, which are kept as long as the weight stays as it is (weight_cache.h). Capture sees that
// operator. Any number of threads may call them at once.
//
// PyTorch traces them: sizes may be symbols, and values are read by operators alone that a graph keeps whole. Where nothing needs a gradient, it keeps
// bit_linear, bit_conv, bit_recurrent and bit_embedding whole, and runs them where gradients are off; else it sees what they are made of.
//
// Errors (bitlab::Exception): ShapeMismatch, TypeMismatch, NotFinite (in x or a weight), UnknownName, InvalidArgument, Unsupported (a gradient
// of the ternary_ family, forward-mode differentiation of the bit_ family; K > 2^24; choices that do not fit together, naming what does), Corrupt
// (codes), NoKernel.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "bitlab/kernels/recurrent/recurrent.h"
#include "bitlab/ops/optional.h"
#include "bitlab/ternary/spec.h"

namespace bitlab::ops {

// How a weight is quantized: the spec, and what its method learns.
struct WeightQuant {
  ternary::WeightSpec spec{};
  std::vector<at::Tensor> learned{};  // float32 [1] or [N] each, in the order of ternary/methods.def
};

// How activations are: the kind, and the step of static ones (undefined for others).
struct ActQuant {
  ternary::ActKind kind = ternary::ActKind::kInt8;
  at::Tensor act_scale{};  // float32 [1]: what a unit of q stands for, above 0
};

// A convolution's sizes, each of as many numbers as it has dimensions, 1 to 3.
struct ConvWindow {
  std::vector<int64_t> stride, padding, dilation;
  bool transposed = false;
  std::vector<int64_t> output_padding{};  // empty: zeros
  int64_t groups = 1;
};

struct QuantizedWeight {
  at::Tensor t;          // int8, the shape of the weight, in {-1, 0, 1}
  at::Tensor scale;      // float32 [1], [N] or, of groups, [N, ceil(K / group)]; of t = +1 where there is scale_neg
  at::Tensor scale_neg;  // float32, of t = -1; undefined with one scale
  at::Tensor threshold;  // float32, as scale: |w| above it is not zero
};

struct QuantizedActivation {
  at::Tensor q;  // int8, the shape of x, in [-127, 127] or [-7, 7]
  at::Tensor a;  // float32, the shape of x with 1 from start_dim on; x is about q * a
};

struct PackedWeight {
  at::Tensor codes;      // uint8 [N, ceil(K / 4)], canonical (ternary/codes.h); K of a convolution runs over (kernel..., c)
  at::Tensor scale;      // float32 [1] or [N]; float16 [N, ceil(K / group)] of groups
  at::Tensor scale_neg;  // float32, undefined with one scale
  int64_t group = 0;     // k that share a scale; 0: none
};

// weight: float32 [N, K], or a convolution's. `window` tells whether it is transposed, and its groups; null for a plain one.
QuantizedWeight quantize_weight(const at::Tensor& weight, const WeightQuant& quant, const ConvWindow* window = nullptr);
PackedWeight ternary_pack(const at::Tensor& weight, const WeightQuant& quant, const ConvWindow* window = nullptr);

// What a method learns as it begins for a weight: scales and thresholds that another method finds, for weights around zero times a number
// (ternary/internal/method.h). Empty where nothing is learned.
std::vector<at::Tensor> initial_parameters(const at::Tensor& weight, const ternary::WeightSpec& spec,
                                           const ConvWindow* window = nullptr, bool around_zero = true);

// Values that share their indices before `start_dim` share a scale: -1 for tokens, 1 for samples. Not for ActKind::kNone.
QuantizedActivation quantize_activation(const at::Tensor& x, int64_t start_dim, const ActQuant& activation);

at::Tensor bit_linear(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, const WeightQuant& quant,
                      const ActQuant& activation, double blend = 1);
at::Tensor bit_conv(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, const ConvWindow& window,
                    const WeightQuant& quant, const ActQuant& activation, double blend = 1);

// The quantized weight w' = t s itself, of embeddings, norms and master weights. weight: [N, ...], or [K], a row.
at::Tensor bit_weight(const at::Tensor& weight, const WeightQuant& quant, double blend = 1);
// Rows of a table [N, depth]: indices int64 [...] -> [..., depth]; the gradient leaves out the row padding_idx (-1: none), and is divided by how
// often a row is read with scale_grad_by_freq, as at::embedding's.
at::Tensor bit_embedding(const at::Tensor& weight, const at::Tensor& indices, const WeightQuant& quant, double blend = 1,
                         int64_t padding_idx = -1, bool scale_grad_by_freq = false);
// Rows of a table [N, depth]: indices int64 [...] -> [..., depth], the bits of bit_weight's rows.
at::Tensor ternary_embedding(const PackedWeight& weight, const at::Tensor& indices, int64_t depth);

at::Tensor ternary_linear(const at::Tensor& x, const PackedWeight& weight, const OptionalTensor& bias,
                          const ActQuant& activation);
at::Tensor ternary_conv(const at::Tensor& x, const PackedWeight& weight, const OptionalTensor& bias,
                        at::IntArrayRef kernel_size, const ConvWindow& window, const ActQuant& activation);

// A recurrent layer in one direction: kernels/recurrent/recurrent.h has the formulas and shapes.
using kernels::RecurrentCell;
struct RecurrentInputs {
  RecurrentCell cell;
  at::Tensor x;           // float32 [B, T, gates H], T at least 1: what the inputs of all steps make, bit_linear's result
  at::Tensor h0{}, c0{};  // float32 [B, H]; undefined: zeros. c0 of an LSTM alone
  bool reverse = false;   // from the last token to the first
  // Of a packed sequence, as torch.nn.utils.rnn has it: int64 [T] on the CPU, how many of the samples, the longest first, have a t-th token. x is
  // [sum, gates H] then, and so is y.
  at::Tensor batch_sizes{};
};
struct RecurrentStates {
  at::Tensor y;         // [B, T, H]
  at::Tensor h_n, c_n;  // [B, H]; c_n is undefined for a GRU
};
// weight [gates H, H], bias [gates H]: of the hidden states, whose activations share a scale by sample. Training is made of bit_linear for each step.
RecurrentStates bit_recurrent(const RecurrentInputs& inputs, const at::Tensor& weight, const OptionalTensor& bias,
                              const WeightQuant& quant, const ActQuant& activation, double blend = 1);
// The same without quantization.
RecurrentStates float_recurrent(const RecurrentInputs& inputs, const at::Tensor& weight, const OptionalTensor& bias);
// The hidden states that the steps multiplied by the weight, [rows, H], in some order: h0 and all of y but each sample's last ones.
at::Tensor multiplied_states(const RecurrentInputs& inputs, const RecurrentStates& states);

// A batch norm with running statistics, of x [B, C, ...] by channel: (x * alpha) + beta, the product and the sum rounded each, without FMA.
// weight and bias may be none. Differentiable.
//
//   alpha = weight / sqrt(variance + eps),  beta = bias - mean * alpha,  in float64, then rounded to the type of x once
struct ChannelAffine {
  at::Tensor alpha, beta;  // float64 [C]
};
ChannelAffine batch_norm_affine(const OptionalTensor& weight, const OptionalTensor& bias, const at::Tensor& mean,
                                const at::Tensor& variance, double eps);
at::Tensor batch_norm(const at::Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias, const at::Tensor& mean,
                      const at::Tensor& variance, double eps);

// Rotary position embedding, in the half-rotation form of Llama and Hugging Face: arXiv:2104.09864, kernels/rotary/rotary.h.
// x [..., T, D], D even, token t at positions[t], int64 [T]. Differentiable in x.
at::Tensor rotary(const at::Tensor& x, const at::Tensor& positions, double theta);

}  // namespace bitlab::ops
