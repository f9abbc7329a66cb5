// Rotary position embeddings: arXiv:2104.09864, in the half-rotation form of Llama and Hugging Face.
#pragma once

#include <ATen/core/Tensor.h>

namespace bitlab::nn {

// x [B, H, T, D], D even, token t at the position p = first + t. With x = (a, b), the halves of D, and the angle
// p * theta^(-2 i / D) of pair i:  (a cos - b sin, b cos + a sin), of x's type. Cosines and sines are computed in float64 and rounded once.
at::Tensor apply_rotary(const at::Tensor& x, int64_t first, double theta);

}  // namespace bitlab::nn
