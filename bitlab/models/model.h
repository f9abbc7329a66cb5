// Networks by name. A model maps named tensors to named tensors; rules say how its layers are quantized (convert/quant_scope.h).
//
// A model is a file <domain>/<name>.h with its own config, a file <domain>/<name>.cc and a row of models.def.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <torch/nn/module.h>

#include "bitlab/config/config.h"
#include "bitlab/convert/quant_scope.h"
#include "bitlab/nn/named_tensors.h"
#include "bitlab/program/shape.h"

namespace bitlab::models {

class Model : public torch::nn::Module {
 public:
  virtual nn::NamedTensors forward(const nn::NamedTensors& inputs) = 0;
  // For a network of one tensor: the first of what it returns.
  at::Tensor forward(const at::Tensor& x) { return nn::forward_one(*this, x); }

  // Which sizes of the inputs differ from run to run. Nothing: the first of each, the batch.
  virtual std::optional<program::Signature> signature() const { return std::nullopt; }
  // What the rules made of each layer.
  const convert::ConversionReport& report() const { return report_; }

 private:
  friend Result<std::shared_ptr<Model>> make_model(const class ModelConfig& config, const MixedPrecisionConfig& quant);
  convert::ConversionReport report_;
};

// A network of one tensor. It reads the first input, whatever its name; its result is called nn::kOutput.
class TensorModel : public Model {
 public:
  using Model::forward;
  nn::NamedTensors forward(const nn::NamedTensors& inputs) final;

 protected:
  virtual at::Tensor compute(const at::Tensor& x) = 0;
};

// What models.def knows of an architecture.
struct ModelKind {
  config::AnyConfig config;  // the defaults
  std::function<Result<std::shared_ptr<Model>>(const config::AnyConfig& config, const convert::QuantScope& scope)> make;
};

// The kind with a config of its own. `make`: errors are InvalidArgument (sizes that the architecture cannot take) and those of QuantScope::layer().
template <config::Config Own>
ModelKind kind_of(Result<std::shared_ptr<Model>> (*make)(const Own& config, const convert::QuantScope& scope)) {
  return {config::AnyConfig(Own()), [make](const config::AnyConfig& config, const convert::QuantScope& scope) {
            return make(*config.as<Own>(), scope);
          }};
}

// Error: InvalidArgument, where a whole number of a config, or one of a list, is below 1.
Status check_sizes(std::string_view model, const config::Table& config);

// Which architecture, and what it alone has: its name, and beside it the fields of its own config.
class ModelConfig {
 public:
  ModelConfig();  // lenet5 with its defaults
  // That of an architecture, whose name is Own::kName.
  template <config::Config Own>
  requires requires { Own::kName; }
  ModelConfig(Own own)  // NOLINT(google-explicit-constructor): make_model(LeNet5Config{.classes = 3})
      : name_(Own::kName), own_(std::move(own)) {}

  const std::string& name() const { return name_; }
  // Null where it is the config of another architecture.
  template <class Own>
  const Own* as() const {
    return own_.as<Own>();
  }
  // Takes the defaults of another architecture. Error: UnknownName, listing the names.
  Status choose(std::string_view name);
  // Sets sizes by name, as those that data have, where the architecture has such fields.
  void fit(const std::map<std::string, int64_t>& sizes);
  void visit(config::Fields& f);

 private:
  friend Result<std::shared_ptr<Model>> make_model(const ModelConfig& config, const MixedPrecisionConfig& quant);
  std::string name_;
  config::AnyConfig own_;
};

// A network with layers that are quantized by `quant`. Errors: InvalidArgument (sizes that the architecture cannot take), those of
// QuantScope.
Result<std::shared_ptr<Model>> make_model(const ModelConfig& config, const MixedPrecisionConfig& quant = {});
// With its defaults. Error: UnknownName (listing the names).
Result<std::shared_ptr<Model>> make_model(std::string_view name, const MixedPrecisionConfig& quant = {});

struct ModelInfo {
  std::string_view name, domain, summary;
};
std::vector<ModelInfo> model_list();

#define BITLAB_MODEL(name, domain, summary) ModelKind name##_kind();
#include "bitlab/models/models.def"
#undef BITLAB_MODEL

}  // namespace bitlab::models
