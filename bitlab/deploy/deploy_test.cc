// Capture: what is recorded runs in the runtime with the same bits, and what cannot be lowered is refused by name.
#include "bitlab/deploy/deploy.h"

#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/deploy/compare.h"
#include "bitlab/deploy/test_support.h"
#include "bitlab/format/bit/bit.h"
#include "bitlab/models/model.h"
#include "bitlab/models/test_support.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/program/print.h"

namespace bitlab::deploy {
namespace {

using test::capture_net, test::Net, test::run_program, test::same_bits;
namespace F = torch::nn::functional;

// To the bit where nothing in them has another order of sums in the runtime, otherwise within what is promised.
TEST(Capture, EveryModelRuns) {
  torch::manual_seed(1);
  for (const models::ModelInfo& info : models::model_list())
    for (ternary::Granularity granularity : {ternary::Granularity::kTensor, ternary::Granularity::kChannel}) {
      BitQuantConfig quant;
      quant.granularity = granularity;
      const auto model = models::make_model(models::test::small_config(info.name), {.quant = quant}).value();
      const at::Tensor x = models::test::example(info, 7);
      model->forward(x);  // running statistics
      const auto program = capture(*model, nn::forward_of(*model), x, {.signature = model->signature()}).value();
      const bool has_bounded_sums = info.name == "resnet" || info.domain == "text";  // averages, attention
      EXPECT_NE(program.is_exact(), has_bounded_sums) << info.name;
      for (int64_t batch : {1, 3, 7})
        EXPECT_TRUE(check_parity(program, *model, nn::forward_of(*model), x.narrow(0, 0, batch)).ok())
            << info.name << " " << batch;
    }
}

// What eval computes is what is deployed, for every method, granularity and kind of activation: the same kernels, the same bits.
TEST(Capture, EveryQuantizationRunsWithTheSameBits) {
  torch::manual_seed(2);
  using ternary::ActKind, ternary::Granularity;
  for (size_t m = 0; m < ternary::method_list().size(); ++m)
    for (Granularity granularity : {Granularity::kTensor, Granularity::kChannel, Granularity::kGroup})
      for (ActKind kind : {ActKind::kInt8, ActKind::kInt4, ActKind::kInt8Static, ActKind::kInt4Static, ActKind::kNone}) {
        BitQuantConfig quant;
        quant.smoothing = kind == ActKind::kInt4 ? 0.5 : 0;
        quant.method = static_cast<ternary::Method>(m);
        quant.granularity = granularity;
        quant.group_size = 64;
        quant.activation = kind;
        const bool plain =
            granularity != Granularity::kGroup && !ternary::info(*quant.method).asymmetric && is_ternary(*quant.method);
        if (kind == ActKind::kInt8Static && is_ternary(*quant.method)) quant.sparsity = ternary::Sparsity::k2of4;
        if (kind == ActKind::kInt4 && ternary::info(*quant.method).rounds) quant.rounding = ternary::Rounding::kStochastic;
        if (!validate(quant.weight_spec()).ok() || (kind == ActKind::kNone && !plain)) continue;
        Net net;
        auto conv =
            net.register_module("conv", nn::BitConv2d(nn::BitConv2dOptions(64, 6, 3).padding(1).stride(2).quant(quant)));
        auto fc = net.register_module("fc", nn::BitLinear(nn::BitLinearOptions(6 * 3 * 4, 5).quant(quant)));
        net.body = [&](Net&, const at::Tensor& v) { return fc->forward(at::flatten(at::relu(conv->forward(v)), 1)); };
        const at::Tensor x = torch::randn({4, 64, 6, 7});
        net.train();
        net.forward(x);  // sets static steps
        const auto program = capture_net(net, x);
        ASSERT_TRUE(program.ok()) << program.error().message;
        at::NoGradGuard no_grad;
        for (int64_t batch : {1, 4})
          EXPECT_TRUE(same_bits(run_program(*program, x.narrow(0, 0, batch)), net.forward(x.narrow(0, 0, batch))))
              << to_text(quant.weight_spec()) << " " << name(kind);
      }
}

TEST(Capture, HoldsCodesUnderTheWeightsNames) {
  const auto model = models::make_model("lenet5").value();
  const auto program = capture(*model, nn::forward_of(*model), torch::randn({1, 1, 28, 28})).value();
  std::vector<std::string> names;
  for (const auto& constant : program.constants) {
    const auto& value = program.value(constant.value);
    names.push_back(value.name);
    EXPECT_EQ(value.storage == program::Storage::kTernary, value.name.ends_with(".weight"))
        << "latent weights must not travel";
  }
  EXPECT_EQ(names, (std::vector<std::string>{"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "fc1.weight",
                                             "fc1.bias", "fc2.weight", "fc2.bias"}));
  std::vector<std::string> nodes;
  for (const auto& node : program.nodes) nodes.push_back(node.name);
  EXPECT_EQ(nodes, (std::vector<std::string>{"conv1", "relu", "max_pool", "conv2", "relu_1", "max_pool_1", "reshape", "fc1",
                                             "relu_2", "fc2"}));
}

// Float layers in LibTorch's own modules: lowered, near in value.
TEST(Capture, LowersTheFloatLayersOfLibTorch) {
  torch::manual_seed(2);
  Net net;
  torch::nn::Conv2d conv =
      net.register_module("conv", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 8, {3, 5}).stride({2, 1}).padding({1, 2})));
  torch::nn::Conv2d skip = net.register_module("skip", torch::nn::Conv2d(torch::nn::Conv2dOptions(8, 8, 1).bias(false)));
  torch::nn::Linear fc = net.register_module("fc", torch::nn::Linear(8, 10));
  net.body = [=](Net& self, const at::Tensor& x) mutable {
    at::Tensor h = at::relu(conv(x));
    h = h + skip(h);
    h = F::max_pool2d(h, F::MaxPool2dFuncOptions(3).stride(2).padding(1));
    h = F::avg_pool2d(h, F::AvgPool2dFuncOptions({2, 1}));
    h = F::adaptive_avg_pool2d(h, F::AdaptiveAvgPool2dFuncOptions({1, 1}));
    h = F::dropout(h, F::DropoutFuncOptions().training(self.is_training()));
    return at::softmax(fc(h.view({h.size(0), -1})), 1);
  };
  const at::Tensor x = torch::randn({5, 3, 16, 17});
  const auto program = capture_net(net, x).value();
  EXPECT_FALSE(program.is_exact());
  at::NoGradGuard no_grad;
  net.eval();
  EXPECT_TRUE(torch::allclose(run_program(program, x), net.forward(x), 1e-4, 1e-6)) << program::print(program);
}

TEST(Capture, SharedLayersAreStoredOnce) {
  Net net;
  nn::BitLinear fc = net.register_module("fc", nn::BitLinear(6, 6));
  net.body = [=](Net&, const at::Tensor& x) mutable { return fc(at::relu(fc(x))); };
  const at::Tensor x = torch::randn({3, 6});
  const auto program = capture_net(net, x).value();
  EXPECT_EQ(program.constants.size(), 2U);
  at::NoGradGuard no_grad;
  EXPECT_TRUE(same_bits(run_program(program, x), net.forward(x)));
}

TEST(Capture, InPlaceOperatorsAreUnderstood) {
  Net net;
  nn::BitLinear fc = net.register_module("fc", nn::BitLinear(6, 6));
  net.body = [=](Net&, const at::Tensor& x) mutable { return fc(x).relu_().add_(x); };
  const at::Tensor x = torch::randn({3, 6});
  {
    const auto program = capture_net(net, x).value();
    at::NoGradGuard no_grad;
    EXPECT_TRUE(same_bits(run_program(program, x), net.forward(x)));
  }
  net.body = [=](Net&, const at::Tensor& v) mutable {
    const at::Tensor h = fc(v);
    h.view({h.size(0), 6}).relu_();
    return h;
  };
  const auto program = capture_net(net, x).value();
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(same_bits(run_program(program, x), net.forward(x)));
}

TEST(Capture, RefusesByName) {
  struct Case {
    std::function<at::Tensor(Net&, const at::Tensor&)> body;
    const char* names;
  };
  const Case cases[] = {
      {[](Net&, const at::Tensor& x) { return at::special_bessel_j0(x); }, "aten::special_bessel_j0"},
      {[](Net&, const at::Tensor& x) { return x + x.sum().item<float>(); }, "within samples"},
      {[](Net&, const at::Tensor& x) {
         return x + torch::arange(x.size(0)).view({-1, 1}).to(at::kFloat);
       },
       "each sample"},
      {[](Net&, const at::Tensor& x) { return x * torch::full({1}, static_cast<float>(x.size(0))); },
       "neither sizes nor values"},
      {[](Net&, const at::Tensor& x) { return at::softmax(x, 0); }, "within samples"},
      {[](Net&, const at::Tensor& x) { return x.size(0) == 2 ? at::relu(x) : at::relu(at::relu(x)); },
       "the same operators for every size"},
  };
  for (const Case& c : cases) {
    Net net;
    net.body = c.body;
    const auto program = capture_net(net, torch::randn({2, 6}));
    ASSERT_FALSE(program.ok()) << c.names;
    EXPECT_NE(program.error().message.find(c.names), std::string::npos) << program.error().message;
  }
  Net net;
  net.body = [](Net&, const at::Tensor& x) { return x.matmul(torch::ones({99, 2})); };
  EXPECT_EQ(capture_net(net, torch::randn({2, 6})).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(capture_net(net, torch::randn({2, 6}).to(at::kDouble)).error().code, ErrorCode::kInvalidArgument);
}

std::string refusal(Net& net, const at::Tensor& example) {
  const auto program = capture_net(net, example);
  return program.ok() ? "no error" : program.error().message;
}

TEST(Capture, SaysWhatIsWrongWithTheExample) {
  Net net;
  net.body = [](Net&, const at::Tensor& x) { return at::relu(x); };
  EXPECT_EQ(refusal(net, torch::randn({0, 3, 4})),
            "[capture] an example with one element or more, got shape [0, 3, 4] (input=input)");
  EXPECT_EQ(refusal(net, torch::tensor(5.0F)), "[capture] an example of shape [batch, ...], got [] (input=input)");
  EXPECT_EQ(
      refusal(net, torch::randn({2, 6}).to(at::kComplexFloat)),
      "[capture] an example of floats, of integers with a sign, of uint8 or of bool values, got ComplexFloat (input=input)");
  EXPECT_EQ(refusal(net, torch::randn({2, 6}).to(at::kDouble)),
            "[capture] float32, in which programs compute, by .float(): what 53 bits promise they cannot keep, got Double "
            "(operator=aten::relu)");
}

// What is random in eval differs between any two passes, and an operator without a lowering may be followed by others for each batch: the cause
// is named, not its consequence.
TEST(Capture, NamesTheCauseBeforeItsConsequences) {
  Net net;
  net.body = [](Net&, const at::Tensor& x) { return F::dropout(x, F::DropoutFuncOptions().p(0.25)); };
  EXPECT_EQ(
      refusal(net, torch::randn({2, 6})),
      "[capture] a dropout that is off in eval, as with F::DropoutFuncOptions().training(is_training()), got one that is "
      "on, with p = 0.25 (operator=aten::dropout)");
  net.body = [](Net&, const at::Tensor& x) {
    const at::Tensor y = at::special_bessel_j0(x);
    return x.size(0) == 2 ? at::relu(y) : at::relu(at::relu(y));
  };
  EXPECT_NE(refusal(net, torch::randn({2, 6})).find("(operator=aten::special_bessel_j0)"), std::string::npos);
  net.body = [](Net&, const at::Tensor& x) { return at::adaptive_avg_pool2d(x, {0, 0}); };
  EXPECT_EQ(refusal(net, torch::randn({2, 3, 4, 4})),
            "[capture] a grid of at least 1 in each dimension, got [0, 0] (operator=aten::adaptive_avg_pool2d)");
}

// A forward pass that works in place on its input leaves the caller's example and samples alone.
TEST(Save, LeavesTheExampleAsItIs) {
  torch::manual_seed(4);
  Net net;
  nn::BitLinear fc = net.register_module("fc", nn::BitLinear(6, 3));
  net.body = [=](Net&, at::Tensor x) mutable { return fc(x.sub_(0.5).mul_(4)); };
  const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_in_place_{}.bit", getpid());
  for (const int64_t batch : {1, 2, 5}) {
    const at::Tensor x = torch::randn({batch, 6}), before = x.clone();
    const auto saved = save(net, x, path);
    ASSERT_TRUE(saved.ok()) << saved.error().message;
    EXPECT_TRUE(torch::equal(x, before)) << batch;
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(same_bits(run_program(format::bit::load(path).value(), x), net.forward(x.clone())));
    const auto program = capture_net(net, x).value();
    ASSERT_TRUE(compare_nodes(program, net, nn::forward_of(net), x).ok());
    EXPECT_TRUE(torch::equal(x, before)) << batch;
  }
  std::filesystem::remove(path);
}

// A head that training alone uses is left out, and named.
TEST(Save, LeavesOutWhatEvalDoesNotRead) {
  torch::manual_seed(5);
  Net net;
  nn::BitLinear fc = net.register_module("fc", nn::BitLinear(6, 3)), aux = net.register_module("aux", nn::BitLinear(6, 2));
  auto norm = net.register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({3})));
  net.body = [=](Net& self, const at::Tensor& x) mutable {
    const at::Tensor y = norm->forward(fc(x));
    return self.is_training() ? y + aux(x).sum() : y;
  };
  const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_aux_{}.bit", getpid());
  const at::Tensor x = torch::randn({2, 6});
  const Deployment deployment = save(net, x, path).value();
  EXPECT_EQ(deployment.unread, std::vector<std::string>{"aux"});
  for (const auto& value : format::bit::load(path).value().values) EXPECT_FALSE(value.name.starts_with("aux")) << value.name;
  std::filesystem::remove(path);
}

TEST(Capture, CountsWhatItLeavesOut) {
  test::Net net;
  net.register_buffer("w", torch::randn({4}));
  net.body = [](test::Net& self, const at::Tensor& x) {
    x.exp();  // for nobody
    return x + self.named_buffers()["w"].abs();
  };
  const Captured captured = capture_module(net, nn::forward_of(net), torch::randn({2, 4})).value();
  EXPECT_EQ(captured.recorded_calls, 3);
  EXPECT_EQ(captured.live_calls, 2);
  EXPECT_EQ(captured.constant_calls, 1);
  EXPECT_EQ(captured.program.nodes.size(), 1U);
}

TEST(Save, WritesWhatLoadsAndMeasuresIt) {
  torch::manual_seed(3);
  const auto model = models::make_model("lenet5").value();
  const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_deploy_{}.bit", getpid());
  const at::Tensor x = torch::randn({4, 1, 28, 28});
  const Deployment deployment = save(*model, x, path, {.metadata = {{"model", "lenet5"}}}).value();
  EXPECT_TRUE(deployment.parity.exact);
  EXPECT_EQ(deployment.parity.max_difference, 0);
  EXPECT_EQ(deployment.file_bytes, static_cast<int64_t>(std::filesystem::file_size(path)));
  EXPECT_EQ(deployment.float32_weight_bytes, 431'080 * 4);
  // Two bits a weight, rows padded to bytes; a scale a layer; 580 biases.
  EXPECT_EQ(deployment.weight_file_bytes, 20 * 5 + 50 * 100 + 500 * 160 + 10 * 100 + 4 * 4 + 580 * 4);
  const auto program = format::bit::load(path).value();
  EXPECT_EQ(program.metadata.at("model"), "lenet5");
  // Four layers, three ReLUs, two pools and a flattening; codes are there before the forward pass.
  EXPECT_EQ(program.metadata.at("capture"), R"({"recorded":10,"live":10,"constant":0})");
  at::NoGradGuard no_grad;
  EXPECT_TRUE(same_bits(run_program(program, x), model->forward(x)));
  std::filesystem::remove(path);
  EXPECT_EQ(save(*model, x, "/proc/none/x.bit").error().code, ErrorCode::kNotFound);
}

TEST(Parity, FindsADifference) {
  const auto model = models::make_model("mlp").value();
  const auto forward = nn::forward_of(*model);
  const at::Tensor x = torch::randn({2, 1, 28, 28});
  const auto program = capture(*model, forward, x).value();
  ASSERT_TRUE(check_parity(program, *model, forward, x).ok());
  at::NoGradGuard no_grad;
  model->parameters()[1].add_(1e-3);
  EXPECT_EQ(check_parity(program, *model, forward, x).error().code, ErrorCode::kInternal);
}

}  // namespace
}  // namespace bitlab::deploy
