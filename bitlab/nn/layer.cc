#include "bitlab/nn/layer.h"

#include <cmath>

#include <torch/nn/init.h>

namespace bitlab::nn {

void initialize(at::Tensor& weight, at::Tensor& bias) {
  torch::nn::init::kaiming_uniform_(weight, std::sqrt(5.0));
  if (!bias.defined()) return;
  const double bound = 1 / std::sqrt(static_cast<double>(weight.numel() / weight.size(0)));
  torch::nn::init::uniform_(bias, -bound, bound);
}

std::string describe(const BitQuantConfig& quant) {
  if (!quant.enabled()) return "none";
  return fmt::format("{}/{}", to_text(quant.weight_spec()), name(quant.activation));
}

}  // namespace bitlab::nn
