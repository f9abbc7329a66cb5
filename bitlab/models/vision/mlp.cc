#include "bitlab/models/vision/mlp.h"

#include <ATen/ops/flatten.h>
#include <ATen/ops/relu.h>

namespace bitlab::models {
namespace {

// Images float32 [B, channels, height, width] -> logits [B, classes], through the layers fc1, fc2, …
class Mlp final : public TensorModel {
 public:
  Mlp(const MlpConfig& c, const convert::QuantScope& scope) {
    int64_t width = c.channels * c.height * c.width;
    std::vector<int64_t> outputs = c.hidden;
    outputs.push_back(c.classes);
    for (const int64_t next : outputs) {
      const std::string name = "fc" + std::to_string(layers_.size() + 1);
      layers_.push_back(register_module(name, scope.layer<nn::BitLinear>(name, nn::BitLinearOptions(width, next))));
      width = next;
    }
  }

 protected:
  at::Tensor compute(const at::Tensor& x) override {
    at::Tensor h = layers_[0](at::flatten(x, 1));
    for (size_t i = 1; i < layers_.size(); ++i) h = layers_[i](at::relu(h));
    return h;
  }

 private:
  std::vector<nn::BitLinear> layers_;
};

Result<std::shared_ptr<Model>> make_mlp(const MlpConfig& c, const convert::QuantScope& scope) {
  MlpConfig checked = c;
  BITLAB_RETURN_IF_ERROR(check_sizes(MlpConfig::kName, config::table_of(checked)));
  return std::shared_ptr<Model>(std::make_shared<Mlp>(c, scope));
}

}  // namespace

ModelKind mlp_kind() { return kind_of(make_mlp); }

}  // namespace bitlab::models
