#include "bitlab/nn/quantizer.h"

#include <ATen/core/grad_mode.h>

namespace bitlab::nn {

const ops::PackedWeight& WeightCodes::of(const at::Tensor& weight, const ternary::WeightSpec& spec) {
  const bool versioned = !weight.is_inference();  // an inference tensor changes unseen
  const int64_t version = versioned ? weight._version() : 0;
  if (!versioned || !packed_.codes.defined() || !source_.is_same(weight) || version_ != version || spec_ != spec) {
    packed_ = ops::ternary_pack(weight, spec);
    source_ = weight;
    version_ = version;
    spec_ = spec;
  }
  return packed_;
}

void WeightCodes::drop() { *this = {}; }

bool runs_on_codes(const torch::nn::Module& layer, const at::Tensor& x) {
  return !layer.is_training() && !at::GradMode::is_enabled() && (x.is_cpu() || x.is_meta());
}

}  // namespace bitlab::nn
