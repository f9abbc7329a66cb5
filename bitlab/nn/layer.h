// Small things that every layer of this folder needs.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "bitlab/config/config.h"
#include "bitlab/ops/ops.h"

namespace bitlab::nn {

// LibTorch's default: uniform in +-1 / sqrt(fan_in), for the weight [out, in, ...] and the bias.
void initialize(at::Tensor& weight, at::Tensor& bias);

// "absmean/tensor/int8", or "none".
std::string describe(const BitQuantConfig& quant);

using ops::optional;

}  // namespace bitlab::nn
