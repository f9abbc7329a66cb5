// Ternary layers in the place of a network's own.
#pragma once

#include <map>
#include <memory>
#include <set>

#include <torch/nn/module.h>

#include "bitlab/convert/report.h"
#include "bitlab/convert/rules.h"
#include "bitlab/nn/quantizer.h"
#include "bitlab/ops/ops.h"

namespace bitlab::convert {

struct ConvertOptions {
  std::map<std::string, std::string> tags;  // by path, for rules
};

// A weight that stays where it is, for a BitModel to intercept.
struct Interception {
  std::string path, layer;  // of the weight, and of the layer that has it; equal for a parameter
  at::Tensor weight;
  BitQuantConfig quant;
  std::unique_ptr<ops::ConvWindow> window;  // of a convolution, else null
  nn::Quantizer::Use use = nn::Quantizer::Use::kProduct;
  bool is_master = false;
};

struct Conversion {
  ConversionReport report;
  std::vector<Interception> interceptions;
};

// Adds what has parameters that no layer of the report covers; `covered` holds the others' tensors (TensorImpl).
void report_others(const torch::nn::Module& module, const std::set<const void*>& covered, ConversionReport& report);

// What becomes of layers outside of containers, and of parameters of the user's own classes: they are skipped; they are intercepted, where products
// or lookups alone read their one weight; or the caller replaces such layers itself: each is listed as if it were intercepted.
enum class Outside { kSkipped, kIntercepted, kListed };

// What BitConverter and BitModel share.
Result<Conversion> convert_module(torch::nn::Module& module, const MixedPrecisionConfig& config,
                                  const ConvertOptions& options, Outside outside);

class BitConverter {
 public:
  // Replaces the layers that torch::nn::Sequential, ModuleList and ModuleDict hold, anywhere in `module`, by ternary ones that share the
  // values of their weights and biases. The new layers' parameters are other tensors: make the optimizer afterwards. Layers that are typed
  // members of a class (torch::nn::Linear fc{nullptr}) cannot be replaced from outside: the report says so, and BitModel takes them.
  // Errors: those of RuleSet::create; Unsupported (options without a ternary form), naming the layer; nothing has changed then.
  static Result<ConversionReport> convert(torch::nn::Module& module, const MixedPrecisionConfig& config,
                                          const ConvertOptions& options = {});
};

}  // namespace bitlab::convert
