#include <ATen/ops/flatten.h>
#include <ATen/ops/relu.h>

#include "bitlab/models/model.h"
#include "bitlab/nn/bit_linear.h"

namespace bitlab::models {
namespace {

class Mlp final : public Model {
 public:
  explicit Mlp(const ModelConfig& config) {
    constexpr int64_t kHidden = 512;
    using nn::BitLinearOptions;
    const int64_t values = config.channels * config.height * config.width;
    fc1_ = register_module("fc1", nn::BitLinear(BitLinearOptions(values, kHidden).quant(config.quant)));
    fc2_ = register_module("fc2", nn::BitLinear(BitLinearOptions(kHidden, kHidden).quant(config.quant)));
    fc3_ = register_module("fc3", nn::BitLinear(BitLinearOptions(kHidden, config.classes).quant(config.quant)));
  }

  at::Tensor forward(const at::Tensor& x) override { return fc3_(at::relu(fc2_(at::relu(fc1_(at::flatten(x, 1)))))); }

 private:
  nn::BitLinear fc1_{nullptr}, fc2_{nullptr}, fc3_{nullptr};
};

}  // namespace

Result<std::shared_ptr<Model>> make_mlp(const ModelConfig& config) {
  return std::shared_ptr<Model>(std::make_shared<Mlp>(config));
}

}  // namespace bitlab::models
