// What single layers promise beyond the suite of layers_test.cc: codes follow the weight, tables and norms use quantized values.
#include <sstream>
#include <thread>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_batch_norm.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_norm.h"
#include "bitlab/nn/test_support.h"

namespace bitlab::nn {
namespace {

at::Tensor evaluate(torch::nn::AnyModule layer, const at::Tensor& x) {
  at::NoGradGuard no_grad;
  layer.ptr()->eval();
  return layer.forward(x);
}

TEST(SomeLayers, RefusesWhatDoesNotFit) {
  BitQuantConfig only = BitQuantConfig::int8();
  only.activation = ternary::ActKind::kNone;
  EXPECT_EQ(message_of([&] { BitConv2d(BitConv2dOptions(2, 3, 3).quant(only)); }),
            "[quantization] int8 or int4 activations of a layer in int8 (method none keeps it float), got none");
  EXPECT_NE(message_of([&] { BitConv2d(BitConv2dOptions(4, 6, 3).groups(4)); }).find("channels in 4 groups"),
            std::string::npos);
  BitQuantConfig rough;
  rough.smoothing = 1.5;
  EXPECT_EQ(message_of([&] { BitLinear(BitLinearOptions(2, 3).quant(rough)); }),
            "[quantization] smoothing from 0 to 1, got 1.5");
  BitQuantConfig fixed;
  fixed.activation = ternary::ActKind::kInt8Static;
  BitLinear uncalibrated(BitLinearOptions(8, 4).quant(fixed));
  EXPECT_NE(message_of([&] {
              evaluate(torch::nn::AnyModule(uncalibrated), torch::randn({1, 8}));
            }).find("a forward pass in training, or a calibration"),
            std::string::npos);
}

TEST(SomeLayers, ConvolutionsGiveEachSampleItsScale) {
  torch::manual_seed(2);
  BitConv2d layer(BitConv2dOptions(3, 9, {3, 5}));
  const at::Tensor x = torch::randn({4, 3, 12, 17});
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(layer), x[1]), evaluate(torch::nn::AnyModule(layer), x)[1]));
}

// --- tables and norms

// The weight's value by the encoder alone, [N, K].
at::Tensor value_of(const at::Tensor& weight, const BitQuantConfig& config, const Quantizer& quantizer) {
  at::NoGradGuard no_grad;
  const ternary::WeightSpec spec = config.weight_spec();
  ops::WeightQuant quant{spec, {}};
  for (const ternary::Parameter parameter : info(spec.method).learned) quant.learned.push_back(quantizer.learned(parameter));
  const auto w = ops::quantize_weight(weight, quant);
  at::Tensor scale = w.scale, negative = w.scale_neg.defined() ? w.scale_neg : w.scale;
  if (spec.granularity == ternary::Granularity::kGroup) {
    scale = scale.repeat_interleave(spec.group, 1).narrow(1, 0, weight.size(1));
    negative = scale;
  } else {
    scale = scale.view({-1, 1}), negative = negative.view({-1, 1});
  }
  if (!is_ternary(spec.method)) return w.t.to(at::kFloat) * scale;
  return (w.t > 0) * scale - (w.t < 0) * negative;
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
    EXPECT_EQ(layer->weight[2].abs().sum().item<float>(), 0.0F);
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
  const std::vector<torch::nn::EmbeddingBagMode> modes{torch::kSum, torch::kMean, torch::kMax};
  for (const torch::nn::EmbeddingBagMode& mode : modes) {
    BitEmbeddingBag layer(BitEmbeddingBagOptions(9, 16).mode(mode));
    torch::nn::EmbeddingBag theirs(torch::nn::EmbeddingBagOptions(9, 16).mode(mode));
    theirs->weight.set_data(value_of(layer->weight, layer->options.quant(), layer->quantizer));
    EXPECT_TRUE(torch::equal(layer->forward(indices), theirs->forward(indices)));
    EXPECT_TRUE(torch::equal(layer->forward(indices.flatten(), offsets), theirs->forward(indices.flatten(), offsets)));
    layer->forward(indices).sum().backward();
    EXPECT_TRUE(layer->weight.grad().defined());
  }
}

TEST(Embedding, BagsWithWeightsAndALastOffset) {
  torch::manual_seed(14);
  const at::Tensor indices = torch::randint(0, 9, {20}), offsets = torch::tensor({0, 3, 4, 11, 20}),
                   factors = torch::randn({20});
  BitEmbeddingBag layer(BitEmbeddingBagOptions(9, 16).mode(torch::kSum).include_last_offset(true));
  torch::nn::EmbeddingBag theirs(torch::nn::EmbeddingBagOptions(9, 16).mode(torch::kSum).include_last_offset(true));
  theirs->weight.set_data(value_of(layer->weight, layer->options.quant(), layer->quantizer));
  EXPECT_TRUE(torch::equal(layer->forward(indices, offsets, factors), theirs->forward(indices, offsets, factors)));
  EXPECT_EQ(message_of([&] {
              layer->forward(indices, offsets, factors.view({4, 5}));
            }),
            "[BitEmbeddingBag] per_sample_weights [20], got [4, 5]");
}

// The straight-through gradient is the one that arrives at the rows: divided by how often they were looked up.
TEST(Embedding, GradientsByFrequency) {
  torch::manual_seed(15);
  const at::Tensor indices = torch::tensor({1, 1, 1, 2}), cotangent = torch::randn({4, 16});
  for (const auto granularity : {ternary::Granularity::kTensor, ternary::Granularity::kChannel}) {
    BitQuantConfig quant;
    quant.granularity = granularity;
    BitEmbedding layer(BitEmbeddingOptions(9, 16).scale_grad_by_freq(true).quant(quant));
    layer->forward(indices).backward(cotangent);
    at::Tensor expected = torch::zeros({9, 16});
    expected[1] = cotangent.narrow(0, 0, 3).mean(0);
    expected[2] = cotangent[3];
    EXPECT_TRUE(torch::allclose(layer->weight.grad(), expected, 1e-5, 1e-6)) << *layer;
  }
}

TEST(Convolutions, SameNeedsAStrideOfOne) {
  EXPECT_EQ(message_of([] {
              BitConv2d(BitConv2dOptions(3, 3, 3).stride({1, 2}).padding(torch::kSame));
            }),
            "[convolution] a stride of 1 with padding 'same', got [1, 2]");
  EXPECT_EQ(message_of([] { BitConvTranspose1d(BitConv1dOptions(3, 3, 3).padding(torch::kSame)); }),
            "[BitConv] padding of a transposed convolution as numbers, got 'same' or 'valid'");
}

TEST(Norms, EveryConfigurationMultipliesWithQuantizedWeights) {
  torch::manual_seed(15);
  for (const BitQuantConfig& config : configs()) {
    const at::Tensor x = torch::randn({4, 12});
    BitLayerNorm layer(BitLayerNormOptions({12}).quant(config));
    const bool keeps_ones = config.sparsity == ternary::Sparsity::kDense;  // a pattern makes some of them zero
    if (keeps_ones) {
      EXPECT_TRUE(torch::allclose(layer->forward(x), at::layer_norm(x, {12}), 1e-3, 1e-3)) << *layer;
    }
    torch::nn::init::normal_(layer->weight);
    layer->quantizer.initialize_scales(layer->weight.view({1, 12}), false);
    const at::Tensor value = value_of(layer->weight.view({1, 12}), config, layer->quantizer).view({12});
    EXPECT_TRUE(torch::allclose(layer->forward(x), at::layer_norm(x, {12}, value), 1e-5, 1e-6)) << *layer;
    layer->forward(x).square().sum().backward();
    for (const auto& parameter : layer->named_parameters())
      EXPECT_TRUE(parameter.value().grad().defined()) << parameter.key();
    if (!keeps_ones) continue;
    BitRMSNorm rms(BitRMSNormOptions({12}).quant(config));
    BitGroupNorm group(BitGroupNormOptions(3, 12).quant(config));
    EXPECT_TRUE(torch::allclose(group->forward(x), at::group_norm(x, 3), 1e-3, 1e-3)) << *group;
    EXPECT_TRUE(torch::allclose(rms->forward(x), x / (x.square().mean(-1, true) + 1e-6).sqrt(), 1e-3, 1e-3)) << *rms;
  }
}

// docs/numerics.md: alpha and beta in float64, rounded once; then a rounded product and a rounded sum.
TEST(BatchNorm, EvaluatesTheContractsAffineStep) {
  torch::manual_seed(16);
  BitBatchNorm2d layer(BitBatchNormOptions(5).eps(1e-3));
  for (const at::Tensor& parameter : layer->parameters()) torch::nn::init::normal_(parameter);
  layer->forward(torch::randn({8, 5, 3, 3}) * 4 + 2);
  const at::Tensor x = torch::randn({2, 5, 3, 4}) * 100, y = evaluate(torch::nn::AnyModule(layer), x);
  for (int64_t c = 0; c < 5; ++c) {
    const auto at = [&](const at::Tensor& t) { return static_cast<double>(t[c].item<float>()); };
    const double wide = at(layer->weight) / std::sqrt(at(layer->running_var) + 1e-3);
    const auto alpha = static_cast<float>(wide), beta = static_cast<float>(at(layer->bias) - at(layer->running_mean) * wide);
    const at::Tensor in = x.select(1, c).flatten(), out = y.select(1, c).flatten();
    for (int64_t i = 0; i < in.numel(); ++i) {
      const volatile float product = in[i].item<float>() * alpha;  // volatile: rounded before the sum
      EXPECT_EQ(out[i].item<float>(), product + beta);
    }
  }
}

TEST(BatchNorm, RefusesOtherShapes) {
  BitBatchNorm1d one(4);
  BitBatchNorm2d two(4);
  EXPECT_EQ(message_of([&] {
              one->forward(torch::randn({2, 3}));
            }),
            "[BitBatchNorm1d] x of rank 3 or 2 with 4 channels, got [2, 3]");
  EXPECT_EQ(message_of([&] {
              two->forward(torch::randn({2, 4, 3}));
            }),
            "[BitBatchNorm2d] x of rank 4 with 4 channels, got [2, 4, 3]");
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
    const at::Tensor scale = layer->quantizer.learned(ternary::Parameter::kScale);
    EXPECT_TRUE(method == ternary::Method::kLsq ? torch::allclose(scale, 2 * mean, 1e-5)
                                                : (scale > mean).all().item<bool>());
  }
}

TEST(Quantizer, LearnsAThreshold) {
  torch::manual_seed(17);
  BitQuantConfig config;
  config.method = ternary::Method::kTga;
  config.granularity = ternary::Granularity::kChannel;
  BitLinear layer(BitLinearOptions(40, 7).quant(config));
  ASSERT_TRUE(layer->named_parameters().contains("weight_threshold"));
  const at::Tensor threshold = layer->quantizer.learned(ternary::Parameter::kThreshold);
  EXPECT_TRUE(torch::allclose(threshold, 0.7 * layer->weight.abs().mean(1)));
  EXPECT_FALSE(layer->quantizer.learned(ternary::Parameter::kScale).defined());
  const at::Tensor x = torch::randn({4, 40});
  layer->forward(x).square().sum().backward();
  EXPECT_TRUE(threshold.grad().count_nonzero().item<int64_t>() > 0);
}

// A draw for each step, from the seed on: the same steps again give the same bits, and a checkpoint goes on where it was.
TEST(Quantizer, DrawsInTraining) {
  BitQuantConfig config;
  config.rounding = ternary::Rounding::kStochastic;
  const auto make = [&] {
    torch::manual_seed(18);
    return BitLinear(BitLinearOptions(64, 7).quant(config));
  };
  BitLinear layer = make(), again = make(), loaded(BitLinearOptions(64, 7).quant(config));
  const at::Tensor x = torch::randn({4, 64});
  std::vector<at::Tensor> steps;
  for (int i = 0; i < 3; ++i) steps.push_back(layer->forward(x).detach());
  EXPECT_FALSE(torch::equal(steps[0], steps[1]));
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(same_bits(again->forward(x).detach(), steps[static_cast<size_t>(i)]));
  std::stringstream stream;
  torch::save(again, stream);
  torch::load(loaded, stream);
  EXPECT_TRUE(same_bits(loaded->forward(x).detach(), steps[2]));
  BitLinear nearest(64, 7);
  nearest->weight.set_data(layer->weight.detach());
  nearest->bias.set_data(layer->bias.detach());
  EXPECT_TRUE(same_bits(evaluate(torch::nn::AnyModule(layer), x), evaluate(torch::nn::AnyModule(nearest), x)));
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

TEST(SomeLayers, StartAsLibTorchsLayersDo) {
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

TEST(Eval, StillPassesGradients) {
  BitLinear layer(8, 4);
  layer->eval();
  const at::Tensor x = torch::randn({2, 8}).requires_grad_();
  layer->forward(x).sum().backward();
  EXPECT_TRUE(x.grad().defined());
}

// In eval a layer is what is deployed, whatever its warm-up has reached, with gradients and without.
TEST(Eval, IsTernaryDuringTheWarmUp) {
  torch::manual_seed(12);
  BitLinear layer(32, 5);
  BitEmbedding table(6, 16);
  const at::Tensor x = torch::randn({4, 32}), indices = torch::tensor({{0, 3}, {5, 3}});
  const at::Tensor wanted = layer->forward(x).detach(), wanted_rows = table->forward(indices).detach();
  layer->quantizer.blend.fill_(0.3);
  table->quantizer.blend.fill_(0.3);
  EXPECT_FALSE(torch::allclose(layer->forward(x), wanted));
  {
    const at::NoGradGuard no_grad;
    EXPECT_FALSE(torch::allclose(layer->forward(x), wanted)) << "training without gradients is training";
  }
  layer->eval();
  table->eval();
  for (const bool gradients : {true, false}) {
    const at::AutoGradMode mode(gradients);
    EXPECT_TRUE(same_bits(layer->forward(x).detach(), wanted)) << gradients;
    EXPECT_TRUE(same_bits(table->forward(indices).detach(), wanted_rows)) << gradients;
  }
}

TEST(Eval, FirstForwardPassFromManyThreads) {
  torch::manual_seed(13);
  const at::Tensor x = torch::randn({3, 64});
  for (int round = 0; round < 50; ++round) {
    BitLinear layer(64, 32);
    const at::Tensor wanted = layer->forward(x).detach();
    layer->eval();
    std::vector<at::Tensor> found(8);
    std::vector<std::thread> threads;
    for (at::Tensor& y : found)
      threads.emplace_back([&] {
        const at::NoGradGuard no_grad;
        y = layer->forward(x);
      });
    for (std::thread& thread : threads) thread.join();
    for (const at::Tensor& y : found) ASSERT_TRUE(same_bits(y, wanted));
  }
}

TEST(SomeLayers, PrintTheirOptions) {
  std::ostringstream stream;
  stream << BitLinear(BitLinearOptions(8, 4).bias(false));
  EXPECT_EQ(stream.str(), "bitlab::nn::BitLinear(in_features=8, out_features=4, bias=false, quant=absmean/tensor/int8)");
}

}  // namespace
}  // namespace bitlab::nn
