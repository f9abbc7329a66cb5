// Networks by name. A model is a LibTorch module with one forward; its layers are quantized as its config says.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include <torch/nn/module.h>

#include "bitlab/config/config.h"

namespace bitlab::models {

class Model : public torch::nn::Module {
 public:
  // Images float32 [B, channels, height, width] -> logits [B, classes].
  virtual at::Tensor forward(const at::Tensor& x) = 0;
};

// Errors: UnknownName (listing the names), InvalidArgument (sizes that the architecture cannot take).
Result<std::shared_ptr<Model>> make_model(const ModelConfig& config);

struct ModelInfo {
  std::string_view name, summary;
};
std::vector<ModelInfo> model_list();

#define BITLAB_MODEL(name, summary) Result<std::shared_ptr<Model>> make_##name(const ModelConfig& config);
#include "bitlab/models/models.def"
#undef BITLAB_MODEL

}  // namespace bitlab::models
