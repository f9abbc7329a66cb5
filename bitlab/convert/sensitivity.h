// How much each layer of a network suffers from being ternary, and rules that keep those that suffer most.
#pragma once

#include <functional>
#include <vector>

#include <torch/nn/module.h>

#include "bitlab/config/config.h"

namespace bitlab::convert {

struct LayerSensitivity {
  std::string path;
  int64_t parameters = 0;
  double loss = 0;  // with this layer alone ternary
};

struct Sensitivity {
  double float_loss = 0;                 // with no layer ternary
  double ternary_loss = 0;               // with all
  std::vector<LayerSensitivity> layers;  // in the order of registration

  double increase(const LayerSensitivity& layer) const { return layer.loss - float_loss; }
};

// Makes one layer after the other ternary and calls `loss`, which measures the network in eval. `module`: with ternary layers (BitLinear,
// BitConv1d to BitConvTranspose3d, what a BitModel intercepts), whose latent weights are those of a float network; afterwards as it was. Errors: InvalidArgument (no such
// layer), what `loss` returns.
Result<Sensitivity> analyze(torch::nn::Module& module, const std::function<Result<double>()>& loss);

// Rules that keep layers in float until the increases of the others sum up to `budget` or less: those with the largest increase for their
// size first, so that few parameters stay float.
std::vector<QuantRule> propose_rules(const Sensitivity& sensitivity, double budget);

}  // namespace bitlab::convert
