// Every architecture of models.def: shapes, gradients to every parameter, refusal of what it cannot take; and the zoo beside the converter.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/config/io.h"
#include "bitlab/convert/bit_model.h"
#include "bitlab/models/vision/lenet5.h"
#include "bitlab/models/vision/mlp.h"

namespace bitlab::models {
namespace {

const MixedPrecisionConfig kFloat{.quant = BitQuantConfig::none()};

TEST(Models, ListHasEveryRow) { EXPECT_EQ(model_list().size(), 2U); }

TEST(Models, MapImagesToLogitsAndTrain) {
  for (const ModelInfo& info : model_list())
    for (const MixedPrecisionConfig& quant : {MixedPrecisionConfig{}, kFloat}) {
      const auto config = config::from_yaml<ModelConfig>(
                              fmt::format("{{channels: 3, height: 17, width: 20, classes: 7, name: {}}}", info.name))
                              .value();
      const auto model = make_model(config, quant).value();
      const nn::NamedTensors outputs = model->forward(nn::NamedTensors{{"image", torch::randn({2, 3, 17, 20})}});
      const at::Tensor logits = outputs.at("output");
      EXPECT_EQ(logits.sizes(), at::IntArrayRef({2, 7})) << info.name;
      logits.square().sum().backward();
      for (const auto& parameter : model->named_parameters())
        EXPECT_GT(parameter.value().grad().abs().sum().item<float>(), 0) << info.name << "." << parameter.key();
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
  EXPECT_EQ(make_model("lenet6").error().message, "[model] one of {lenet5, mlp}, got 'lenet6'");
  EXPECT_EQ(make_model(LeNet5Config{.height = 15}).error().message, "[lenet5] images of at least 16x16, got 15x28");
  EXPECT_EQ(make_model(LeNet5Config{.classes = 0}).error().message, "[lenet5] classes of at least 1, got 0");
  EXPECT_EQ(make_model(MlpConfig{.hidden = {4, -1}}).error().message, "[mlp] hidden of at least 1, got -1");
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
