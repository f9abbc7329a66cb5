// What the ternary layers share: when they compute on packed codes, and the packed codes of a latent weight.
#pragma once

#include <torch/nn/module.h>

#include "bitlab/config/config.h"
#include "bitlab/ops/ops.h"

namespace bitlab::nn {

// Packed codes of a latent weight: a cache, not state. They are made anew when the weight is another tensor or has another version,
// and after drop(), which train() calls because changes through `.data()` leave the version as it was.
class WeightCodes {
 public:
  const ops::PackedWeight& of(const at::Tensor& weight, const ternary::WeightSpec& spec);
  void drop();

 private:
  at::Tensor source_;
  int64_t version_ = 0;
  ternary::WeightSpec spec_;
  ops::PackedWeight packed_;
};

// Whether a layer takes the ternary_ family: in eval, on the CPU, where no gradient is asked for. Otherwise the differentiable
// bit_ family runs, so that a frozen layer passes gradients on; both return the same bits.
bool runs_on_codes(const torch::nn::Module& layer, const at::Tensor& x);

}  // namespace bitlab::nn
