#include "bitlab/models/model.h"

namespace bitlab::models {

Result<std::shared_ptr<Model>> make_model(const ModelConfig& config) {
  if (config.channels < 1 || config.height < 1 || config.width < 1 || config.classes < 1)
    return make_error(ErrorCode::kInvalidArgument, "[model] sizes of at least 1, got {}x{}x{} and {} classes",
                      config.channels, config.height, config.width, config.classes);
#define BITLAB_MODEL(model, summary) \
  if (config.name == #model) return make_##model(config);
#include "bitlab/models/models.def"
#undef BITLAB_MODEL
  std::string names;
  for (const ModelInfo& info : model_list()) names += (names.empty() ? "" : ", ") + std::string(info.name);
  return make_error(ErrorCode::kUnknownName, "[model] one of {{{}}}, got '{}'", names, config.name);
}

std::vector<ModelInfo> model_list() {
  return {
#define BITLAB_MODEL(model, summary) {#model, summary},
#include "bitlab/models/models.def"
#undef BITLAB_MODEL
  };
}

}  // namespace bitlab::models
