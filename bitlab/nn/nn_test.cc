// Layers: train and eval agree to the bit, codes follow the weight, clones are independent, none means LibTorch's own layer.
#include <cstring>
#include <sstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_conv2d.h"
#include "bitlab/nn/bit_linear.h"

namespace bitlab::nn {
namespace {

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

at::Tensor evaluate(torch::nn::AnyModule layer, const at::Tensor& x) {
  at::NoGradGuard no_grad;
  layer.ptr()->eval();
  return layer.forward(x);
}

TEST(BitLinear, TrainAndEvalAgreeToTheBit) {
  torch::manual_seed(1);
  for (bool with_bias : {false, true}) {
    BitLinear layer(BitLinearOptions(37, 11).bias(with_bias));
    const at::Tensor x = torch::randn({5, 3, 37});
    layer->train();
    const at::Tensor trained = layer->forward(x).detach();
    EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(layer), x), trained));
    EXPECT_EQ(layer->parameters().size(), with_bias ? 2U : 1U);
  }
}

TEST(BitConv2d, TrainAndEvalAgreeToTheBit) {
  torch::manual_seed(2);
  BitConv2d layer(BitConv2dOptions(3, 9, {3, 5}).stride({2, 1}).padding({1, 2}).dilation({1, 2}));
  const at::Tensor x = torch::randn({4, 3, 12, 17});
  layer->train();
  const at::Tensor trained = layer->forward(x).detach();
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(layer), x), trained));
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(layer), x[1]), trained[1]));
}

TEST(Layers, NoneIsTheLayerOfLibTorch) {
  torch::manual_seed(3);
  BitLinear linear(BitLinearOptions(8, 4).quant(BitQuantConfig::none()));
  torch::nn::Linear theirs(8, 4);
  theirs->weight.set_data(linear->weight.detach());
  theirs->bias.set_data(linear->bias.detach());
  const at::Tensor x = torch::randn({2, 8});
  EXPECT_TRUE(same_bits(linear->forward(x), theirs->forward(x)));
  BitConv2d conv(BitConv2dOptions(2, 3, 3).padding(1).bias(false).quant(BitQuantConfig::none()));
  const at::Tensor image = torch::randn({2, 2, 6, 6});
  EXPECT_TRUE(same_bits(conv->forward(image), at::conv2d(image, conv->weight, {}, 1, 1)));
}

TEST(Layers, StartAsLibTorchsLayersDo) {
  torch::manual_seed(4);
  const BitConv2d ours(BitConv2dOptions(5, 7, 3));
  torch::manual_seed(4);
  const torch::nn::Conv2d theirs(torch::nn::Conv2dOptions(5, 7, 3));
  EXPECT_TRUE(same_bits(ours->weight, theirs->weight));
  EXPECT_TRUE(same_bits(ours->bias, theirs->bias));
}

TEST(Codes, FollowTheWeight) {
  torch::manual_seed(5);
  BitLinear layer(16, 4), other(16, 4);
  const at::Tensor x = torch::randn({3, 16});
  const at::Tensor before = evaluate(torch::nn::AnyModule(layer), x);
  {
    at::NoGradGuard no_grad;
    layer->weight.copy_(other->weight);
    layer->bias.copy_(other->bias);
  }
  const at::Tensor after = evaluate(torch::nn::AnyModule(layer), x);
  EXPECT_FALSE(same_bits(before, after));
  EXPECT_TRUE(same_bits(after, evaluate(torch::nn::AnyModule(other), x)));
  // A change through .data() is unseen until train().
  layer->weight.data().neg_();
  layer->train();
  other->weight.data().neg_();
  other->train();
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(layer), x), evaluate(torch::nn::AnyModule(other), x)));
  EXPECT_FALSE(same_bits(evaluate(torch::nn::AnyModule(layer), x), after));
}

TEST(Codes, ClonesAreIndependent) {
  torch::manual_seed(6);
  BitLinear layer(16, 4);
  const at::Tensor x = torch::randn({3, 16});
  const at::Tensor before = evaluate(torch::nn::AnyModule(layer), x);
  auto copy = std::dynamic_pointer_cast<BitLinearImpl>(layer->clone());
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(BitLinear(copy)), x), before));
  copy->weight.data().neg_();
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(layer), x), before));
}

TEST(Eval, StillPassesGradients) {
  BitLinear layer(8, 4);
  layer->eval();
  const at::Tensor x = torch::randn({2, 8}).requires_grad_();
  layer->forward(x).sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

TEST(Eval, OnCodesIsOneOperatorWithoutTheLatentWeight) {
  BitLinear layer(8, 4);
  const at::Tensor x = torch::randn({2, 8});
  const at::Tensor before = evaluate(torch::nn::AnyModule(layer), x);
  layer->weight.data().zero_();  // unseen: the codes are used
  at::NoGradGuard no_grad;
  EXPECT_TRUE(same_bits(layer->forward(x), before));
}

TEST(Layers, PrintTheirOptions) {
  std::ostringstream stream;
  stream << BitLinear(BitLinearOptions(8, 4).bias(false));
  EXPECT_EQ(stream.str(), "bitlab::nn::BitLinear(in_features=8, out_features=4, bias=false, quant=absmean/tensor/int8)");
}

TEST(Layers, SaveAndLoadAsModules) {
  BitConv2d a(1, 2, 3), b(1, 2, 3);
  std::stringstream stream;
  torch::save(a, stream);
  torch::load(b, stream);
  const at::Tensor x = torch::randn({1, 1, 5, 5});
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(a), x), evaluate(torch::nn::AnyModule(b), x)));
}

}  // namespace
}  // namespace bitlab::nn
