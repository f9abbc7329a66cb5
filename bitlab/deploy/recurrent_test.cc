// Recurrent layers, captured, written and run: the bits of LibTorch's evaluation for any number of tokens, samples and threads.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/test_support.h"
#include "bitlab/nn/bit_embedding.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_recurrent.h"
#include "bitlab/program/print.h"
#include "bitlab/runtime/session.h"

namespace bitlab::deploy {
namespace {

using program::DType, program::kBatch, program::Op;

// A layer between named tensors. With `begins` the states come in as well.
template <class Layer>
struct RecurrentNet : torch::nn::Module {
  static constexpr bool kIsLstm = std::is_same_v<Layer, nn::BitLSTM>;
  explicit RecurrentNet(const nn::BitRecurrentOptions& options, bool with_states)
      : begins(with_states), layer(register_module("rnn", Layer(options))) {}

  NamedTensors forward(const NamedTensors& inputs) {
    const at::Tensor& x = inputs.at("x");
    if constexpr (kIsLstm) {
      const auto [y, last] = begins ? layer->forward(x, std::tuple(inputs.at("h0"), inputs.at("c0"))) : layer->forward(x);
      return {{"y", y}, {"h_n", std::get<0>(last)}, {"c_n", std::get<1>(last)}};
    } else {
      const auto [y, last] = begins ? layer->forward(x, inputs.at("h0")) : layer->forward(x);
      return {{"y", y}, {"h_n", last}};
    }
  }
  bool begins;
  Layer layer;
};

NamedTensors recurrent_inputs(const nn::BitRecurrentOptions& o, bool is_lstm, bool begins, int64_t batch, int64_t tokens) {
  const int64_t states = o.num_layers() * (o.bidirectional() ? 2 : 1);
  const auto dims = [&](int64_t a, int64_t b) { return o.batch_first() ? std::vector{a, b} : std::vector{b, a}; };
  std::vector<int64_t> shape = dims(batch, tokens);
  shape.push_back(o.input_size());
  NamedTensors inputs{{"x", torch::randn(shape)}};
  if (begins) inputs.set("h0", torch::randn({states, batch, o.hidden_size()}));
  if (begins && is_lstm) inputs.set("c0", torch::randn({states, batch, o.hidden_size()}));
  return inputs;
}

Signature recurrent_signature(const nn::BitRecurrentOptions& o, const NamedTensors& example) {
  Signature signature;
  const program::Dim tokens = signature.symbol("tokens", 1, 64);
  for (const auto& [name, tensor] : example) {
    const program::Shape x =
        o.batch_first() ? program::Shape{kBatch, tokens, o.input_size()} : program::Shape{tokens, kBatch, o.input_size()};
    signature.inputs.push_back(
        {name, {DType::kFloat32, name == "x" ? x : program::Shape{tensor.size(0), kBatch, tensor.size(2)}}});
  }
  return signature;
}

template <class Layer>
void expect_deployed(const nn::BitRecurrentOptions& options, bool begins) {
  using Net = RecurrentNet<Layer>;
  Net net(options, begins);
  SCOPED_TRACE(c10::str(*net.layer));
  const NamedTensors example = recurrent_inputs(options, Net::kIsLstm, begins, 2, 3);
  const auto program = capture(net, example, {.signature = recurrent_signature(options, example)});
  ASSERT_TRUE(program.ok()) << program.error().message;
  const auto is_recurrent = [](const program::Node& node) { return node.op == Op::ternary_recurrent; };
  EXPECT_EQ(std::count_if(program->nodes.begin(), program->nodes.end(), is_recurrent),
            options.num_layers() * (options.bidirectional() ? 2 : 1))
      << print(*program);
  for (const program::Node& node : program->nodes) EXPECT_NE(node.exactness, program::Exactness::kBounded) << node.name;
  const auto model = runtime::Model::create(*program).value();
  const at::NoGradGuard no_grad;
  for (const int threads : {1, 3}) {
    const auto session = runtime::Session::create(model, {threads, {}}).value();
    for (const int64_t tokens : {1, 7})
      for (const int64_t batch : {1, 3}) {
        const NamedTensors inputs = recurrent_inputs(options, Net::kIsLstm, begins, batch, tokens);
        const NamedTensors expected = net.forward(inputs), found = run(*session, inputs).value();
        for (const auto& [name, tensor] : expected)
          EXPECT_TRUE(test::same_bits(found.at(name), tensor)) << name << " tokens " << tokens << " batch " << batch;
      }
  }
}

TEST(RecurrentDeployment, EvaluatesToTheDeployedBits) {
  torch::manual_seed(3);
  BitQuantConfig channel;
  channel.granularity = ternary::Granularity::kChannel;
  for (const int64_t hidden : {1, 17, 65})
    for (const bool both : {false, true}) {
      const auto options = nn::BitRecurrentOptions(5, hidden)
                               .num_layers(both ? 2 : 1)
                               .bidirectional(both)
                               .batch_first(hidden != 17)
                               .quant(channel);
      expect_deployed<nn::BitLSTM>(options, both);
      expect_deployed<nn::BitGRU>(options, !both);
    }
}

// Every way to quantize that a layer may have.
TEST(RecurrentDeployment, TakesEveryQuantization) {
  torch::manual_seed(4);
  std::vector<BitQuantConfig> list(5);
  list[0].method = ternary::Method::kTwnAsymmetric;
  list[1].granularity = ternary::Granularity::kGroup, list[1].group_size = 64;
  list[2].method = ternary::Method::kInt8;
  list[3].activation = ternary::ActKind::kInt4;
  list[4].activation = ternary::ActKind::kNone;
  for (const BitQuantConfig& quant : list) {
    expect_deployed<nn::BitLSTM>(nn::BitRecurrentOptions(6, 70).batch_first(true).quant(quant), false);
    expect_deployed<nn::BitGRU>(nn::BitRecurrentOptions(6, 70).batch_first(true).quant(quant), true);
  }
}

// A tag for each word, from both of its sides.
struct TaggerImpl : torch::nn::Module {
  static constexpr int64_t kWords = 23, kTags = 4;
  TaggerImpl() {
    table = register_module("table", nn::BitEmbedding(kWords, 12));
    rnn = register_module("rnn", nn::BitLSTM(nn::BitLSTMOptions(12, 17).bidirectional(true).batch_first(true)));
    head = register_module("head", nn::BitLinear(34, kTags));
  }
  at::Tensor forward(const at::Tensor& words) { return head->forward(std::get<0>(rnn->forward(table->forward(words)))); }
  nn::BitEmbedding table{nullptr};
  nn::BitLSTM rnn{nullptr};
  nn::BitLinear head{nullptr};
};
TORCH_MODULE(Tagger);

// A word's tag depends on the words beside it.
at::Tensor tags_of(const at::Tensor& words) { return (words.roll(1, 1) + words.roll(-1, 1)).remainder(TaggerImpl::kTags); }

TEST(RecurrentDeployment, ATaggerTrainsDeploysAndRuns) {
  torch::manual_seed(5);
  Tagger tagger;
  torch::optim::Adam optimizer(tagger->parameters(), 1e-2);
  const at::Tensor words = torch::randint(0, TaggerImpl::kWords, {4, 9}), tags = tags_of(words);
  double first = 0, last = 0;
  for (int step = 0; step < 25; ++step) {
    optimizer.zero_grad();
    const at::Tensor loss = torch::nn::functional::cross_entropy(tagger->forward(words).flatten(0, 1), tags.flatten());
    loss.backward();
    optimizer.step();
    (step == 0 ? first : last) = loss.item<double>();
  }
  EXPECT_LT(last, 0.7 * first);
  Signature signature;
  signature.inputs = {{"input", {DType::kInt64, {kBatch, signature.symbol("tokens", 1, 100)}}}};
  const auto program = capture(*tagger, words, {.signature = signature});
  ASSERT_TRUE(program.ok()) << program.error().message;
  const std::string text = print(*program);
  EXPECT_NE(text.find("rnn.hh_l0_reverse"), std::string::npos) << text;
  const at::NoGradGuard no_grad;
  for (const int64_t tokens : {1, 5, 40}) {
    const at::Tensor other = torch::randint(0, TaggerImpl::kWords, {3, tokens});
    const at::Tensor expected = tagger->forward(other);
    EXPECT_TRUE(test::same_bits(test::run_program(*program, other), expected));
    for (int64_t b = 0; b < 3; ++b)  // split
      EXPECT_TRUE(
          test::same_bits(test::run_program(*program, other.narrow(0, b, 1).contiguous()), expected.narrow(0, b, 1)));
  }
}

// Layers of LibTorch are nodes, too, within rounding; the net's states come in and go out.
template <class Layer>
struct FloatNet : torch::nn::Module {
  template <class Options>
  explicit FloatNet(const Options& options) : layer(register_module("rnn", Layer(options))) {}
  NamedTensors forward(const NamedTensors& inputs) {
    if constexpr (std::is_same_v<Layer, torch::nn::LSTM>) {
      const auto [y, last] = layer->forward(inputs.at("x"), std::tuple(inputs.at("h0"), inputs.at("c0")));
      return {{"y", y}, {"h_n", std::get<0>(last)}, {"c_n", std::get<1>(last)}};
    } else {
      const auto [y, last] = layer->forward(inputs.at("x"));
      return {{"y", y}, {"h_n", last}};
    }
  }
  Layer layer;
};

template <class Layer, class Options>
void expect_float(const Options& o) {
  constexpr bool kIsLstm = std::is_same_v<Layer, torch::nn::LSTM>;
  FloatNet<Layer> net(o);
  SCOPED_TRACE(c10::str(*net.layer));
  const auto same = nn::BitRecurrentOptions(o.input_size(), o.hidden_size())
                        .num_layers(o.num_layers())
                        .bidirectional(o.bidirectional())
                        .batch_first(o.batch_first());
  const NamedTensors example = recurrent_inputs(same, kIsLstm, kIsLstm, 2, 3);
  const auto program = capture(net, example, {.signature = recurrent_signature(same, example)});
  ASSERT_TRUE(program.ok()) << program.error().message;
  const auto nodes = std::count_if(program->nodes.begin(), program->nodes.end(),
                                   [](const program::Node& node) { return node.op == Op::recurrent; });
  EXPECT_EQ(nodes, o.num_layers() * (o.bidirectional() ? 2 : 1)) << print(*program);
  const auto session = runtime::Session::create(runtime::Model::create(*program).value()).value();
  const at::NoGradGuard no_grad;
  for (const int64_t tokens : {1, 7})
    for (const int64_t batch : {1, 3}) {
      const NamedTensors inputs = recurrent_inputs(same, kIsLstm, kIsLstm, batch, tokens);
      const NamedTensors expected = net.forward(inputs), found = run(*session, inputs).value();
      for (const auto& [name, tensor] : expected)
        EXPECT_TRUE(torch::allclose(found.at(name), tensor, 1e-5, 1e-6))
            << name << " tokens " << tokens << " batch " << batch;
    }
}

TEST(RecurrentDeployment, FloatLayersAreNodesForAnyNumberOfTokens) {
  torch::manual_seed(6);
  for (const int64_t hidden : {1, 17}) {
    for (const bool both : {false, true}) {
      expect_float<torch::nn::LSTM>(torch::nn::LSTMOptions(5, hidden)
                                        .num_layers(both ? 2 : 1)
                                        .bidirectional(both)
                                        .batch_first(hidden == 17)
                                        .bias(!both));
      expect_float<torch::nn::GRU>(
          torch::nn::GRUOptions(5, hidden).num_layers(both ? 1 : 3).bidirectional(both).batch_first(hidden == 1));
      expect_float<torch::nn::RNN>(
          torch::nn::RNNOptions(5, hidden).num_layers(both ? 2 : 1).bidirectional(both).batch_first(hidden == 1).bias(both));
    }
  }
}

// Projected states are another hidden weight, and a product behind the node, whatever the layer begins with.
TEST(RecurrentDeployment, ProjectedStatesAreNodes) {
  torch::manual_seed(7);
  for (const bool both : {false, true}) {
    const int64_t states = both ? 4 : 2;
    FloatNet<torch::nn::LSTM> net(
        torch::nn::LSTMOptions(5, 6).proj_size(4).batch_first(true).num_layers(2).bidirectional(both));
    const auto inputs_of = [states](int64_t batch, int64_t tokens) {
      NamedTensors inputs{{"x", torch::randn({batch, tokens, 5})}};
      inputs.set("h0", torch::randn({states, batch, 4})), inputs.set("c0", torch::randn({states, batch, 6}));
      return inputs;
    };
    Signature signature;
    const program::Dim tokens = signature.symbol("tokens", 1, 100);
    signature.inputs = {{"x", {DType::kFloat32, {kBatch, tokens, 5}}},
                        {"h0", {DType::kFloat32, {states, kBatch, 4}}},
                        {"c0", {DType::kFloat32, {states, kBatch, 6}}}};
    const auto program = capture(net, inputs_of(2, 3), {.signature = signature});
    ASSERT_TRUE(program.ok()) << program.error().message;
    EXPECT_EQ(std::count_if(program->nodes.begin(), program->nodes.end(),
                            [](const program::Node& node) { return node.op == Op::recurrent; }),
              states);
    const auto session = runtime::Session::create(runtime::Model::create(*program).value()).value();
    const at::NoGradGuard no_grad;
    for (const int64_t count : {1, 7}) {
      const NamedTensors inputs = inputs_of(3, count), expected = net.forward(inputs), found = run(*session, inputs).value();
      for (const auto& [name, tensor] : expected)
        EXPECT_TRUE(torch::allclose(found.at(name), tensor, 1e-5, 1e-6)) << name << " tokens " << count;
    }
  }
}

// What nodes are not, as a plain layer with relu, is the calls of LibTorch, for a number of tokens that is known.
TEST(RecurrentDeployment, FloatLayersOfOtherFormsGoStepByStep) {
  torch::manual_seed(7);
  FloatNet<torch::nn::RNN> net(torch::nn::RNNOptions(5, 6).nonlinearity(torch::kReLU).batch_first(true));
  const NamedTensors inputs{{"x", torch::randn({2, 3, 5})}};
  const auto program = capture(net, inputs);
  ASSERT_TRUE(program.ok()) << program.error().message;
  for (const program::Node& node : program->nodes) EXPECT_NE(node.op, Op::recurrent);
  const auto session = runtime::Session::create(runtime::Model::create(*program).value()).value();
  const NamedTensors expected = net.forward(inputs), found = run(*session, inputs).value();
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(torch::allclose(found.at(name), tensor, 1e-5, 1e-6)) << name;
}

}  // namespace
}  // namespace bitlab::deploy
