// Layers: train and eval agree to the bit, codes follow the weight, clones are independent, none means LibTorch's own layer.
#include <cstring>
#include <sstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_norm.h"

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

// --- layers without quantization are LibTorch's

template <class Ours, class Theirs>
void expect_twins(Ours ours, Theirs theirs, const at::Tensor& input) {
  {
    at::NoGradGuard no_grad;
    theirs->weight.copy_(ours->weight);
    if (ours->bias.defined()) theirs->bias.copy_(ours->bias);
  }
  const at::Tensor x = input.clone().requires_grad_(), z = input.clone().requires_grad_();
  const at::Tensor y = ours->forward(x), expected = theirs->forward(z);
  ASSERT_EQ(y.sizes(), expected.sizes());
  EXPECT_TRUE(torch::allclose(y, expected, 1e-6, 1e-6));
  const at::Tensor g = torch::randn_like(y);
  y.backward(g);
  expected.backward(g);
  EXPECT_TRUE(torch::allclose(x.grad(), z.grad(), 1e-6, 1e-6));
  EXPECT_TRUE(torch::allclose(ours->weight.grad(), theirs->weight.grad(), 1e-6, 1e-6));
  if (ours->bias.defined()) {
    EXPECT_TRUE(torch::allclose(ours->bias.grad(), theirs->bias.grad(), 1e-6, 1e-5));
  }
}

TEST(Layers, NoneIsTheLayerOfLibTorch) {
  torch::manual_seed(3);
  const BitQuantConfig none = BitQuantConfig::none();
  for (bool bias : {true, false})
    for (const at::Tensor& x : {torch::randn({2, 8}), torch::randn({3, 1, 8}), torch::randn({8})})
      expect_twins(BitLinear(BitLinearOptions(8, 5).bias(bias).quant(none)),
                   torch::nn::Linear(torch::nn::LinearOptions(8, 5).bias(bias)), x);
  namespace t = torch::nn;
  for (int64_t groups : {1, 3})
    for (int64_t stride : {1, 2}) {
      const int64_t in = 6, out = 9;
      expect_twins(BitConv1d(BitConvOptions<1>(in, out, 5).stride(stride).padding(2).dilation(2).groups(groups).quant(none)),
                   t::Conv1d(t::Conv1dOptions(in, out, 5).stride(stride).padding(2).dilation(2).groups(groups)),
                   torch::randn({2, in, 23}));
      expect_twins(
          BitConv2d(BitConv2dOptions(in, out, {3, 2}).stride(stride).padding({1, 0}).groups(groups).bias(false).quant(none)),
          t::Conv2d(t::Conv2dOptions(in, out, {3, 2}).stride(stride).padding({1, 0}).groups(groups).bias(false)),
          torch::randn({3, in, 9, 7}));
      expect_twins(BitConv3d(BitConvOptions<3>(in, out, {1, 3, 2}).stride(stride).padding(1).groups(groups).quant(none)),
                   t::Conv3d(t::Conv3dOptions(in, out, {1, 3, 2}).stride(stride).padding(1).groups(groups)),
                   torch::randn({2, in, 3, 5, 6}));
      expect_twins(
          BitConvTranspose1d(
              BitConvOptions<1>(in, out, 4).stride(stride + 1).padding(1).output_padding(1).groups(groups).quant(none)),
          t::ConvTranspose1d(
              t::ConvTranspose1dOptions(in, out, 4).stride(stride + 1).padding(1).output_padding(1).groups(groups)),
          torch::randn({2, in, 7}));
      expect_twins(
          BitConvTranspose2d(BitConvOptions<2>(in, out, {3, 4}).stride(stride).dilation(2).groups(groups).quant(none)),
          t::ConvTranspose2d(t::ConvTranspose2dOptions(in, out, {3, 4}).stride(stride).dilation(2).groups(groups)),
          torch::randn({1, in, 5, 6}));
      expect_twins(BitConvTranspose3d(BitConvOptions<3>(in, out, 2).stride(stride).groups(groups).quant(none)),
                   t::ConvTranspose3d(t::ConvTranspose3dOptions(in, out, 2).stride(stride).groups(groups)),
                   torch::randn({2, in, 2, 3, 4}));
    }
  expect_twins(BitConv2d(BitConv2dOptions(2, 3, 3).padding({1, 2}).padding_mode(PaddingMode::kReflect).quant(none)),
               t::Conv2d(t::Conv2dOptions(2, 3, 3).padding({1, 2}).padding_mode(torch::kReflect)),
               torch::randn({2, 2, 6, 7}));
  expect_twins(BitConv1d(BitConvOptions<1>(2, 3, 3).padding(2).padding_mode(PaddingMode::kCircular).quant(none)),
               t::Conv1d(t::Conv1dOptions(2, 3, 3).padding(2).padding_mode(torch::kCircular)), torch::randn({2, 2, 9}));
  expect_twins(BitConv3d(BitConvOptions<3>(2, 3, 3).padding(1).padding_mode(PaddingMode::kReplicate).quant(none)),
               t::Conv3d(t::Conv3dOptions(2, 3, 3).padding(1).padding_mode(torch::kReplicate)),
               torch::randn({2, 2, 4, 5, 6}));
}

// --- every layer with every method, granularity and kind of activation

std::vector<BitQuantConfig> configs() {
  std::vector<BitQuantConfig> list;
  for (size_t m = 0; m < ternary::method_list().size(); ++m)
    for (auto granularity : {ternary::Granularity::kTensor, ternary::Granularity::kChannel, ternary::Granularity::kGroup})
      for (auto activation : {ternary::ActKind::kInt8, ternary::ActKind::kInt4, ternary::ActKind::kInt8Static}) {
        BitQuantConfig config;
        config.method = static_cast<ternary::Method>(m);
        config.granularity = granularity;
        config.group_size = 64;
        if (config.method == ternary::Method::kFixed) config.threshold = 0.01;  // below these weights
        config.activation = activation;
        if (validate(config.weight_spec()).ok()) list.push_back(config);
      }
  return list;
}

// A step of training moves every parameter; then eval on codes gives what training's forward pass gives, and so does a clone.
template <class Layer>
void expect_trains(Layer layer, const at::Tensor& x, const BitQuantConfig& config) {
  std::ostringstream what;
  what << layer;
  SCOPED_TRACE(what.str());
  torch::optim::SGD sgd(layer->parameters(), 0.05);
  std::vector<at::Tensor> before;
  layer->train();
  layer->forward(x).square().mean().backward();
  for (const at::Tensor& parameter : layer->parameters()) before.push_back(parameter.detach().clone());
  sgd.step();
  size_t i = 0;
  for (const auto& parameter : layer->named_parameters()) {
    ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
    EXPECT_FALSE(same_bits(parameter.value(), before[i++])) << parameter.key();
  }
  layer->train();
  const at::Tensor trained = layer->forward(x).detach();
  const at::Tensor deployed = evaluate(torch::nn::AnyModule(layer), x);
  if (config.granularity == ternary::Granularity::kGroup) {
    EXPECT_TRUE(torch::allclose(deployed, trained, 1e-3, 1e-4));
  } else {
    EXPECT_TRUE(same_bits(deployed, trained));
  }
  auto copy = std::dynamic_pointer_cast<typename Layer::ContainedType>(layer->clone());
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(Layer(copy)), x), deployed));
}

TEST(EveryLayer, TrainsAndDeploysWithEveryConfiguration) {
  torch::manual_seed(8);
  for (const BitQuantConfig& config : configs()) {
    expect_trains(BitLinear(BitLinearOptions(70, 9).quant(config)), torch::randn({5, 3, 70}), config);
    const bool grouped = config.granularity == ternary::Granularity::kGroup;
    const int64_t in = grouped ? 64 : 6, groups = grouped ? 1 : 3;
    expect_trains(BitConv1d(BitConvOptions<1>(in, 9, 3).groups(groups).padding(1).quant(config)), torch::randn({3, in, 13}),
                  config);
    expect_trains(BitConv2d(BitConv2dOptions(in, 9, {3, 2}).groups(groups).stride(2).quant(config)),
                  torch::randn({3, in, 9, 8}), config);
    expect_trains(BitConv3d(BitConvOptions<3>(in, 6, 2).groups(groups).quant(config)), torch::randn({2, in, 3, 4, 5}),
                  config);
    expect_trains(BitConvTranspose2d(BitConvOptions<2>(in, 9, 3).groups(groups).stride(2).output_padding(1).quant(config)),
                  torch::randn({2, in, 4, 5}), config);
  }
}

TEST(EveryLayer, RefusesWhatDoesNotFit) {
  const auto message = [](auto make) -> std::string {
    try {
      make();
    } catch (const Exception& error) {
      return error.what();
    }
    return "no error";
  };
  BitQuantConfig ttq, only;
  ttq.method = ternary::Method::kTtq;
  ttq.granularity = ternary::Granularity::kGroup;
  EXPECT_NE(message([&] { BitLinear(BitLinearOptions(8, 4).quant(ttq)); }).find("tensor or channel scales for ttq"),
            std::string::npos);
  only.activation = ternary::ActKind::kNone;
  EXPECT_NE(message([&] { BitConv2d(BitConv2dOptions(2, 3, 3).quant(only)); }).find("int8 or int4 activations"),
            std::string::npos);
  EXPECT_NE(message([&] { BitConv2d(BitConv2dOptions(4, 6, 3).groups(4)); }).find("channels in 4 groups"),
            std::string::npos);
  BitQuantConfig fixed;
  fixed.activation = ternary::ActKind::kInt8Static;
  BitLinear uncalibrated(BitLinearOptions(8, 4).quant(fixed));
  EXPECT_NE(message([&] {
              evaluate(torch::nn::AnyModule(uncalibrated), torch::randn({1, 8}));
            }).find("act_scale of at least"),
            std::string::npos);
}

// --- tables and norms

// The weight's value by the encoder alone, [N, K].
at::Tensor value_of(const at::Tensor& weight, const BitQuantConfig& config, const Quantizer& quantizer) {
  at::NoGradGuard no_grad;
  const ternary::WeightSpec spec = config.weight_spec();
  const auto w = ops::quantize_weight(weight, {spec, quantizer.weight_scale, quantizer.weight_scale_neg});
  at::Tensor scale = w.scale, negative = w.scale_neg.defined() ? w.scale_neg : w.scale;
  if (spec.granularity == ternary::Granularity::kGroup) {
    scale = scale.repeat_interleave(spec.group, 1).narrow(1, 0, weight.size(1));
    negative = scale;
  } else {
    scale = scale.view({-1, 1}), negative = negative.view({-1, 1});
  }
  return (w.t > 0) * scale - (w.t < 0) * negative;
}

TEST(Embedding, NoneIsTheLayerOfLibTorch) {
  torch::manual_seed(11);
  const at::Tensor indices = torch::randint(0, 9, {4, 5});
  for (std::optional<int64_t> padding : {std::optional<int64_t>(), std::optional<int64_t>(3), std::optional<int64_t>(-1)}) {
    BitEmbedding ours(BitEmbeddingOptions(9, 6).padding_idx(padding).quant(BitQuantConfig::none()));
    torch::nn::EmbeddingOptions options(9, 6);
    if (padding) options.padding_idx(*padding);
    torch::nn::Embedding theirs(options);
    theirs->weight.set_data(ours->weight.detach().clone());
    const at::Tensor y = ours->forward(indices), expected = theirs->forward(indices), g = torch::randn_like(y);
    EXPECT_TRUE(same_bits(y, expected));
    y.backward(g);
    expected.backward(g);
    EXPECT_TRUE(torch::allclose(ours->weight.grad(), theirs->weight.grad()));
    if (padding) {
      EXPECT_EQ(ours->weight[*padding].abs().sum().item<float>(), 0.0F);
    }
  }
}

TEST(Embedding, EveryConfigurationLooksUpQuantizedRows) {
  torch::manual_seed(12);
  for (const BitQuantConfig& config : configs()) {
    BitEmbedding layer(BitEmbeddingOptions(11, 70).padding_idx(2).quant(config));
    const at::Tensor indices = torch::randint(0, 11, {3, 7});
    const at::Tensor expected =
        value_of(layer->weight, config, layer->quantizer).index_select(0, indices.flatten()).view({3, 7, 70});
    const at::Tensor y = layer->forward(indices), g = torch::randn_like(y);
    EXPECT_TRUE(torch::equal(y, expected)) << *layer;
    EXPECT_TRUE(torch::equal(evaluate(torch::nn::AnyModule(layer), indices), expected)) << *layer;
    layer->train();
    layer->forward(indices).backward(g);
    EXPECT_EQ(layer->weight.grad()[2].abs().sum().item<float>(), 0.0F);
    if (layer->parameters().size() > 1) continue;  // learned scales have rules of their own
    const at::Tensor sums = torch::zeros({11, 70}).index_add(0, indices.flatten(), g.view({-1, 70}));
    sums[2].fill_(0);
    EXPECT_TRUE(torch::allclose(layer->weight.grad(), sums, 1e-5, 1e-5)) << *layer;
  }
}

TEST(Embedding, BagsReduceQuantizedRows) {
  torch::manual_seed(13);
  const at::Tensor indices = torch::randint(0, 9, {4, 5}), offsets = torch::tensor({0, 3, 4, 11});
  for (BagMode mode : {BagMode::kSum, BagMode::kMean, BagMode::kMax}) {
    BitEmbeddingBag layer(BitEmbeddingBagOptions(9, 16).mode(mode));
    torch::nn::EmbeddingBagOptions options(9, 16);
    if (mode == BagMode::kSum) options.mode(torch::kSum);
    if (mode == BagMode::kMean) options.mode(torch::kMean);
    if (mode == BagMode::kMax) options.mode(torch::kMax);
    torch::nn::EmbeddingBag theirs(options);
    theirs->weight.set_data(value_of(layer->weight, layer->options.quant(), layer->quantizer));
    EXPECT_TRUE(torch::equal(layer->forward(indices), theirs->forward(indices)));
    EXPECT_TRUE(torch::equal(layer->forward(indices.flatten(), offsets), theirs->forward(indices.flatten(), offsets)));
    layer->forward(indices).sum().backward();
    EXPECT_TRUE(layer->weight.grad().defined());
  }
}

TEST(Norms, NoneIsTheLayerOfLibTorch) {
  torch::manual_seed(14);
  const BitQuantConfig none = BitQuantConfig::none();
  const auto randomized = [](auto layer) {
    for (at::Tensor& parameter : layer->parameters()) torch::nn::init::normal_(parameter);
    return layer;
  };
  expect_twins(randomized(BitLayerNorm(BitLayerNormOptions({3, 5}).quant(none))),
               torch::nn::LayerNorm(torch::nn::LayerNormOptions({3, 5})), torch::randn({2, 4, 3, 5}));
  expect_twins(randomized(BitGroupNorm(BitGroupNormOptions(2, 6).quant(none))),
               torch::nn::GroupNorm(torch::nn::GroupNormOptions(2, 6)), torch::randn({3, 6, 4}));
  auto rms = randomized(BitRMSNorm(BitRMSNormOptions({7}).quant(none)));
  const at::Tensor x = torch::randn({4, 7});
  EXPECT_TRUE(torch::allclose(rms->forward(x), x / (x.square().mean(-1, true) + 1e-6).sqrt() * rms->weight, 1e-6, 1e-6));
}

TEST(Norms, EveryConfigurationMultipliesWithQuantizedWeights) {
  torch::manual_seed(15);
  for (const BitQuantConfig& config : configs()) {
    const at::Tensor x = torch::randn({4, 12});
    BitLayerNorm layer(BitLayerNormOptions({12}).quant(config));
    EXPECT_TRUE(torch::allclose(layer->forward(x), at::layer_norm(x, {12}), 1e-3, 1e-3)) << "ones stay ones " << *layer;
    torch::nn::init::normal_(layer->weight);
    layer->quantizer.initialize_scales(layer->weight.view({1, 12}), 1);
    const at::Tensor value = value_of(layer->weight.view({1, 12}), config, layer->quantizer).view({12});
    EXPECT_TRUE(torch::allclose(layer->forward(x), at::layer_norm(x, {12}, value), 1e-5, 1e-6)) << *layer;
    layer->forward(x).square().sum().backward();
    for (const auto& parameter : layer->named_parameters())
      EXPECT_TRUE(parameter.value().grad().defined()) << parameter.key();
    BitRMSNorm rms(BitRMSNormOptions({12}).quant(config));
    BitGroupNorm group(BitGroupNormOptions(3, 12).quant(config));
    EXPECT_TRUE(torch::allclose(group->forward(x), at::group_norm(x, 3), 1e-3, 1e-3)) << *group;
    EXPECT_TRUE(torch::allclose(rms->forward(x), x / (x.square().mean(-1, true) + 1e-6).sqrt(), 1e-3, 1e-3)) << *rms;
  }
}

TEST(Quantizer, LearnedScalesBeginAtTheWeights) {
  torch::manual_seed(9);
  for (auto [method, count] : {std::pair{ternary::Method::kTtq, 4U}, {ternary::Method::kLsq, 3U}}) {
    BitQuantConfig config;
    config.method = method;
    config.granularity = ternary::Granularity::kChannel;
    const BitLinear layer(BitLinearOptions(40, 7).quant(config));
    EXPECT_EQ(layer->parameters().size(), count);
    const at::Tensor mean = layer->weight.abs().mean(1);
    const at::Tensor& scale = layer->quantizer.weight_scale;
    EXPECT_TRUE(method == ternary::Method::kLsq ? torch::allclose(scale, 2 * mean, 1e-5)
                                                : (scale > mean).all().item<bool>());
  }
}

TEST(Quantizer, BlendsFromFloatToTernary) {
  torch::manual_seed(10);
  BitLinear layer(BitLinearOptions(32, 5));
  const at::Tensor x = torch::randn({4, 32});
  const at::Tensor plain = at::linear(x, layer->weight, layer->bias).detach(), ternary = layer->forward(x).detach();
  layer->quantizer.blend.fill_(0);
  EXPECT_TRUE(torch::allclose(layer->forward(x), plain, 1e-5, 1e-6));
  layer->quantizer.blend.fill_(0.5);
  const double half = (layer->forward(x) - plain).norm().item<double>();
  EXPECT_GT(half, 0);
  EXPECT_LT(half, (ternary - plain).norm().item<double>());
  EXPECT_TRUE(layer->named_buffers().contains("blend"));
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
