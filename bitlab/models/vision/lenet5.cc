// LeNet-5 in its usual modern form, 20 and 50 filters: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
#include <ATen/ops/flatten.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

#include "bitlab/models/model.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_linear.h"

namespace bitlab::models {
namespace {

constexpr int64_t kKernel = 5;

// The side of an image behind one convolution and one pooling.
int64_t shrink(int64_t side) { return (side - kKernel + 1) / 2; }

class LeNet5 final : public Model {
 public:
  explicit LeNet5(const ModelConfig& config) {
    constexpr int64_t kFilters1 = 20, kFilters2 = 50, kHidden = 500;
    const int64_t pixels = shrink(shrink(config.height)) * shrink(shrink(config.width));
    using nn::BitConv2dOptions, nn::BitLinearOptions;
    conv1_ =
        register_module("conv1", nn::BitConv2d(BitConv2dOptions(config.channels, kFilters1, kKernel).quant(config.quant)));
    conv2_ = register_module("conv2", nn::BitConv2d(BitConv2dOptions(kFilters1, kFilters2, kKernel).quant(config.quant)));
    fc1_ = register_module("fc1", nn::BitLinear(BitLinearOptions(kFilters2 * pixels, kHidden).quant(config.quant)));
    fc2_ = register_module("fc2", nn::BitLinear(BitLinearOptions(kHidden, config.classes).quant(config.quant)));
  }

  at::Tensor forward(const at::Tensor& x) override {
    at::Tensor h = at::max_pool2d(at::relu(conv1_(x)), 2);
    h = at::max_pool2d(at::relu(conv2_(h)), 2);
    return fc2_(at::relu(fc1_(at::flatten(h, 1))));
  }

 private:
  nn::BitConv2d conv1_{nullptr}, conv2_{nullptr};
  nn::BitLinear fc1_{nullptr}, fc2_{nullptr};
};

}  // namespace

Result<std::shared_ptr<Model>> make_lenet5(const ModelConfig& config) {
  if (shrink(shrink(config.height)) < 1 || shrink(shrink(config.width)) < 1)
    return make_error(ErrorCode::kInvalidArgument, "[lenet5] images of at least 16x16, got {}x{}", config.height,
                      config.width);
  return std::shared_ptr<Model>(std::make_shared<LeNet5>(config));
}

}  // namespace bitlab::models
