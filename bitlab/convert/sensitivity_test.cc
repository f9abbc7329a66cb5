#include "bitlab/convert/sensitivity.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/convert/converter.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_recurrent.h"

namespace bitlab::convert {
namespace {

TEST(Sensitivity, MeasuresOneLayerAtATime) {
  torch::manual_seed(1);
  torch::nn::Sequential net(nn::BitLinear(6, 8), torch::nn::ReLU(), nn::BitLinear(8, 4));
  const at::Tensor x = torch::randn({20, 6});
  const at::Tensor w0 = net[0]->as<nn::BitLinear>()->weight, b0 = net[0]->as<nn::BitLinear>()->bias,
                   w1 = net[2]->as<nn::BitLinear>()->weight, b1 = net[2]->as<nn::BitLinear>()->bias;
  const at::NoGradGuard no_grad;
  const auto layer = [](const at::Tensor& v, const at::Tensor& w, const at::Tensor& b, bool ternary) {
    return ternary ? ops::bit_linear(v, w, b, {}, {}) : at::linear(v, w, b);
  };
  const auto loss_of = [&](bool first, bool second) {
    return layer(torch::relu(layer(x, w0, b0, first)), w1, b1, second).square().mean().item<double>();
  };
  const auto found =
      analyze(*net, [&]() -> Result<double> { return net->forward(x).square().mean().item<double>(); }).value();
  EXPECT_EQ(found.float_loss, loss_of(false, false));
  EXPECT_EQ(found.ternary_loss, loss_of(true, true));
  ASSERT_EQ(found.layers.size(), 2U);
  EXPECT_EQ(found.layers[0].path, "0");
  EXPECT_EQ(found.layers[0].loss, loss_of(true, false));
  EXPECT_EQ(found.layers[1].loss, loss_of(false, true));
  EXPECT_EQ(found.layers[1].parameters, 8 * 4 + 4);
  EXPECT_EQ(net->forward(x).square().mean().item<double>(), found.ternary_loss) << "afterwards as it was";
  torch::nn::Linear plain(2, 2);
  EXPECT_EQ(analyze(*plain, [&]() -> Result<double> { return 0.0; }).error().message,
            "[analyze] a module with ternary layers, got none");
}

// A recurrent layer is one, as it is to rules.
TEST(Sensitivity, ARecurrentLayerIsOne) {
  torch::manual_seed(2);
  torch::nn::LSTM lstm(torch::nn::LSTMOptions(5, 7).num_layers(2).bidirectional(true));
  const at::Tensor x = torch::randn({4, 2, 5});
  torch::nn::ModuleDict net;
  net->update({{"rnn", lstm.ptr()}});
  const at::Tensor expected = std::get<0>(lstm->forward(x)).detach();
  int64_t parameters = 0;
  for (const at::Tensor& parameter : lstm->parameters()) parameters += parameter.numel();
  BitConverter::convert(*net, {}).value();
  const auto loss = [&]() -> Result<double> {
    const at::NoGradGuard no_grad;
    return (std::get<0>(net["rnn"]->as<nn::BitLSTM>()->forward(x)) - expected).square().mean().item<double>();
  };
  const auto found = analyze(*net, loss).value();
  ASSERT_EQ(found.layers.size(), 1U);
  EXPECT_EQ(found.layers[0].path, "rnn");
  EXPECT_EQ(found.layers[0].parameters, parameters);
  EXPECT_EQ(found.layers[0].loss, found.ternary_loss);
  EXPECT_LT(found.float_loss, 1e-12);
  EXPECT_GT(found.ternary_loss, 1e-6);
}

TEST(Sensitivity, KeepsWhatCostsMostForItsSize) {
  Sensitivity s{1.0, 2.0, {{"a", 100, 1.3}, {"b", 1000, 1.4}, {"c", 10, 0.9}, {"d", 100, 1.1}}};
  const auto paths = [&](double budget) {
    std::vector<std::string> list;
    for (const QuantRule& rule : propose_rules(s, budget)) list.push_back(rule.path);
    return list;
  };
  using Paths = std::vector<std::string>;
  EXPECT_EQ(paths(0.9), Paths{});
  EXPECT_EQ(paths(0.55), Paths{"a"});
  EXPECT_EQ(paths(0.45), (Paths{"a", "d"}));
  EXPECT_EQ(paths(0), (Paths{"a", "d", "b"})) << "c got better";
}

}  // namespace
}  // namespace bitlab::convert
