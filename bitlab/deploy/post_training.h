// From a float network to a ternary one without training: what can be fitted to a few samples.
#pragma once

#include <optional>
#include <span>

#include "bitlab/config/config.h"
#include "bitlab/deploy/capture.h"

namespace bitlab::deploy {

// One layer: the squared error of its outputs on its inputs, relative to those of its float weights; and that of the whole network's outputs on
// the samples, relative to the float network's.
struct LayerFit {
  std::string name;
  bool frozen =
      false;  // false, and left as encoded: scales of groups, two scales, int8, or a weight that more than this layer's products read
  bool folded = false;   // a BatchNorm went into it
  bool undone = false;   // the fit moved the network's outputs away from the float network's: scales and bias as encoded
  double act_scale = 0;  // of static activations
  double error_before = 0, error_after = 0;
  double output_error_before = 0,
         output_error_after = 0;  // of the network, when the layers in front were fitted, and when this one was
};

struct PostTrainingReport {
  std::vector<LayerFit> layers;      // in the order of execution
  std::vector<std::string> unread;   // ternary layers that no sample reaches, as encoded: a head that only training uses
  double output_error_encoded = 0;   // of the network as its encoders make it, steps of static activations calibrated
  double output_error = 0;           // of the network at the end
  int64_t weight_file_bytes = 0;     // of the weights in a .bit file
  int64_t weight_bytes = 0;          // of the weights in memory on this machine
  int64_t float32_weight_bytes = 0;  // the same weights as float32
  double bits_a_weight = 0;          // in memory
  // What `evaluate` returned for the float network, for the ternary one as its encoder makes it, and at the end.
  std::optional<double> evaluated_float, evaluated_before, evaluated_after;
};

// Fits the ternary layers of `module` (BitLinear, BitConv1d to BitConvTranspose3d, what a BitModel intercepts), one after the other, to
// `samples`, inputs with a batch in front, and freezes them: codes and scales are their own from then on (nn::ProductLayer).
// Latent weights must be the float network's; those of a network that was trained ternary are not what it computes with, so leave
// that as it is. `evaluate` measures the network in eval, its accuracy for example. `signature`: as CaptureOptions' of capture.h, for the sizes
// that the report is about. The samples stay as they are.
//
//   scales   s_n = sum y z / sum z^2 over the samples, the best scale of channel n: y what the float weights make of the layer's input, z what
//            the codes make of it without a scale
//   folded   a BatchNorm (torch::nn's or BitBatchNorm), which does nothing afterwards: only where the layer computes one product, whose result
//            the BatchNorm alone reads, and nothing else reads the BatchNorm's statistics
//   bias     corrected as in Nagel et al. 2019, arXiv:1906.04721
//
// What is best for a layer's own outputs may be worse for the network's: a fit that makes their error larger by more than a tenth is undone.
//
// Errors: InvalidArgument (no samples, none that reaches a layer), those of capture() and of the layers.
Result<PostTrainingReport> quantize_for_deployment(torch::nn::Module& module, const Forward& forward,
                                                   std::span<const NamedTensors> samples,
                                                   const DeploymentConfig& config = {},
                                                   const std::function<double()>& evaluate = {},
                                                   const std::optional<Signature>& signature = std::nullopt);

}  // namespace bitlab::deploy
