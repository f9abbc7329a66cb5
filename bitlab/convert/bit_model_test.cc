// Interception: a user's class computes what direct calls of the ternary operators compute, values and gradients; and the audit.
#include "bitlab/convert/bit_model.h"

#include <filesystem>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_recurrent.h"
#include "bitlab/nn/layer.h"

namespace bitlab::convert {
namespace {

namespace tnn = torch::nn;
namespace F = torch::nn::functional;
const ops::WeightQuant kQuant{};
const ops::ActQuant kAct{};

// Layers as typed members, and functional calls in every form that C++ has for them.
struct Typed : tnn::Module {
  tnn::Conv2d conv{nullptr};
  tnn::Linear fc{nullptr};
  at::Tensor direct, transposed;
  Typed() {
    torch::manual_seed(1);
    conv = register_module("conv", tnn::Conv2d(tnn::Conv2dOptions(2, 4, 3).stride(2).padding(1)));
    fc = register_module("fc", tnn::Linear(4 * 4 * 3, 10));
    direct = register_parameter("direct", torch::randn({10, 10}));
    transposed = register_parameter("transposed", torch::randn({10, 10}));
  }
  at::Tensor forward(const at::Tensor& x) {
    at::Tensor h = fc(torch::relu(conv(x)).flatten(1));
    h = at::linear(h, direct);
    h = torch::matmul(h.unsqueeze(1), transposed.t()).squeeze(1);
    return h;
  }
  at::Tensor reference(const at::Tensor& x) const {
    at::Tensor h = ops::bit_conv(x, conv->weight, conv->bias, {{2, 2}, {1, 1}, {1, 1}}, kQuant, kAct);
    h = ops::bit_linear(torch::relu(h).flatten(1), fc->weight, fc->bias, kQuant, kAct);
    return ops::bit_linear(ops::bit_linear(h, direct, {}, kQuant, kAct), transposed, {}, kQuant, kAct);
  }
};

std::vector<at::Tensor> gradients(const tnn::Module& module) {
  std::vector<at::Tensor> list;
  for (const auto& p : module.parameters()) {
    list.push_back(p.grad().clone());
    p.mutable_grad().reset();
  }
  return list;
}

TEST(BitModel, EqualsDirectCallsForwardAndBackward) {
  const auto net = std::make_shared<Typed>();
  const auto model = BitModel::wrap(net, {});
  const at::Tensor x = torch::randn({3, 2, 7, 6});
  const at::Tensor expected = net->reference(x);
  expected.square().sum().backward();
  const auto wanted = gradients(*net);
  for (int round = 0; round < 2; ++round) {  // audited, then not
    const at::Tensor y = model->forward(x);
    EXPECT_TRUE(torch::equal(y, expected));
    y.square().sum().backward();
    const auto found = gradients(*net);
    for (size_t i = 0; i < wanted.size(); ++i) EXPECT_TRUE(torch::allclose(found[i], wanted[i], 1e-5, 1e-6)) << i;
  }
  EXPECT_FALSE(torch::allclose(net->forward(x), expected)) << "outside of the model nothing has changed";
  // Eval runs on codes, with the same bits.
  model->eval();
  const auto trained_reference = [&] {
    const at::AutoGradMode gradients(true);
    return net->reference(x).detach();
  };
  {
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(torch::equal(model->forward(x), expected));
    net->fc->bias.add_(1);
    net->fc->weight.mul_(-1);
    EXPECT_TRUE(torch::equal(model->forward(x), trained_reference())) << "codes follow the weights";
  }
  const at::Tensor latest = trained_reference();
  {
    const c10::InferenceMode inference;
    EXPECT_TRUE(torch::equal(model->forward(x), latest));
  }
}

// Without weights; eval computes the contract's step.
TEST(BitModel, BatchNormsWithoutWeights) {
  torch::manual_seed(7);
  tnn::Sequential net(tnn::Linear(5, 4), tnn::BatchNorm1d(tnn::BatchNormOptions(4).affine(false)));
  net[1]->as<tnn::BatchNorm1d>()->running_mean.normal_();
  const auto model = BitModel::wrap(net.ptr(), {});
  model->eval();
  const at::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({3, 5});
  EXPECT_TRUE(torch::allclose(model->forward(x), net->forward(x), 1e-5, 1e-6));
}

// Padding as a text, of a layer and of a call; captured with eval's bits elsewhere.
TEST(BitModel, PaddingByText) {
  struct Net : tnn::Module {
    tnn::Conv2d same = register_module("same", tnn::Conv2d(tnn::Conv2dOptions(2, 4, {2, 3}).padding(torch::kSame)));
    tnn::Conv1d valid = register_module("valid", tnn::Conv1d(tnn::Conv1dOptions(4, 3, 4).padding(torch::kValid)));
    at::Tensor forward(const at::Tensor& x) {
      return torch::conv1d(same(x).flatten(2), valid->weight, valid->bias, 1, "same", 2);
    }
  };
  torch::manual_seed(6);
  const auto net = std::make_shared<Net>();
  const auto model = BitModel::wrap(net, {});
  const at::Tensor x = torch::randn({3, 2, 5, 6}), padded = at::pad(x, {0, 0, 0, 1});
  const at::Tensor h = ops::bit_conv(padded, net->same->weight, net->same->bias, {{1, 1}, {0, 1}, {1, 1}}, kQuant, kAct);
  EXPECT_TRUE(torch::equal(
      model->forward(x), ops::bit_conv(h.flatten(2), net->valid->weight, net->valid->bias, {{1}, {3}, {2}}, kQuant, kAct)));
  model->eval();
  const at::NoGradGuard no_grad;
  EXPECT_EQ(model->forward(x).sizes(), at::IntArrayRef({3, 3, 30}));
}

TEST(BitModel, ReportsWhatItIntercepts) {
  const auto model = BitModel::wrap(std::make_shared<Typed>(), {});
  std::map<std::string, Action> actions;
  for (const LayerReport& layer : model->report().layers) actions[layer.path] = layer.action;
  EXPECT_EQ(actions, (std::map<std::string, Action>{{"conv", Action::kIntercepted},
                                                    {"fc", Action::kIntercepted},
                                                    {"direct", Action::kIntercepted},
                                                    {"transposed", Action::kIntercepted}}));
  EXPECT_EQ(model->report().covered(), model->report().parameters());
}

TEST(BitModel, TrainsLearnedScalesAndSteps) {
  MixedPrecisionConfig config;
  config.quant.method = ternary::Method::kLsq;
  config.quant.activation = ternary::ActKind::kInt8Static;
  const auto model = BitModel::wrap(std::make_shared<Typed>(), config);
  EXPECT_TRUE(model->named_parameters().contains("intercepted.fc/weight.weight_scale"));
  torch::optim::Adam optimizer(model->parameters(), 1e-2);
  const at::Tensor x = torch::randn({8, 2, 7, 6}), target = torch::randint(10, {8});
  double first = 0, last = 0;
  for (int step = 0; step < 10; ++step) {
    optimizer.zero_grad();
    const at::Tensor loss = torch::cross_entropy_loss(model->forward(x), target);
    loss.backward();
    optimizer.step();
    (step == 0 ? first : last) = loss.item<double>();
  }
  EXPECT_LT(last, 0.8 * first);
  for (const auto& p : model->named_parameters()) EXPECT_TRUE(p.value().grad().defined()) << p.key();
}

// Row blocks of one weight share its scale: LibTorch's attention keeps three projections in one.
TEST(BitModel, AttentionOfLibTorch) {
  torch::manual_seed(3);
  struct Net : tnn::Module {
    tnn::MultiheadAttention attention{nullptr};
    Net() { attention = register_module("attention", tnn::MultiheadAttention(16, 4)); }
    at::Tensor forward(const at::Tensor& x) { return std::get<0>(attention(x, x, x)); }
  };
  const auto net = std::make_shared<Net>();
  const auto& m = *net->attention;
  const at::Tensor x = torch::randn({5, 2, 16});
  const auto heads = [](const at::Tensor& t) { return t.contiguous().view({-1, 8, 4}).transpose(0, 1); };
  const auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const at::Tensor weights = torch::softmax(torch::bmm(heads(q) * 0.5, heads(k).transpose(1, 2)), -1);
    const at::Tensor joined = torch::bmm(weights, heads(v)).transpose(0, 1).contiguous().view({-1, 2, 16});
    return ops::bit_linear(joined, m.out_proj->weight, m.out_proj->bias, kQuant, kAct);
  };
  const auto qkv = ops::bit_linear(x, m.in_proj_weight, m.in_proj_bias, kQuant, kAct).chunk(3, -1);
  const at::Tensor expected = attend(qkv[0], qkv[1], qkv[2]);
  expected.square().sum().backward();
  const auto wanted = gradients(*net);
  const auto model = BitModel::wrap(net, {});
  const at::Tensor y = model->forward(x);
  EXPECT_TRUE(torch::allclose(y, expected, 1e-5, 1e-6));
  y.square().sum().backward();
  const auto found = gradients(*net);
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_TRUE(torch::allclose(found[i], wanted[i], 1e-4, 1e-5)) << i;
  // Keys from elsewhere: blocks of rows.
  const at::Tensor memory = torch::randn({7, 2, 16});
  const auto from_memory = ops::bit_linear(memory, m.in_proj_weight, m.in_proj_bias, kQuant, kAct).chunk(3, -1);
  const at::Tensor cross = model->intercept([&] { return std::get<0>(net->attention(x, memory, memory)); });
  EXPECT_TRUE(torch::allclose(cross, attend(qkv[0], from_memory[1], from_memory[2]), 1e-5, 1e-6));
}

// One weight, read by a convolution and by its transpose: each has scales and codes of its own, in training and in eval.
// LSTM and GRU of LibTorch as members: what BitLSTM and BitGRU compute with the same weights, values and gradients.
struct RecurrentMembers : tnn::Module {
  RecurrentMembers() {
    lstm = register_module("lstm", tnn::LSTM(tnn::LSTMOptions(5, 7).num_layers(2).bidirectional(true).batch_first(true)));
    gru = register_module("gru", tnn::GRU(tnn::GRUOptions(14, 6).bias(false)));
  }
  at::Tensor forward(const at::Tensor& x) {
    const auto [y, states] = lstm->forward(x);
    const auto [z, last] = gru->forward(y.transpose(0, 1));
    return torch::cat({z.flatten(), last.flatten(), std::get<0>(states).flatten(), std::get<1>(states).flatten()});
  }
  tnn::LSTM lstm{nullptr};
  tnn::GRU gru{nullptr};
};

TEST(BitModel, RecurrentLayersAreThoseOfOurs) {
  torch::manual_seed(4);
  BitQuantConfig channel, learned;
  channel.granularity = ternary::Granularity::kChannel;
  learned.method = ternary::Method::kLsq, learned.activation = ternary::ActKind::kInt8Static;
  for (const BitQuantConfig& quant : {BitQuantConfig{}, channel, learned}) {
    SCOPED_TRACE(nn::describe(quant));
    const auto net = std::make_shared<RecurrentMembers>();
    tnn::ModuleDict twins;  // the same tensors in layers of ours
    twins->update({{"lstm", net->lstm.ptr()}, {"gru", net->gru.ptr()}});
    BitConverter::convert(*twins, {.quant = quant}).value();
    auto& lstm = *twins["lstm"]->as<nn::BitLSTM>();
    auto& gru = *twins["gru"]->as<nn::BitGRU>();
    const auto expected_of = [&](const at::Tensor& x) {
      const auto [y, states] = lstm.forward(x);
      const auto [z, last] = gru.forward(y.transpose(0, 1));
      return torch::cat({z.flatten(), last.flatten(), std::get<0>(states).flatten(), std::get<1>(states).flatten()});
    };
    const auto model = BitModel::wrap(net, {.quant = quant});
    ASSERT_EQ(model->report().layers.size(), 2U);
    for (const LayerReport& layer : model->report().layers) EXPECT_EQ(layer.action, Action::kIntercepted) << layer.path;
    for (const bool training : {true, false}) {
      model->train(training), twins->train(training);
      const at::Tensor x = torch::randn({3, 4, 5});
      const at::Tensor expected = expected_of(x), found = model->forward(x);
      EXPECT_TRUE(torch::equal(found, expected)) << training;
      if (!training) continue;
      expected.square().sum().backward();
      const auto wanted = gradients(*net);
      found.square().sum().backward();
      const auto own = gradients(*net);
      for (size_t i = 0; i < own.size(); ++i) EXPECT_TRUE(torch::allclose(own[i], wanted[i], 1e-5, 1e-6)) << i;
    }
  }
}

TEST(BitModel, OneWeightInTwoConvolutions) {
  struct Net : tnn::Module {
    tnn::Conv2d conv{nullptr};
    explicit Net(int64_t filters) {
      conv = register_module("conv", tnn::Conv2d(tnn::Conv2dOptions(6, filters, 3).padding(1).bias(false)));
    }
    at::Tensor forward(const at::Tensor& x) { return torch::conv_transpose2d(conv(x), conv->weight, {}, 2, 1); }
  };
  for (const int64_t filters : {6, 9}) {
    torch::manual_seed(8);
    const auto net = std::make_shared<Net>(filters);
    const auto model = BitModel::wrap(net, {});
    const at::Tensor x = torch::randn({2, 6, 7, 5});
    const at::Tensor h = ops::bit_conv(x, net->conv->weight, {}, {{1, 1}, {1, 1}, {1, 1}}, kQuant, kAct);
    const at::Tensor wanted =
        ops::bit_conv(h, net->conv->weight, {}, {{2, 2}, {1, 1}, {1, 1}, true, {0, 0}}, kQuant, kAct).detach();
    EXPECT_TRUE(torch::equal(model->forward(x), wanted));
    model->eval();
    const at::NoGradGuard no_grad;
    for (int round = 0; round < 2; ++round) EXPECT_TRUE(torch::equal(model->forward(x), wanted)) << filters;
  }
}

// A head that training alone uses: unread in eval, where it does no harm; a weight that training does not read is a mistake.
TEST(Audit, HeadsOfTrainingAreUnreadInEval) {
  struct Net : tnn::Module {
    tnn::Linear fc{nullptr}, aux{nullptr};
    bool is_used = true;
    Net() {
      fc = register_module("fc", tnn::Linear(4, 4));
      aux = register_module("aux", tnn::Linear(4, 2));
    }
    at::Tensor forward(const at::Tensor& x) {
      const at::Tensor y = fc(x);
      return is_training() && is_used ? y + aux(x).sum() : y;
    }
  };
  const auto net = std::make_shared<Net>();
  const auto model = BitModel::wrap(net, {});
  const at::Tensor x = torch::randn({3, 4});
  model->eval();
  EXPECT_NO_THROW(model->forward(x));
  model->train();
  net->is_used = false;
  try {
    model->forward(x);
    ADD_FAILURE() << "expected an error";
  } catch (const Exception& error) {
    EXPECT_NE(std::string(error.what()).find("'aux.weight' is read by no product"), std::string::npos) << error.what();
  }
  net->is_used = true;
  EXPECT_NO_THROW(model->forward(x));
}

// The first forward pass names what is read in another way.
struct Misuse : tnn::Module {
  std::function<at::Tensor(Misuse&, const at::Tensor&)> body;
  tnn::Linear fc{nullptr};
  tnn::LSTM lstm{nullptr};
  Misuse() { fc = register_module("fc", tnn::Linear(4, 4)); }
  at::Tensor forward(const at::Tensor& x) { return body(*this, x); }
};

using Body = std::function<at::Tensor(Misuse&, const at::Tensor&)>;
const std::pair<const char*, Body> kMisuses[] = {
    {"'fc.weight' is read by aten::mul", [](Misuse& m, const at::Tensor& x) { return F::linear(x, m.fc->weight * 0.5); }},
    {"'fc.weight' is read by aten::clone",
     [](Misuse& m, const at::Tensor& x) { return m.fc(x) + F::linear(x, m.fc->weight.clone()); }},
    {"'fc.weight' is read by aten::einsum",
     [](Misuse& m, const at::Tensor& x) {
       return at::einsum("ni,oi->no", {x, m.fc->weight});
     }},
    {"'fc.weight' is read by aten::cat",
     [](Misuse& m, const at::Tensor& x) {
       return m.fc(x).mm(at::cat({m.fc->weight, m.fc->weight}).slice(0, 0, 4));
     }},
    {"'fc.weight' is read by aten::matmul",
     [](Misuse& m, const at::Tensor& x) { return torch::matmul(m.fc->weight, x.t()); }},
    {"'fc.weight' is read by aten::sum",
     [](Misuse& m, const at::Tensor& x) { return m.fc(x) * m.fc->weight.t().slice(0, 1, 3).sum(); }},
};

MixedPrecisionConfig with_rule(bool master, const Overrides& quant) {
  MixedPrecisionConfig config;
  config.rules.emplace_back();
  config.rules[0].path = "fc";
  config.rules[0].master = master;
  config.rules[0].quant = quant;
  return config;
}

std::string refused(const std::shared_ptr<BitModel>& model) {
  try {
    model->forward(torch::randn({2, 4}));
  } catch (const Exception& error) {
    return error.code() == ErrorCode::kUnsupported ? error.what() : "another error";
  }
  return "nothing";
}

TEST(Audit, NamesWeightsThatOthersRead) {
  const auto net = std::make_shared<Misuse>();
  for (const auto& [text, body] : kMisuses) {
    net->body = body;
    const std::string found = refused(BitModel::wrap(net, {}));
    EXPECT_NE(found.find(text), std::string::npos) << found << " instead of " << text;
    // A rule that keeps the layer lets it pass.
    const at::Tensor x = torch::randn({2, 4});
    EXPECT_TRUE(torch::equal(BitModel::wrap(net, with_rule(false, QuantRule::in_float()))->forward(x), net->forward(x)));
  }
  net->body = [](Misuse&, const at::Tensor& x) { return x; };
  EXPECT_EQ(refused(BitModel::wrap(net, {})),
            "[bit_model] weights that products alone read, or master weights (master: true), got 'fc.weight' is read by no "
            "product");
}

// Whatever reads a master weight reads its value t s, and hands the gradient there to the weight.
TEST(MasterWeights, AreTernaryWhereverTheyAreRead) {
  torch::manual_seed(6);
  const MixedPrecisionConfig config = with_rule(true, {});
  for (const auto& [text, body] : kMisuses) {
    const auto net = std::make_shared<Misuse>(), reference = std::make_shared<Misuse>();
    net->body = reference->body = body;
    {
      const at::NoGradGuard no_grad;
      reference->fc->weight.copy_(ops::bit_weight(net->fc->weight, kQuant));
      reference->fc->bias.copy_(net->fc->bias);
    }
    const auto model = BitModel::wrap(net, config);
    const at::Tensor x = torch::randn({3, 4}), expected = reference->forward(x);
    expected.square().sum().backward();
    for (int round = 0; round < 2; ++round) {  // audited, then not
      const at::Tensor y = model->forward(x);
      EXPECT_TRUE(torch::allclose(y, expected, 1e-6, 1e-7)) << text;
      net->zero_grad();
      y.square().sum().backward();
      EXPECT_TRUE(torch::allclose(net->fc->weight.grad(), reference->fc->weight.grad(), 1e-5, 1e-6)) << text;
    }
    model->eval();
    const c10::InferenceMode inference;
    EXPECT_TRUE(torch::allclose(model->forward(x), expected, 1e-6, 1e-7)) << text;
  }
}

// Weight standardization: statistics of the ternary kernel, and a convolution by what comes of it.
TEST(MasterWeights, OfConvolutions) {
  torch::manual_seed(7);
  struct Net : tnn::Module {
    tnn::Conv2d conv{nullptr};
    bool standardizes = true;
    Net() { conv = register_module("conv", tnn::Conv2d(tnn::Conv2dOptions(3, 4, 3).bias(false))); }
    at::Tensor forward(const at::Tensor& x) {
      const at::Tensor& w = conv->weight;
      if (!standardizes) return conv(x);
      return F::conv2d(x, (w - w.mean({1, 2, 3}, true)) / (w.std({1, 2, 3}, true, true) + 1e-5));
    }
  };
  MixedPrecisionConfig config = with_rule(true, {});
  config.rules[0].path = "*";
  config.quant.granularity = ternary::Granularity::kChannel;
  ops::WeightQuant quant;
  quant.spec.granularity = ternary::Granularity::kChannel;
  for (const bool standardizes : {true, false}) {
    const auto net = std::make_shared<Net>(), reference = std::make_shared<Net>();
    net->standardizes = reference->standardizes = standardizes;
    {
      const at::NoGradGuard no_grad;
      const auto codes = ops::quantize_weight(net->conv->weight, quant);
      reference->conv->weight.copy_(codes.t.to(at::kFloat) * codes.scale.view({4, 1, 1, 1}));
    }
    const auto model = BitModel::wrap(net, config);
    const at::Tensor x = torch::randn({2, 3, 7, 6}), expected = reference->forward(x), y = model->forward(x);
    EXPECT_TRUE(torch::equal(y, expected));
    expected.square().sum().backward();
    y.square().sum().backward();
    EXPECT_TRUE(torch::allclose(net->conv->weight.grad(), reference->conv->weight.grad(), 1e-5, 1e-5));
  }
}

// A container's layer, too, is read elsewhere: it is not replaced, and what reads it reads its value.
TEST(MasterWeights, InContainers) {
  torch::manual_seed(9);
  struct Net : tnn::Module {
    tnn::Sequential body{nullptr};
    Net() { body = register_module("body", tnn::Sequential(tnn::Linear(4, 4))); }
    at::Tensor forward(const at::Tensor& x) { return body->forward(x) * body[0]->as<tnn::Linear>()->weight.sum(); }
  };
  const auto net = std::make_shared<Net>();
  MixedPrecisionConfig config = with_rule(true, {});
  config.rules[0].path = "body.*";
  const auto& layer = *net->body[0]->as<tnn::Linear>();
  const at::Tensor value = ops::bit_weight(layer.weight, kQuant).detach(), x = torch::randn({3, 4});
  const at::Tensor expected = at::linear(x, value, layer.bias) * value.sum();
  const auto model = BitModel::wrap(net, config);
  EXPECT_EQ(model->report().layers.at(0).action, Action::kIntercepted);
  EXPECT_TRUE(torch::allclose(model->forward(x), expected, 1e-6, 1e-7));
  EXPECT_EQ(BitConverter::convert(*std::make_shared<Net>(), config).value().layers.at(0).reason,
            "a master weight: BitModel intercepts these");
}

// Activations that stay float are a property of the product, not of the weight.
TEST(BitModel, WeightOnlyProducts) {
  torch::manual_seed(10);
  const auto net = std::make_shared<Misuse>();
  net->body = [](Misuse& m, const at::Tensor& x) { return m.fc(x); };
  const at::Tensor x = torch::randn({3, 4});
  const at::Tensor expected = ops::bit_linear(x, net->fc->weight, net->fc->bias, kQuant, {ternary::ActKind::kNone, {}});
  const auto model = BitModel::wrap(net, with_rule(false, {{"activation", "none"}}));
  EXPECT_TRUE(torch::equal(model->forward(x), expected));
  net->body = kMisuses[0].second;
  EXPECT_NE(refused(BitModel::wrap(net, with_rule(false, {{"activation", "none"}}))).find("aten::mul"), std::string::npos);
}

// Two inputs and two outputs, by name.
TEST(BitModel, NamedTensors) {
  torch::manual_seed(11);
  struct Net : tnn::Module {
    tnn::Linear fc = register_module("fc", tnn::Linear(4, 3));
    tnn::Embedding table = register_module("table", tnn::Embedding(5, 3));
    nn::NamedTensors forward(const nn::NamedTensors& in) {
      const at::Tensor y = fc(in.at("x")), rows = table(in.at("ids"));
      return {{"sum", y + rows}, {"rows", rows}};
    }
  };
  const auto net = std::make_shared<Net>();
  const auto model = BitModel::wrap(net, {});
  const at::Tensor x = torch::randn({2, 4}), ids = torch::randint(5, {2});
  const nn::NamedTensors out = model->forward(nn::NamedTensors{{"ids", ids}, {"x", x}});
  const at::Tensor rows = ops::bit_embedding(net->table->weight, ids, kQuant);
  EXPECT_EQ(out.names(), "sum, rows");
  EXPECT_TRUE(torch::equal(out.at("rows"), rows));
  EXPECT_TRUE(torch::equal(out.at("sum"), ops::bit_linear(x, net->fc->weight, net->fc->bias, kQuant, kAct) + rows));
  EXPECT_THROW(model->forward(nn::NamedTensors{{"x", x}}), Exception);
}

TEST(MasterWeights, AreNotWrittenTo) {
  const auto net = std::make_shared<Misuse>();
  net->body = [](Misuse& m, const at::Tensor& x) {
    const at::NoGradGuard no_grad;
    m.fc->weight.mul_(0.5);
    return m.fc(x);
  };
  const std::string found = refused(BitModel::wrap(net, with_rule(true, {})));
  EXPECT_NE(found.find("'fc.weight' is read by aten::mul_"), std::string::npos) << found;
}

// A layer by itself, and one whose weight is its own transpose.
TEST(BitModel, SingleLayers) {
  torch::manual_seed(4);
  const auto layer = std::make_shared<tnn::LinearImpl>(5, 3);
  const auto model = BitModel::wrap(layer, {});
  const at::Tensor x = torch::randn({4, 5});
  EXPECT_EQ(model->report().layers.at(0).action, Action::kIntercepted);
  EXPECT_TRUE(torch::equal(model->forward(x), ops::bit_linear(x, layer->weight, layer->bias, kQuant, kAct)));
  const auto point = std::make_shared<tnn::LinearImpl>(1, 1);
  const at::Tensor one = torch::randn({4, 1});
  EXPECT_TRUE(
      torch::equal(BitModel::wrap(point, {})->forward(one), ops::bit_linear(one, point->weight, point->bias, kQuant, kAct)));
}

TEST(BitModel, LeavesNoGuardBehind) {
  const auto net = std::make_shared<Typed>();
  const auto model = BitModel::wrap(net, {});
  const at::Tensor x = torch::randn({3, 2, 7, 6});
  const at::Tensor plain = net->forward(x), ternary = model->forward(x);
  EXPECT_THROW(model->forward(torch::randn({3, 2, 9, 9})), std::exception);
  EXPECT_TRUE(torch::equal(net->forward(x), plain));
  EXPECT_TRUE(torch::equal(model->forward(x), ternary));
  // A guard holds for its thread; ATen carries it to others.
  model->intercept([&] {
    at::Tensor raw, carried;
    std::thread([&] { raw = net->forward(x); }).join();
    const at::ThreadLocalState state;
    std::thread([&] {
      const at::ThreadLocalStateGuard guard(state);
      carried = net->forward(x);
    }).join();
    EXPECT_TRUE(torch::equal(raw, plain));
    EXPECT_TRUE(torch::equal(carried, ternary));
    return 0;
  });
}

TEST(BitModel, SavesItsRulesWithItsState) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("bitlab_model_{}.pt", getpid());
  MixedPrecisionConfig config;
  config.quant.method = ternary::Method::kLsq;
  const auto first = BitModel::wrap(std::make_shared<Typed>(), config);
  const at::Tensor x = torch::randn({3, 2, 7, 6});
  {
    const at::NoGradGuard no_grad;
    for (auto& p : first->parameters()) p.mul_(1.5);
  }
  ASSERT_TRUE(first->save_to(path).ok());
  const auto second = BitModel::wrap(std::make_shared<Typed>(), BitModel::saved_config(path).value());
  ASSERT_TRUE(second->load_from(path).ok());
  EXPECT_TRUE(torch::equal(second->forward(x), first->forward(x)));
  const auto other = BitModel::wrap(std::make_shared<Typed>(), {});
  EXPECT_EQ(other->load_from(path).error().code, ErrorCode::kInvalidArgument);
  std::filesystem::remove(path);
  EXPECT_EQ(other->load_from(path).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace bitlab::convert
