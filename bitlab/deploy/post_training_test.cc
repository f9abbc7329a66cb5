// Post-training quantization against closed forms and against the float network.
#include "bitlab/deploy/post_training.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/test_support.h"
#include "bitlab/nn/bit_batch_norm.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_linear.h"

namespace bitlab::deploy {
namespace {

using test::Net;

BitQuantConfig static_int8(ternary::Granularity granularity = ternary::Granularity::kChannel) {
  BitQuantConfig quant;
  quant.granularity = granularity;
  quant.activation = ternary::ActKind::kInt8Static;
  return quant;
}

// conv - BatchNorm - relu - conv without a bias - BatchNorm (also read by a sum) - pool - linear
template <class BatchNorm>
struct ConvNet : Net {
  nn::BitConv2d conv1{nullptr}, conv2{nullptr};
  BatchNorm norm1{nullptr}, norm2{nullptr};
  nn::BitLinear fc{nullptr};

  explicit ConvNet(const BitQuantConfig& quant) {
    conv1 = register_module("conv1", nn::BitConv2d(nn::BitConv2dOptions(3, 16, 3).padding(1).quant(quant)));
    norm1 = register_module("norm1", BatchNorm(16));
    conv2 = register_module("conv2", nn::BitConv2d(nn::BitConv2dOptions(16, 16, 3).padding(1).bias(false).quant(quant)));
    norm2 = register_module("norm2", BatchNorm(16));
    fc = register_module("fc", nn::BitLinear(nn::BitLinearOptions(16, 5).quant(quant)));
    for (auto* norm : {&norm1, &norm2}) {
      torch::nn::init::normal_((*norm)->weight, 0.2, 1);  // both signs
      torch::nn::init::normal_((*norm)->bias);
      (*norm)->running_mean.normal_();
      (*norm)->running_var.uniform_(0.5, 2);
    }
    body = [this](Net&, const at::Tensor& x) {
      const at::Tensor h = at::relu(norm1(conv1(x)));
      return fc((h + norm2(conv2(h))).mean({2, 3}));
    };
  }
};

std::vector<at::Tensor> samples() {
  torch::manual_seed(9);
  return {torch::randn({6, 3, 8, 7}), torch::randn({6, 3, 8, 7})};
}

template <class BatchNorm>
void bring_outputs_near_the_float_networks() {
  torch::manual_seed(1);
  for (auto granularity : {ternary::Granularity::kTensor, ternary::Granularity::kChannel}) {
    ConvNet<BatchNorm> net(static_int8(granularity));
    const auto data = samples();
    at::NoGradGuard no_grad;
    at::Tensor float_output;
    std::vector<double> errors;
    const auto evaluate = [&] {
      const at::Tensor y = net.forward(data[0]);
      if (!float_output.defined()) float_output = y;
      errors.push_back((y - float_output).square().mean().item<double>());
      return errors.back();
    };
    const auto report = quantize_for_deployment(
        net, [&](const at::Tensor& x) { return net.forward(x); }, data, {}, evaluate);
    ASSERT_TRUE(report.ok()) << report.error().message;
    ASSERT_EQ(report->layers.size(), 3U);
    EXPECT_EQ(report->evaluated_float, 0.0);
    EXPECT_LT(*report->evaluated_after, 0.7 * *report->evaluated_before);
    EXPECT_EQ(*report->evaluated_after, errors.back());
    const char* names[] = {"conv1", "conv2", "fc"};
    for (size_t i = 0; i < 3; ++i) {
      const LayerFit& fit = report->layers[i];
      EXPECT_EQ(fit.name, names[i]);
      EXPECT_TRUE(fit.frozen);
      EXPECT_EQ(fit.folded, i < 2);
      EXPECT_GT(fit.act_scale, 0);
      EXPECT_LE(fit.error_after, fit.error_before + 1e-12) << fit.name;
    }
    // 2 bits a code, and float32 scales and biases, in padded rows.
    EXPECT_EQ(report->float32_weight_bytes % 4, 0);
    EXPECT_GT(report->weight_bytes, 0);
    EXPECT_DOUBLE_EQ(report->bits_a_weight,
                     32.0 * static_cast<double>(report->weight_bytes) / static_cast<double>(report->float32_weight_bytes));
    // What remains is ternary products alone, and the runtime gives its bits.
    const auto program = capture(
                             net, [&](const at::Tensor& x) { return net.forward(x); }, data[0])
                             .value();
    for (const auto& node : program.nodes) {
      EXPECT_NE(node.op, program::Op::batch_norm);
      EXPECT_NE(node.op, program::Op::mul);
    }
    EXPECT_TRUE(check_parity(
                    program, net, [&](const at::Tensor& x) { return net.forward(x); }, data[0])
                    .ok());
  }
}

TEST(PostTraining, BringsOutputsNearTheFloatNetworks) {
  bring_outputs_near_the_float_networks<torch::nn::BatchNorm2d>();
  bring_outputs_near_the_float_networks<nn::BitBatchNorm2d>();
}

// A linear layer's scales and bias against the least squares of its definition.
TEST(PostTraining, FitsTheClosedForm) {
  torch::manual_seed(2);
  Net net;
  BitQuantConfig quant;
  quant.granularity = ternary::Granularity::kTensor;
  auto fc = net.register_module("fc", nn::BitLinear(nn::BitLinearOptions(20, 6).quant(quant)));
  net.body = [=](Net&, const at::Tensor& x) { return fc->forward(x); };
  const at::Tensor x = torch::randn({50, 20}), w = fc->weight.detach().clone(), b = fc->bias.detach().clone();
  const at::Tensor samples[] = {x.narrow(0, 0, 30), x.narrow(0, 30, 20)};
  ASSERT_TRUE(quantize_for_deployment(
                  net, [&](const at::Tensor& v) { return net.forward(v); }, samples)
                  .ok());
  const at::Tensor s = w.abs().mean().clamp_min(1e-5), t = (w / s).round().clamp(-1, 1);
  const at::Tensor a = x.abs().amax(1, true).clamp_min(1e-5) / 127, q = (x / a).round();
  const at::Tensor y = x.matmul(w.t()).to(at::kDouble), z = (q * a).matmul(t.t()).to(at::kDouble);
  const at::Tensor scale = (y * z).sum(0) / (z * z).sum(0);
  EXPECT_TRUE(torch::allclose(fc->quantizer.weight_scale.to(at::kDouble), scale, 1e-5, 1e-7));
  EXPECT_TRUE(torch::allclose(fc->bias.to(at::kDouble), b.to(at::kDouble) + (y - z * scale).mean(0), 1e-4, 1e-6));
  EXPECT_TRUE(torch::allclose(fc->weight, t * fc->quantizer.weight_scale.unsqueeze(1)));
  // Codes stay what they are, and training can go on.
  const auto codes = fc->quantizer.quantized(fc->weight.detach());
  EXPECT_TRUE(torch::equal(codes.t.to(at::kFloat), t));
  net.train();
  net.forward(x).sum().backward();
  EXPECT_TRUE(fc->weight.grad().defined() && fc->quantizer.weight_scale.grad().defined());
}

TEST(PostTraining, LeavesGroupsTwoScalesAndInt8AsTheyAre) {
  torch::manual_seed(3);
  BitQuantConfig groups = BitQuantConfig::for_server(), two;
  groups.group_size = 64;
  two.method = ternary::Method::kTtq;
  for (const BitQuantConfig& quant : {groups, two, BitQuantConfig::int8()}) {
    Net net;
    auto fc = net.register_module("fc", nn::BitLinear(nn::BitLinearOptions(128, 6).quant(quant)));
    net.body = [=](Net&, const at::Tensor& x) { return fc->forward(x); };
    const at::Tensor x = torch::randn({5, 128}), before = fc->weight.detach().clone();
    const auto report = quantize_for_deployment(net, [&](const at::Tensor& v) { return net.forward(v); }, {&x, 1}).value();
    EXPECT_FALSE(report.layers[0].frozen);
    EXPECT_TRUE(torch::equal(fc->weight, before));
    EXPECT_GT(report.bits_a_weight, quant.method == ternary::Method::kInt8 ? 8 : 2);
    EXPECT_LT(report.bits_a_weight, quant.method == ternary::Method::kInt8 ? 11 : 5);
  }
}

TEST(PostTraining, RefusesWhatItCannotFit) {
  Net net;
  auto used = net.register_module("used", nn::BitLinear(4, 4));
  net.body = [=](Net&, const at::Tensor& x) { return used->forward(x); };
  const auto forward = [&](const at::Tensor& v) { return net.forward(v); };
  EXPECT_EQ(quantize_for_deployment(net, forward, {}).error().message, "[post_training] samples, got none");
  const at::Tensor wrong = torch::randn({2, 3}), x = torch::randn({2, 4});
  EXPECT_EQ(quantize_for_deployment(net, forward, {&wrong, 1}).error().code, ErrorCode::kInvalidArgument);
  net.register_module("unused", nn::BitLinear(4, 4));
  EXPECT_EQ(quantize_for_deployment(net, forward, {&x, 1}).error().message,
            "[post_training] samples that reach each of 2 layers, got 1");
  torch::nn::Linear plain(4, 4);
  EXPECT_EQ(quantize_for_deployment(*plain, [&](const at::Tensor& v) { return plain(v); }, {&x, 1}).error().message,
            "[post_training] a module with ternary layers, got none");
}

}  // namespace
}  // namespace bitlab::deploy
