#include "bitlab/models/vision/resnet.h"

#include <ATen/ops/adaptive_avg_pool2d.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/flatten.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/slice.h>

#include "bitlab/nn/bit_batch_norm.h"

namespace bitlab::models {
namespace {

constexpr int64_t kStages = 3, kLayersOfBlock = 2;

// A convolution of 3x3 without a bias, which the batch norm behind it has.
nn::BitConv2d conv3x3(const convert::QuantScope& scope, const std::string& name, int64_t in, int64_t out, int64_t stride) {
  return scope.layer<nn::BitConv2d>(name, nn::BitConv2dOptions(in, out, 3).stride(stride).padding(1).bias(false));
}

// x [B, in, h, w] -> [B, out, h / stride, w / stride], rounded up: relu(x + norm(conv(relu(norm(conv(x)))))).
class ResidualBlock final : public torch::nn::Module {
 public:
  ResidualBlock(int64_t in, int64_t out, int64_t stride, const convert::QuantScope& scope)
      : stride_(stride), added_(out - in) {
    conv1_ = register_module("conv1", conv3x3(scope, "conv1", in, out, stride));
    norm1_ = register_module("norm1", nn::BitBatchNorm2d(out));
    conv2_ = register_module("conv2", conv3x3(scope, "conv2", out, out, 1));
    norm2_ = register_module("norm2", nn::BitBatchNorm2d(out));
  }

  at::Tensor forward(const at::Tensor& x) {
    const at::Tensor h = norm2_(conv2_(at::relu(norm1_(conv1_(x)))));
    return at::relu(h + shortcut(x));
  }

 private:
  at::Tensor shortcut(const at::Tensor& x) const {
    if (stride_ == 1 && added_ == 0) return x;
    const at::Tensor fewer = x.slice(2, 0, std::nullopt, stride_).slice(3, 0, std::nullopt, stride_);
    return at::constant_pad_nd(fewer, {0, 0, 0, 0, added_ / 2, added_ - added_ / 2});
  }

  int64_t stride_, added_;
  nn::BitConv2d conv1_{nullptr}, conv2_{nullptr};
  nn::BitBatchNorm2d norm1_{nullptr}, norm2_{nullptr};
};

// Images float32 [B, channels, height, width] -> logits [B, classes].
class ResNet final : public TensorModel {
 public:
  ResNet(const ResNetConfig& c, const convert::QuantScope& scope) {
    conv_ = register_module("conv", conv3x3(scope, "conv", c.channels, c.filters, 1));
    norm_ = register_module("norm", nn::BitBatchNorm2d(c.filters));
    int64_t filters = c.filters;
    for (int64_t stage = 1; stage <= kStages; ++stage)
      for (int64_t i = 0; i < (c.depth - 2) / (kLayersOfBlock * kStages); ++i) {
        const bool narrows = stage > 1 && i == 0;
        const std::string name = fmt::format("stage{}_{}", stage, i);
        const int64_t out = narrows ? 2 * filters : filters;
        blocks_.push_back(
            register_module(name, std::make_shared<ResidualBlock>(filters, out, narrows ? 2 : 1, scope / name)));
        filters = out;
      }
    fc_ = register_module("fc", scope.layer<nn::BitLinear>("fc", nn::BitLinearOptions(filters, c.classes)));
  }

 protected:
  at::Tensor compute(const at::Tensor& x) override {
    at::Tensor h = at::relu(norm_(conv_(x)));
    for (const auto& block : blocks_) h = block->forward(h);
    return fc_(at::flatten(at::adaptive_avg_pool2d(h, {1, 1}), 1));
  }

 private:
  nn::BitConv2d conv_{nullptr};
  nn::BitBatchNorm2d norm_{nullptr};
  std::vector<std::shared_ptr<ResidualBlock>> blocks_;
  nn::BitLinear fc_{nullptr};
};

Result<std::shared_ptr<Model>> make_resnet(const ResNetConfig& c, const convert::QuantScope& scope) {
  ResNetConfig checked = c;
  BITLAB_RETURN_IF_ERROR(check_sizes(ResNetConfig::kName, config::table_of(checked)));
  constexpr int64_t kMaxDepth = 1202;  // the deepest of the paper
  if (c.depth < 8 || c.depth > kMaxDepth || (c.depth - 2) % (kLayersOfBlock * kStages) != 0)
    return make_error(ErrorCode::kInvalidArgument, "[resnet] a depth of 6 n + 2 from 8 to {}, got {}", kMaxDepth, c.depth);
  return std::shared_ptr<Model>(std::make_shared<ResNet>(c, scope));
}

}  // namespace

ModelKind resnet_kind() { return kind_of(make_resnet); }

}  // namespace bitlab::models
