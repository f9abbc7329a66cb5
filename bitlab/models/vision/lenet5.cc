#include "bitlab/models/vision/lenet5.h"

#include <ATen/ops/flatten.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

namespace bitlab::models {
namespace {

constexpr int64_t kKernel = 5;

// The side of an image behind one convolution and one pooling.
int64_t shrink(int64_t side) { return (side - kKernel + 1) / 2; }

// Images float32 [B, channels, height, width] -> logits [B, classes].
class LeNet5 final : public TensorModel {
 public:
  LeNet5(const LeNet5Config& c, const convert::QuantScope& scope) {
    constexpr int64_t kFilters1 = 20, kFilters2 = 50, kHidden = 500;
    const int64_t pixels = shrink(shrink(c.height)) * shrink(shrink(c.width));
    using nn::BitConv2d, nn::BitConv2dOptions, nn::BitLinear, nn::BitLinearOptions;
    conv1_ = register_module("conv1", scope.layer<BitConv2d>("conv1", BitConv2dOptions(c.channels, kFilters1, kKernel)));
    conv2_ = register_module("conv2", scope.layer<BitConv2d>("conv2", BitConv2dOptions(kFilters1, kFilters2, kKernel)));
    fc1_ = register_module("fc1", scope.layer<BitLinear>("fc1", BitLinearOptions(kFilters2 * pixels, kHidden)));
    fc2_ = register_module("fc2", scope.layer<BitLinear>("fc2", BitLinearOptions(kHidden, c.classes)));
  }

 protected:
  at::Tensor compute(const at::Tensor& x) override {
    at::Tensor h = at::max_pool2d(at::relu(conv1_(x)), 2);
    h = at::max_pool2d(at::relu(conv2_(h)), 2);
    return fc2_(at::relu(fc1_(at::flatten(h, 1))));
  }

 private:
  nn::BitConv2d conv1_{nullptr}, conv2_{nullptr};
  nn::BitLinear fc1_{nullptr}, fc2_{nullptr};
};

Result<std::shared_ptr<Model>> make_lenet5(const LeNet5Config& c, const convert::QuantScope& scope) {
  LeNet5Config checked = c;
  BITLAB_RETURN_IF_ERROR(check_sizes(LeNet5Config::kName, config::table_of(checked)));
  if (shrink(shrink(c.height)) < 1 || shrink(shrink(c.width)) < 1)
    return make_error(ErrorCode::kInvalidArgument, "[lenet5] images of at least 16x16, got {}x{}", c.height, c.width);
  return std::shared_ptr<Model>(std::make_shared<LeNet5>(c, scope));
}

}  // namespace

ModelKind lenet5_kind() { return kind_of(make_lenet5); }

}  // namespace bitlab::models
