// Containers converted, rules decided, reports.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/torch.h>

#include "bitlab/convert/converter.h"
#include "bitlab/convert/internal/twins.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_recurrent.h"

namespace bitlab::convert {
namespace {

namespace tnn = torch::nn;

QuantRule rule(std::function<void(QuantRule&)> set) {
  QuantRule r;
  set(r);
  return r;
}

TEST(Rules, TheFirstThatFitsDecides) {
  MixedPrecisionConfig config;
  config.rules = {
      rule([](auto& r) { r.position = config::Position::kFirst, r.quant = QuantRule::in_float(); }),
      rule([](auto& r) {
        r.position = config::Position::kLast, r.quant = {{"granularity", "channel"}};
      }),
      rule([](auto& r) {
        r.path = "*.attn.*", r.quant = {{"method", "twn"}};
      }),
      rule([](auto& r) { r.path = "/^head\\.[0-9]+$/", r.quant = QuantRule::in_float(); }),
      rule([](auto& r) {
        r.type = "conv2d", r.min_size = 100, r.max_size = 200, r.quant = {{"method", "lsq"}};
      }),
      rule([](auto& r) { r.tag = "stem", r.quant = QuantRule::in_float(); }),
      rule([](auto& r) { r.path = "nowhere", r.quant = QuantRule::in_float(); }),
  };
  RuleSet rules = RuleSet::create(config).value();
  const auto decide = [&](LayerFacts facts) {
    facts.count = 9;
    return rules.decide(facts).reason;
  };
  EXPECT_EQ(decide({"a", "linear", "", 10, 0}), "rule 1 (position=first, method=none)");
  EXPECT_EQ(decide({"a", "linear", "", 10, 8}), "rule 2 (position=last, granularity=channel)");
  EXPECT_EQ(decide({"blocks.0.attn.q", "linear", "", 10, 4}), "rule 3 (path=*.attn.*, method=twn)");
  EXPECT_EQ(decide({"head.12", "linear", "", 10, 4}), "rule 4 (path=/^head\\.[0-9]+$/, method=none)");
  EXPECT_EQ(decide({"xhead.12", "linear", "", 10, 4}), "default");
  EXPECT_EQ(decide({"c", "conv2d", "", 150, 4}), "rule 5 (type=conv2d, min_size=100, max_size=200, method=lsq)");
  EXPECT_EQ(decide({"c", "conv2d", "", 99, 4}), "default");
  EXPECT_EQ(decide({"c", "conv2d", "", 201, 4}), "default");
  EXPECT_EQ(decide({"c", "conv3d", "stem", 150, 4}), "rule 6 (tag=stem, method=none)");
  EXPECT_EQ(rules.unused(), std::vector<std::string>{"rule 7 (path=nowhere, method=none)"});
  const Decision partial = RuleSet::create(config).value().decide({"a", "linear", "", 10, 8, 9});
  EXPECT_EQ(partial.quant.granularity, ternary::Granularity::kChannel);
  EXPECT_EQ(partial.quant.method, ternary::Method::kAbsmean) << "what is not overridden is the base's";
}

TEST(Rules, RefuseWhatCannotBe) {
  const auto error_of = [](QuantRule r) {
    MixedPrecisionConfig config;
    config.rules = {std::move(r)};
    return RuleSet::create(config).error().message;
  };
  EXPECT_EQ(error_of(rule([](auto& r) {
              r.path = "a", r.quant = {{"methot", "twn"}};
            })),
            "[config] a known key, got 'methot'; did you mean 'method'? (rule 1 (path=a, methot=twn))");
  EXPECT_EQ(error_of(rule([](auto& r) {
              r.master = true, r.quant = {{"method", "none"}};
            })),
            "[rules] a method for the value of a master weight, got rule 1 (master=true, method=none)");
  EXPECT_EQ(error_of(rule([](auto& r) {
              r.master = true, r.quant = {{"activation", "int8"}};
            })),
            "[rules] float activations of a master weight, got rule 1 (master=true, activation=int8)");
  const std::string group = error_of(rule([](auto& r) { r.quant = {{"method", "int8"}, {"granularity", "group"}}; }));
  EXPECT_NE(group.find("(rule 1 (granularity=group, method=int8))"), std::string::npos) << group;
  EXPECT_EQ(error_of(rule([](auto& r) { r.min_size = 5, r.max_size = 3; })),
            "[rules] min_size up to max_size, got rule 1 (min_size=5, max_size=3)");
  EXPECT_NE(error_of(rule([](auto& r) { r.path = "/(/"; })).find("[config] a regular expression"), std::string::npos);
}

// A class whose layers are in containers.
struct ContainersImpl : tnn::Module {
  tnn::Sequential body{nullptr};
  tnn::ModuleList list;
  tnn::ModuleDict dict;
  tnn::Linear typed{nullptr};
  ContainersImpl() {
    body = register_module(
        "body",
        tnn::Sequential(
            tnn::Conv2d(tnn::Conv2dOptions(3, 8, 3).padding(1).stride(2).groups(1).bias(false)), tnn::BatchNorm2d(8),
            tnn::ReLU(),
            tnn::Conv2d(
                tnn::Conv2dOptions(8, 8, {3, 1}).groups(4).dilation(2).padding_mode(torch::kCircular).padding({2, 0})),
            tnn::Flatten()));
    list->push_back(tnn::Linear(8 * 4 * 4, 6));
    register_module("list", list);
    dict->update({{"last", tnn::Linear(tnn::LinearOptions(6, 5).bias(false)).ptr()}});
    register_module("dict", dict);
    typed = register_module("typed", tnn::Linear(5, 5));
  }
  at::Tensor forward(at::Tensor x) {
    x = body->forward(x);
    x = list[0]->as<nn::BitLinear>() != nullptr ? list[0]->as<nn::BitLinear>()->forward(x)
                                                : list[0]->as<tnn::Linear>()->forward(x);
    x = dict["last"]->as<nn::BitLinear>() != nullptr ? dict["last"]->as<nn::BitLinear>()->forward(x)
                                                     : dict["last"]->as<tnn::Linear>()->forward(x);
    return typed(x);
  }
};
TORCH_MODULE(Containers);

TEST(Converter, ReplacesWhatContainersHold) {
  torch::manual_seed(1);
  Containers net;
  net->eval();
  const at::Tensor x = torch::randn({2, 3, 8, 8});
  const at::Tensor before = net->forward(x);
  // "none" everywhere, then ternary: the weights stay.
  const auto weight = net->named_parameters()["body.3.weight"].detach().clone();
  MixedPrecisionConfig config;
  config.rules = {rule([](auto& r) { r.position = config::Position::kFirst, r.quant = QuantRule::in_float(); }),
                  rule([](auto& r) {
                    r.path = "dict.*", r.quant = {{"method", "ttq"}, {"granularity", "channel"}};
                  })};
  const ConversionReport report = BitConverter::convert(*net, config).value();
  EXPECT_EQ(report.unused_rules.size(), 0U);
  std::map<std::string, const LayerReport*> layers;
  for (const LayerReport& layer : report.layers) layers[layer.path] = &layer;
  EXPECT_EQ(layers.at("body.0")->action, Action::kKept);
  EXPECT_EQ(layers.at("body.0")->reason, "rule 1 (position=first, method=none)");
  EXPECT_EQ(layers.at("body.1")->action, Action::kSkipped);
  EXPECT_EQ(layers.at("body.3")->action, Action::kReplaced);
  EXPECT_EQ(layers.at("body.3")->quant, "absmean/tensor/int8");
  EXPECT_EQ(layers.at("dict.last")->quant, "ttq/channel/int8");
  EXPECT_EQ(layers.at("typed")->action, Action::kSkipped);
  int64_t total = 0;
  for (const auto& p : net->parameters()) total += p.numel();
  EXPECT_EQ(report.parameters(), total - 10) << "all but ttq's own scales";
  EXPECT_EQ(report.covered(), 8 * 2 * 3 + 8 + 6 * 128 + 6 + 5 * 6);
  EXPECT_TRUE(torch::equal(net->named_parameters()["body.3.weight"], weight));
  const auto* conv = net->body[3]->as<nn::BitConv2d>();
  ASSERT_NE(conv, nullptr);
  EXPECT_EQ(conv->options.groups(), 4);
  EXPECT_TRUE(std::holds_alternative<torch::enumtype::kCircular>(conv->options.padding_mode()));
  EXPECT_FALSE(conv->is_training());
  const at::Tensor after = net->forward(x);
  EXPECT_EQ(after.sizes(), before.sizes());
  EXPECT_FALSE(torch::allclose(after, before));
  const auto json = nlohmann::json::parse(report.to_json());
  EXPECT_EQ(json["parameters"], report.parameters());
  EXPECT_EQ(json["layers"][0]["path"], "body.0");
  EXPECT_EQ(json["layers"][0]["action"], "kept");
  EXPECT_NE(report.to_text().find("body.3     conv2d"), std::string::npos) << report.to_text();
}

// With "none" a twin computes what the layer did.
TEST(Twins, OfNoneComputeTheSame) {
  torch::manual_seed(2);
  const BitQuantConfig none = BitQuantConfig::none();
  const auto check = [&](auto layer, const at::Tensor& x) {
    Twin twin = make_twin(*layer, none);
    EXPECT_TRUE(torch::equal(twin.any.forward(x), layer->forward(x))) << layer->name();
  };
  check(tnn::Linear(5, 4), torch::randn({3, 5}));
  check(tnn::Conv1d(tnn::Conv1dOptions(4, 6, 3).groups(2).dilation(2)), torch::randn({2, 4, 9}));
  check(tnn::Conv2d(tnn::Conv2dOptions(4, 6, 3).padding(1).padding_mode(torch::kReflect)), torch::randn({2, 4, 6, 5}));
  check(tnn::Conv3d(tnn::Conv3dOptions(2, 3, 2).bias(false)), torch::randn({2, 2, 4, 4, 4}));
  check(tnn::Embedding(tnn::EmbeddingOptions(7, 3).padding_idx(2)), torch::randint(7, {2, 4}));
  // Transposed ones take a second argument that a pointer to forward would have to name.
  tnn::ConvTranspose2d up(tnn::ConvTranspose2dOptions(4, 6, 3).stride(2).output_padding(1).groups(2));
  const at::Tensor x = torch::randn({2, 4, 5, 4});
  EXPECT_TRUE(torch::equal(make_twin(*up, none).module->as<nn::BitConvTranspose2d>()->forward(x), up->forward(x)));
}

// Layers of nn/ that were made to compute in float are layers like LibTorch's; those that are ternary already are left alone.
TEST(Converter, TakesFloatLayersOfItsOwn) {
  torch::manual_seed(5);
  const auto none = BitQuantConfig::none();
  tnn::Sequential net(nn::BitConv1d(nn::BitConv1dOptions(2, 4, 3).padding(1).quant(none)), tnn::Flatten(),
                      nn::BitLinear(nn::BitLinearOptions(20, 6).quant(none)), nn::BitLinear(6, 3));
  const at::Tensor x = torch::randn({2, 2, 5});
  const auto* conv = net[0]->as<nn::BitConv1d>();
  const auto* fc = net[2]->as<nn::BitLinear>();
  const at::Tensor w0 = conv->weight, b0 = conv->bias, w1 = fc->weight, b1 = fc->bias;
  const at::Tensor h = ops::bit_conv(x, w0, b0, {{1}, {1}, {1}}, {}, {});
  const at::Tensor expected = net[3]->as<nn::BitLinear>()->forward(ops::bit_linear(h.flatten(1), w1, b1, {}, {}));
  const auto report = BitConverter::convert(*net, {}).value();
  ASSERT_EQ(report.layers.size(), 3U);
  EXPECT_EQ(report.layers[0].type, "conv1d");
  EXPECT_EQ(report.layers[1].action, Action::kReplaced);
  EXPECT_EQ(report.layers[2].action, Action::kSkipped);
  EXPECT_TRUE(torch::equal(net->forward(x), expected));
}

// A layer that stands in several places is one layer afterwards, too.
TEST(Converter, KeepsSharedLayersShared) {
  torch::manual_seed(3);
  tnn::Linear shared(4, 4);
  tnn::Sequential first(shared, tnn::ReLU(), shared), second(tnn::ReLU(), shared);
  tnn::ModuleList net(first, second);
  const auto report = BitConverter::convert(*net, {}).value();
  ASSERT_EQ(report.layers.size(), 1U);
  EXPECT_EQ(report.layers[0].action, Action::kReplaced);
  const auto* layer = first[0]->as<nn::BitLinear>();
  ASSERT_NE(layer, nullptr);
  EXPECT_EQ(first[2]->as<nn::BitLinear>(), layer);
  EXPECT_EQ(second[1]->as<nn::BitLinear>(), layer);
}

// Weights and biases stay the tensors that they were: frozen ones stay frozen, what an optimizer holds is what trains, tied ones stay tied.
TEST(Converter, KeepsTheParametersThemselves) {
  torch::manual_seed(4);
  tnn::Sequential net(tnn::Linear(4, 4), tnn::ReLU(), tnn::Linear(4, 4), tnn::Conv1d(tnn::Conv1dOptions(1, 2, 3)));
  net[0]->as<tnn::Linear>()->weight.requires_grad_(false);
  net[0]->as<tnn::Linear>()->bias.requires_grad_(false);
  net[3]->as<tnn::Conv1d>()->bias.requires_grad_(false);
  const auto before = net->named_parameters();
  torch::optim::SGD optimizer(net->parameters(), 0.1);
  ASSERT_TRUE(BitConverter::convert(*net, {}).ok());
  const auto after = net->named_parameters();
  ASSERT_EQ(after.size(), before.size());
  for (const auto& parameter : before) {
    EXPECT_TRUE(after[parameter.key()].is_same(parameter.value())) << parameter.key();
    const bool frozen = parameter.key().starts_with("0.") || parameter.key() == "3.bias";
    EXPECT_EQ(after[parameter.key()].requires_grad(), !frozen) << parameter.key();
  }
  const at::Tensor weight = net[2]->as<nn::BitLinear>()->weight, old = weight.detach().clone();
  net->forward(torch::randn({3, 4}).unsqueeze(1)).square().sum().backward();
  optimizer.step();
  EXPECT_FALSE(torch::equal(weight, old));
  EXPECT_FALSE(net[0]->as<nn::BitLinear>()->bias.grad().defined());
}

TEST(Converter, RefusesOtherTypes) {
  tnn::Sequential net(tnn::Linear(4, 4));
  net->to(at::kDouble);
  EXPECT_EQ(BitConverter::convert(*net, {}).error().message, "[convert] a layer of float32 weights, got Double (layer=0)");
}

struct HalvedImpl : tnn::LinearImpl {
  using LinearImpl::LinearImpl;
  at::Tensor forward(const at::Tensor& x) { return LinearImpl::forward(x) / 2; }
};

// A class that derives from a layer may compute something else: it is left alone.
TEST(Converter, LeavesDerivedLayers) {
  tnn::Sequential net(std::make_shared<HalvedImpl>(4, 4));
  const at::Tensor x = torch::randn({2, 4}), before = net->forward(x);
  EXPECT_EQ(BitConverter::convert(*net, {}).value().layers[0].action, Action::kSkipped);
  EXPECT_TRUE(torch::equal(net->forward(x), before));
}

TEST(Converter, ReplacesBagsInSequentials) {
  tnn::Sequential net(tnn::EmbeddingBag(7, 3));
  ASSERT_TRUE(BitConverter::convert(*net, {}).ok());
  EXPECT_EQ(net->forward(torch::randint(7, {2, 4})).sizes(), (std::vector<int64_t>{2, 3}));
}

TEST(Converter, ChangesNothingWhereItFails) {
  tnn::Sequential net(tnn::Linear(4, 4), tnn::Embedding(tnn::EmbeddingOptions(4, 4).max_norm(1)));
  const auto error = BitConverter::convert(*net, {}).error();
  EXPECT_EQ(error.message, "[convert] embedding without max_norm, got max_norm 1 (layer=1)");
  EXPECT_NE(net[0]->as<tnn::Linear>(), nullptr);
}

// Recurrent layers, by their type: all parameters are taken over.
TEST(Converter, ReplacesRecurrentLayers) {
  torch::manual_seed(2);
  tnn::ModuleDict net;
  tnn::LSTM lstm(tnn::LSTMOptions(5, 7).num_layers(2).bidirectional(true).batch_first(true).dropout(0.25));
  tnn::GRU gru(tnn::GRUOptions(5, 6).bias(false));
  net->update({{"lstm", lstm.ptr()}, {"gru", gru.ptr()}});
  net->eval();
  const at::Tensor x = torch::randn({3, 4, 5}), before = std::get<0>(gru->forward(x));
  lstm->named_parameters()["bias_hh_l1"].requires_grad_(false);
  MixedPrecisionConfig config;
  config.rules = {rule([](auto& r) { r.type = "gru", r.quant = QuantRule::in_float(); }), rule([](auto& r) {
                    r.type = "lstm", r.quant = {{"method", "lsq"}, {"granularity", "channel"}};
                  })};
  const ConversionReport report = BitConverter::convert(*net, config).value();
  ASSERT_EQ(report.layers.size(), 2U);
  EXPECT_EQ(report.layers[0].type, "lstm");
  EXPECT_EQ(report.layers[0].action, Action::kReplaced);
  EXPECT_EQ(report.layers[0].quant, "lsq/channel/int8");
  EXPECT_EQ(report.layers[1].action, Action::kKept);
  EXPECT_EQ(net["gru"].get(), gru.ptr().get());
  auto* layer = net["lstm"]->as<nn::BitLSTM>();
  ASSERT_NE(layer, nullptr);
  EXPECT_FALSE(layer->is_training());
  EXPECT_TRUE(layer->options.batch_first() && layer->options.bidirectional() && layer->options.bias());
  EXPECT_EQ(layer->options.dropout(), 0.25);
  const auto own = layer->named_parameters();
  for (const auto& item : lstm->named_parameters()) EXPECT_TRUE(own[item.key()].is_same(item.value())) << item.key();
  EXPECT_FALSE(own["bias_hh_l1"].requires_grad());
  EXPECT_TRUE(own["weight_scale_ih_l0"].gt(0).all().item<bool>());
  const at::Tensor y = std::get<0>(layer->forward(x)), floats = std::get<0>(lstm->forward(x));
  EXPECT_EQ(y.sizes(), floats.sizes());
  EXPECT_LT((y - floats).abs().mean().item<double>(), 0.2);
  y.sum().backward();
  EXPECT_TRUE(lstm->named_parameters()["weight_hh_l1_reverse"].grad().defined());
  // One that is ours and float is a layer like any.
  net->update({{"gru", nn::BitGRU(nn::BitGRUOptions(5, 6).quant(BitQuantConfig::none())).ptr()}});
  BitConverter::convert(*net, {}).value();
  EXPECT_TRUE(net["gru"]->as<nn::BitGRU>()->options.quant().enabled());
}

TEST(Converter, SaysWhyARecurrentLayerStays) {
  tnn::ModuleDict net;
  net->update({{"lstm", tnn::LSTM(tnn::LSTMOptions(5, 7).proj_size(3)).ptr()}});
  EXPECT_EQ(BitConverter::convert(*net, {}).error().message,
            "[convert] lstm without proj_size, got proj_size 3 (layer=lstm)");
  struct Typed : tnn::Module {
    explicit Typed(int64_t projection) {
      gru = register_module("gru", tnn::GRU(5, 7));
      if (projection > 0) lstm = register_module("lstm", tnn::LSTM(tnn::LSTMOptions(5, 7).proj_size(projection)));
    }
    tnn::GRU gru{nullptr};
    tnn::LSTM lstm{nullptr};
  };
  Typed typed(0);
  const auto skipped = convert_module(typed, {}, {}, Outside::kSkipped).value();
  ASSERT_EQ(skipped.report.layers.size(), 1U);
  EXPECT_EQ(skipped.report.layers[0].action, Action::kSkipped);
  EXPECT_EQ(skipped.report.layers[0].reason, "a typed member: BitModel intercepts these");
  Typed projected(3);
  const auto conversion = convert_module(projected, {}, {}, Outside::kIntercepted).value();
  ASSERT_EQ(conversion.report.layers.size(), 2U);
  EXPECT_EQ(conversion.report.layers[0].action, Action::kIntercepted);
  EXPECT_EQ(conversion.report.layers[1].action, Action::kSkipped);
  EXPECT_EQ(conversion.report.layers[1].reason, "lstm with proj_size");
  ASSERT_EQ(conversion.interceptions.size(), 2U);
  EXPECT_EQ(conversion.interceptions[0].path, "gru.weight_ih_l0");
  EXPECT_EQ(conversion.interceptions[0].layer, "gru");
  EXPECT_EQ(conversion.interceptions[1].path, "gru.weight_hh_l0");
  EXPECT_EQ(conversion.interceptions[1].use, nn::Quantizer::Use::kHiddenProduct);
}

}  // namespace
}  // namespace bitlab::convert
