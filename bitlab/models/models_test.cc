// Every architecture of models.def: shapes, gradients to every parameter, refusal of what it cannot take; and the zoo beside the converter.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/config/io.h"
#include "bitlab/convert/bit_model.h"
#include "bitlab/models/test_support.h"
#include "bitlab/models/text/gpt.h"
#include "bitlab/models/vision/lenet5.h"
#include "bitlab/models/vision/mlp.h"
#include "bitlab/models/vision/resnet.h"
#include "bitlab/models/vision/vgg7.h"

namespace bitlab::models {
namespace {

const MixedPrecisionConfig kFloat{.quant = BitQuantConfig::none()};

TEST(Models, TakeTheirDataAndTrain) {
  torch::manual_seed(5);
  for (const ModelInfo& info : model_list())
    for (const MixedPrecisionConfig& quant : {MixedPrecisionConfig{}, kFloat}) {
      const auto model = make_model(test::small_config(info.name), quant).value();
      const nn::NamedTensors outputs = model->forward(nn::NamedTensors{{"data", test::example(info, 3)}});
      const at::Tensor logits = outputs.at("output");
      const std::vector<int64_t> expected =
          info.name == "gpt" ? std::vector<int64_t>{3, 13, 11} : std::vector<int64_t>{3, 7};
      EXPECT_EQ(logits.sizes(), at::IntArrayRef(expected)) << info.name;
      logits.square().sum().backward();
      for (const auto& parameter : model->named_parameters())
        EXPECT_GT(parameter.value().grad().abs().sum().item<float>(), 0) << info.name << "." << parameter.key();
    }
}

int64_t parameters_of(const ModelConfig& config) {
  int64_t count = 0;
  for (const auto& parameter : make_model(config, kFloat).value()->parameters()) count += parameter.numel();
  return count;
}

// 0.27, 0.46, 0.66 and 0.85 million (arXiv:1512.03385, table 6); to the last one, the sum of the paper's layers.
TEST(Models, ResNetHasTheSizesOfThePaper) {
  const std::map<int64_t, double> millions{{20, 0.27}, {32, 0.46}, {44, 0.66}, {56, 0.85}};
  for (const auto& [depth, expected] : millions) {
    const int64_t n = (depth - 2) / 6;
    int64_t sum = 27 * 16 + 2 * 16;
    for (const int64_t c : {16, 32, 64}) sum += 2 * n * (9 * c * c + 2 * c) - (c == 16 ? 0 : 9 * c * c / 2);
    sum += 64 * 10 + 10;
    EXPECT_EQ(parameters_of(ResNetConfig{.depth = depth}), sum);
    EXPECT_EQ(std::round(static_cast<double>(sum) / 1e4) / 100, expected);
  }
}

TEST(Models, Vgg7HasTheSizesOfThePaper) {
  int64_t sum = 0, in = 3;
  for (const int64_t out : {128, 128, 256, 256, 512, 512}) sum += 9 * in * out + 2 * out, in = out;
  sum += 512 * 4 * 4 * 1024 + 2 * 1024 + 1024 * 10 + 10;
  EXPECT_EQ(parameters_of(Vgg7Config{}), sum);
}

// What a block of option A computes, by plain functions: every second pixel, zeros before and behind the channels.
TEST(Models, ResNetsShortcutsHaveNoParameters) {
  torch::manual_seed(6);
  const auto model = make_model(ResNetConfig{.depth = 8, .filters = 4, .classes = 5}, kFloat).value();
  model->eval();
  const auto p = model->named_parameters();
  const at::Tensor x = torch::randn({2, 3, 9, 7});
  const auto weight = [&](const std::string& path) { return p[path + ".weight"]; };
  const auto layer = [&](const at::Tensor& v, const std::string& path, int64_t stride) {  // with a new batch norm
    return at::conv2d(v, weight(path), {}, stride, 1) / std::sqrt(1 + 1e-5);
  };
  at::Tensor h = at::relu(layer(x, "conv", 1));
  for (const char* stage : {"stage1_0", "stage2_0", "stage3_0"}) {
    const std::string name(stage);
    const int64_t stride = name == "stage1_0" ? 1 : 2;
    const at::Tensor y = layer(at::relu(layer(h, name + ".conv1", stride)), name + ".conv2", 1);
    at::Tensor shortcut = h;
    if (stride == 2) {
      const int64_t rows = (h.size(2) + 1) / 2, columns = (h.size(3) + 1) / 2, channels = h.size(1);
      shortcut = at::zeros({2, 2 * channels, rows, columns});
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c)
          shortcut.narrow(1, channels / 2, channels).select(2, r).select(2, c).copy_(h.select(2, 2 * r).select(2, 2 * c));
    }
    h = at::relu(y + shortcut);
  }
  const at::Tensor logits = at::linear(h.mean({2, 3}), weight("fc"), p["fc.bias"]);
  EXPECT_TRUE(torch::allclose(model->forward(x), logits, 1e-4, 1e-5));
}

// Logits of a token follow from it and those before alone.
TEST(Models, GptLooksBackAlone) {
  torch::manual_seed(7);
  const at::NoGradGuard no_grad;
  const auto model = make_model(test::small_config("gpt")).value();
  model->eval();
  const at::Tensor tokens = torch::randint(11, {2, 13}), changed = tokens.clone();
  changed.narrow(1, 8, 5).copy_(torch::randint(11, {2, 5}));
  const at::Tensor a = model->forward(tokens), b = model->forward(changed);
  EXPECT_TRUE(torch::allclose(a.narrow(1, 0, 8), b.narrow(1, 0, 8), 1e-5, 1e-5));
  EXPECT_FALSE(torch::allclose(a.narrow(1, 8, 5), b.narrow(1, 8, 5), 1e-2, 1e-2));
}

TEST(Models, SubNormsAreAChoice) {
  const auto norms = [](bool sub_norm) {
    auto config = *test::small_config("gpt").as<GptConfig>();
    config.transformer.sub_norm = sub_norm;
    const auto model = make_model(config).value();
    const at::Tensor logits = model->forward(torch::randint(11, {2, 13}));
    EXPECT_TRUE(logits.isfinite().all().item<bool>());
    const auto names = model->named_parameters().keys();
    return std::count_if(names.begin(), names.end(),
                         [](const std::string& name) { return name.ends_with("sub_norm.weight"); });
  };
  EXPECT_EQ(norms(true), 2 * test::small_config("gpt").as<GptConfig>()->transformer.layers);
  EXPECT_EQ(norms(false), 0);
  EXPECT_TRUE(GptConfig().transformer.sub_norm);
}

// Padding behind a text changes nothing, with ternary layers neither, whose activations have a scale by token.
TEST(Models, TextClassifierIgnoresPadding) {
  torch::manual_seed(8);
  const at::NoGradGuard no_grad;
  for (const MixedPrecisionConfig& quant : {MixedPrecisionConfig{}, kFloat}) {
    const auto model = make_model(test::small_config("text_classifier"), quant).value();
    model->eval();
    const at::Tensor tokens = torch::randint(10, {2, 6}), padded = torch::full({2, 13}, 10, at::kLong);
    padded.narrow(1, 0, 6).copy_(tokens);
    EXPECT_TRUE(torch::allclose(model->forward(tokens), model->forward(padded), 1e-3, 1e-4));
  }
}

TEST(Models, LeNet5HasTheSizesOfThePaper) {
  const auto model = make_model("lenet5").value();
  int64_t count = 0;
  for (const auto& parameter : model->parameters()) count += parameter.numel();
  EXPECT_EQ(count, (25 + 1) * 20 + (500 + 1) * 50 + (800 + 1) * 500 + (500 + 1) * 10);
  EXPECT_EQ(model->report().parameters(), count);
  EXPECT_EQ(model->report().covered(), count);
}

TEST(Models, HaveConfigsOfTheirOwn) {
  const auto config =
      config::from_yaml<ModelConfig>("{name: mlp, hidden: [5, 4, 3], classes: 2, height: 2, width: 3}").value();
  EXPECT_EQ(config.as<MlpConfig>()->hidden, (std::vector<int64_t>{5, 4, 3}));
  EXPECT_EQ(config.as<LeNet5Config>(), nullptr);
  EXPECT_TRUE(config::equal(config::from_json<ModelConfig>(config::to_json(config)).value(), config));
  const auto model = make_model(config).value();
  EXPECT_EQ(model->named_parameters()["fc1.weight"].sizes(), at::IntArrayRef({5, 6}));
  EXPECT_EQ(model->named_parameters()["fc4.weight"].sizes(), at::IntArrayRef({2, 3}));
  EXPECT_EQ(config::from_yaml<ModelConfig>("{name: lenet5, hidden: [5]}").error().code, ErrorCode::kUnknownName);
}

TEST(Models, RefuseWhatTheyCannotTake) {
  EXPECT_EQ(make_model("lenet6").error().message,
            "[model] one of {lenet5, mlp, resnet, vgg7, gpt, text_classifier}, got 'lenet6'");
  EXPECT_EQ(make_model(LeNet5Config{.height = 15}).error().message, "[lenet5] images of at least 16x16, got 15x28");
  EXPECT_EQ(make_model(LeNet5Config{.classes = 0}).error().message, "[lenet5] classes of at least 1, got 0");
  EXPECT_EQ(make_model(MlpConfig{.hidden = {4, -1}}).error().message, "[mlp] hidden of at least 1, got -1");
  EXPECT_EQ(make_model(ResNetConfig{.depth = 21}).error().message, "[resnet] a depth of 6 n + 2 from 8 to 1202, got 21");
  EXPECT_EQ(make_model(Vgg7Config{.width = 7}).error().message, "[vgg7] images of at least 8x8, got 32x7");
  EXPECT_EQ(make_model(GptConfig{{.dropout = 1}}).error().message, "[transformer] dropout in [0, 1), got 1");
  EXPECT_EQ(make_model(GptConfig{{.heads = 3}}).error().code, ErrorCode::kInvalidArgument);
  MixedPrecisionConfig quant;
  quant.rules.emplace_back();
  quant.rules[0].path = "fc1";
  quant.rules[0].quant = {{"method", "int8"}, {"activation", "none"}};
  const Error error = make_model("lenet5", quant).error();
  EXPECT_NE(error.message.find("(layer=fc1)"), std::string::npos) << error.message;
  quant.rules[0].quant.clear();
  quant.rules[0].master = true;
  EXPECT_EQ(make_model("lenet5", quant).error().code, ErrorCode::kUnsupported);
}

// The same architecture of plain torch::nn.
struct PlainLeNet : torch::nn::Module {
  torch::nn::Conv2d conv1{nullptr}, conv2{nullptr};
  torch::nn::Linear fc1{nullptr}, fc2{nullptr};
  PlainLeNet() {
    conv1 = register_module("conv1", torch::nn::Conv2d(1, 20, 5));
    conv2 = register_module("conv2", torch::nn::Conv2d(20, 50, 5));
    fc1 = register_module("fc1", torch::nn::Linear(800, 500));
    fc2 = register_module("fc2", torch::nn::Linear(500, 10));
  }
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor h = torch::max_pool2d(torch::relu(conv1(x)), 2);
    h = torch::max_pool2d(torch::relu(conv2(h)), 2);
    return fc2(torch::relu(fc1(h.flatten(1))));
  }
};

MixedPrecisionConfig first_and_last_in_int8() {
  return config::from_yaml<MixedPrecisionConfig>(
             "granularity: channel\n"
             "rules:\n"
             "  - {position: first, quant: {method: int8}}\n"
             "  - {position: last, quant: {method: int8}}\n"
             "  - {type: conv2d, min_size: 25000, quant: {method: twn, activation: int4}}\n"
             "  - {path: nowhere, quant: {method: none}}\n")
      .value();
}

void copy_parameters(const torch::nn::Module& from, torch::nn::Module& to) {
  const torch::NoGradGuard no_grad;
  for (auto& p : to.named_parameters()) p.value().copy_(from.named_parameters()[p.key()]);
}

// Built by rules, or built float and converted by them: the same layers, the same reasons, the same numbers.
TEST(Zoo, RulesMakeWhatTheConverterMakes) {
  const MixedPrecisionConfig rules = first_and_last_in_int8();
  torch::manual_seed(3);
  const auto built = make_model("lenet5", rules).value();
  const auto floats = make_model("lenet5", kFloat).value();
  const auto plain = std::make_shared<PlainLeNet>();
  copy_parameters(*built, *floats);
  copy_parameters(*built, *plain);
  const auto from_zoo = convert::BitModel::wrap(floats, rules), from_plain = convert::BitModel::wrap(plain, rules);

  const std::vector<std::string> quants{"int8/channel/int8", "twn/channel/int4", "absmean/channel/int8",
                                        "int8/channel/int8"};
  ASSERT_EQ(built->report().layers.size(), 4U);
  for (const convert::ConversionReport* other : {&from_zoo->report(), &from_plain->report()}) {
    ASSERT_EQ(other->layers.size(), 4U) << other->to_text();
    for (size_t i = 0; i < 4; ++i) {
      const convert::LayerReport &a = built->report().layers[i], &b = other->layers[i];
      EXPECT_EQ(a.quant, quants[i]);
      EXPECT_EQ(std::tie(a.path, a.type, a.reason, a.quant, a.parameters),
                std::tie(b.path, b.type, b.reason, b.quant, b.parameters));
      EXPECT_EQ(a.action, convert::Action::kBuilt);
      EXPECT_EQ(b.action, convert::Action::kIntercepted);
    }
    EXPECT_EQ(built->report().unused_rules, other->unused_rules);
  }
  EXPECT_EQ(built->report().unused_rules.size(), 1U);

  const at::Tensor x = torch::randn({3, 1, 28, 28});
  for (const bool training : {true, false}) {
    built->train(training), from_zoo->train(training), from_plain->train(training);
    const at::Tensor expected = built->forward(x);
    EXPECT_TRUE(torch::equal(from_zoo->forward(x), expected)) << training;
    EXPECT_TRUE(torch::equal(from_plain->forward(x), expected)) << training;
  }
}

// Counting layers for `position` leaves no trace in the weights.
TEST(Zoo, PositionsDoNotChangeTheWeights) {
  MixedPrecisionConfig positions = kFloat, none = kFloat;
  positions.rules.emplace_back();
  positions.rules[0].position = config::Position::kLast;
  positions.rules[0].quant = {{"method", "absmean"}};
  torch::manual_seed(4);
  const auto a = make_model("mlp", positions).value();
  torch::manual_seed(4);
  const auto b = make_model("mlp", none).value();
  for (const auto& p : b->named_parameters())
    EXPECT_TRUE(torch::equal(a->named_parameters()[p.key()], p.value())) << p.key();
  EXPECT_EQ(a->report().layers[2].quant, "absmean/tensor/int8");
  EXPECT_EQ(a->report().layers[1].quant, "");
}

}  // namespace
}  // namespace bitlab::models
