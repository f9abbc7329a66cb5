#include "bitlab/models/vision/vgg7.h"

#include <ATen/ops/flatten.h>
#include <ATen/ops/max_pool2d.h>
#include <ATen/ops/relu.h>

#include "bitlab/nn/bit_batch_norm.h"

namespace bitlab::models {
namespace {

constexpr int64_t kConvolutions = 6, kHalved = 8;  // three poolings of 2

// Images float32 [B, channels, height, width] -> logits [B, classes].
class Vgg7 final : public TensorModel {
 public:
  Vgg7(const Vgg7Config& c, const convert::QuantScope& scope) {
    int64_t in = c.channels;
    for (int64_t i = 0; i < kConvolutions; ++i) {
      const std::string number = std::to_string(i + 1);
      const int64_t out = c.filters << (i / 2);
      convs_.push_back(register_module(
          "conv" + number,
          scope.layer<nn::BitConv2d>("conv" + number, nn::BitConv2dOptions(in, out, 3).padding(1).bias(false))));
      norms_.push_back(register_module("norm" + number, nn::BitBatchNorm2d(out)));
      in = out;
    }
    const int64_t values = in * (c.height / kHalved) * (c.width / kHalved);
    fc1_ = register_module("fc1", scope.layer<nn::BitLinear>("fc1", nn::BitLinearOptions(values, c.hidden).bias(false)));
    norm_ = register_module("norm", nn::BitBatchNorm1d(c.hidden));
    fc2_ = register_module("fc2", scope.layer<nn::BitLinear>("fc2", nn::BitLinearOptions(c.hidden, c.classes)));
  }

 protected:
  at::Tensor compute(const at::Tensor& x) override {
    at::Tensor h = x;
    for (size_t i = 0; i < convs_.size(); ++i) {
      h = at::relu(norms_[i](convs_[i](h)));
      if (i % 2 == 1) h = at::max_pool2d(h, 2);
    }
    return fc2_(at::relu(norm_(fc1_(at::flatten(h, 1)))));
  }

 private:
  std::vector<nn::BitConv2d> convs_;
  std::vector<nn::BitBatchNorm2d> norms_;
  nn::BitLinear fc1_{nullptr}, fc2_{nullptr};
  nn::BitBatchNorm1d norm_{nullptr};
};

Result<std::shared_ptr<Model>> make_vgg7(const Vgg7Config& c, const convert::QuantScope& scope) {
  Vgg7Config checked = c;
  BITLAB_RETURN_IF_ERROR(check_sizes(Vgg7Config::kName, config::table_of(checked)));
  if (c.height < kHalved || c.width < kHalved)
    return make_error(ErrorCode::kInvalidArgument, "[vgg7] images of at least 8x8, got {}x{}", c.height, c.width);
  return std::shared_ptr<Model>(std::make_shared<Vgg7>(c, scope));
}

}  // namespace

ModelKind vgg7_kind() { return kind_of(make_vgg7); }

}  // namespace bitlab::models
