// Post-training quantization against closed forms and against the float network.
#include "bitlab/deploy/post_training.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/test_support.h"
#include "bitlab/nn/bit_batch_norm.h"
#include "bitlab/nn/bit_conv.h"
#include "bitlab/nn/bit_linear.h"
#include "bitlab/nn/bit_recurrent.h"

namespace bitlab::deploy {
namespace {

using test::Net;

BitQuantConfig static_int8(ternary::Granularity granularity = ternary::Granularity::kChannel) {
  BitQuantConfig quant;
  quant.granularity = granularity;
  quant.activation = ternary::ActKind::kInt8Static;
  return quant;
}

// conv - BatchNorm - relu - conv without a bias - BatchNorm (also read by a sum) - pool - linear
template <class BatchNorm>
struct ConvNet : Net {
  nn::BitConv2d conv1{nullptr}, conv2{nullptr};
  BatchNorm norm1{nullptr}, norm2{nullptr};
  nn::BitLinear fc{nullptr};

  explicit ConvNet(const BitQuantConfig& quant) {
    conv1 = register_module("conv1", nn::BitConv2d(nn::BitConv2dOptions(3, 16, 3).padding(1).quant(quant)));
    norm1 = register_module("norm1", BatchNorm(16));
    conv2 = register_module("conv2", nn::BitConv2d(nn::BitConv2dOptions(16, 16, 3).padding(1).bias(false).quant(quant)));
    norm2 = register_module("norm2", BatchNorm(16));
    fc = register_module("fc", nn::BitLinear(nn::BitLinearOptions(16, 5).quant(quant)));
    for (auto* norm : {&norm1, &norm2}) {
      torch::nn::init::normal_((*norm)->weight, 0.2, 1);  // both signs
      torch::nn::init::normal_((*norm)->bias);
      (*norm)->running_mean.normal_();
      (*norm)->running_var.uniform_(0.5, 2);
    }
    body = [this](Net&, const at::Tensor& x) {
      const at::Tensor h = at::relu(norm1(conv1(x)));
      return fc((h + norm2(conv2(h))).mean({2, 3}));
    };
  }
};

std::vector<at::Tensor> samples() {
  torch::manual_seed(9);
  return {torch::randn({6, 3, 8, 7}), torch::randn({6, 3, 8, 7})};
}

template <class BatchNorm>
void bring_outputs_near_the_float_networks() {
  torch::manual_seed(1);
  for (auto granularity : {ternary::Granularity::kTensor, ternary::Granularity::kChannel}) {
    ConvNet<BatchNorm> net(static_int8(granularity));
    const auto data = samples();
    at::NoGradGuard no_grad;
    at::Tensor float_output;
    std::vector<double> errors;
    const auto evaluate = [&] {
      const at::Tensor y = net.forward(data[0]);
      if (!float_output.defined()) float_output = y;
      errors.push_back((y - float_output).square().mean().item<double>());
      return errors.back();
    };
    const auto report = quantize_for_deployment(net, nn::forward_of(net), test::named(data), {}, evaluate);
    ASSERT_TRUE(report.ok()) << report.error().message;
    ASSERT_EQ(report->layers.size(), 3U);
    EXPECT_EQ(report->evaluated_float, 0.0);
    EXPECT_LT(*report->evaluated_after, 0.7 * *report->evaluated_before);
    EXPECT_EQ(*report->evaluated_after, errors.back());
    const char* names[] = {"conv1", "conv2", "fc"};
    for (size_t i = 0; i < 3; ++i) {
      const LayerFit& fit = report->layers[i];
      EXPECT_EQ(fit.name, names[i]);
      EXPECT_TRUE(fit.frozen);
      EXPECT_EQ(fit.folded, i < 2);
      EXPECT_GT(fit.act_scale, 0);
      EXPECT_LE(fit.error_after, fit.error_before + 1e-12) << fit.name;
    }
    // 2 bits a code, and float32 scales and biases, in padded rows.
    EXPECT_EQ(report->float32_weight_bytes % 4, 0);
    EXPECT_GT(report->weight_bytes, 0);
    EXPECT_DOUBLE_EQ(report->bits_a_weight,
                     32.0 * static_cast<double>(report->weight_bytes) / static_cast<double>(report->float32_weight_bytes));
    // What remains is ternary products alone, and the runtime gives its bits.
    const auto program = capture(net, nn::forward_of(net), data[0]).value();
    for (const auto& node : program.nodes) {
      EXPECT_NE(node.op, program::Op::batch_norm);
      EXPECT_NE(node.op, program::Op::mul);
    }
    EXPECT_TRUE(check_parity(program, net, nn::forward_of(net), data[0]).ok());
  }
}

TEST(PostTraining, BringsOutputsNearTheFloatNetworks) {
  bring_outputs_near_the_float_networks<torch::nn::BatchNorm2d>();
  bring_outputs_near_the_float_networks<nn::BitBatchNorm2d>();
}

// A linear layer's scales and bias against the least squares of its definition.
TEST(PostTraining, FitsTheClosedForm) {
  torch::manual_seed(2);
  Net net;
  BitQuantConfig quant;
  quant.granularity = ternary::Granularity::kTensor;
  auto fc = net.register_module("fc", nn::BitLinear(nn::BitLinearOptions(20, 6).quant(quant)));
  net.body = [=](Net&, const at::Tensor& x) { return fc->forward(x); };
  const at::Tensor x = torch::randn({50, 20}), w = fc->weight.detach().clone(), b = fc->bias.detach().clone();
  const std::vector<at::Tensor> samples{x.narrow(0, 0, 30), x.narrow(0, 30, 20)};
  ASSERT_TRUE(quantize_for_deployment(net, nn::forward_of(net), test::named(samples)).ok());
  const at::Tensor s = w.abs().mean().clamp_min(1e-5), t = (w / s).round().clamp(-1, 1);
  const at::Tensor a = x.abs().amax(1, true).clamp_min(1e-5) / 127, q = (x / a).round();
  const at::Tensor y = x.matmul(w.t()).to(at::kDouble), z = (q * a).matmul(t.t()).to(at::kDouble);
  const at::Tensor scale = (y * z).sum(0) / (z * z).sum(0);
  EXPECT_TRUE(torch::allclose(fc->quantizer.learned(ternary::Parameter::kScale).to(at::kDouble), scale, 1e-5, 1e-7));
  EXPECT_TRUE(torch::allclose(fc->bias.to(at::kDouble), b.to(at::kDouble) + (y - z * scale).mean(0), 1e-4, 1e-6));
  EXPECT_TRUE(torch::allclose(fc->weight, t * fc->quantizer.learned(ternary::Parameter::kScale).unsqueeze(1)));
  // Codes stay what they are, and training can go on.
  const auto codes = fc->quantizer.quantized(fc->weight.detach());
  EXPECT_TRUE(torch::equal(codes.t.to(at::kFloat), t));
  net.train();
  net.forward(x).sum().backward();
  EXPECT_TRUE(fc->weight.grad().defined() && fc->quantizer.learned(ternary::Parameter::kScale).grad().defined());
}

// The scale and the mean error by channel that make t of what the layer reads, [rows, K], its float product.
struct Best {
  at::Tensor scale, mean_error;
};
Best best_of(const at::Tensor& read, const at::Tensor& w, const at::Tensor& t) {
  const at::Tensor x = read.to(at::kDouble).flatten(0, -2);
  const at::Tensor y = x.matmul(w.to(at::kDouble).t()), z = x.matmul(t.to(at::kDouble).t());
  const at::Tensor scale = (y * z).sum(0) / (z * z).sum(0);
  return {scale, (y - z * scale).mean(0)};
}

// A recurrent layer's two products against the least squares of their definition; what the second one reads are the states of LibTorch's layer in float64.
template <class Ours, class Twin, class TwinOptions>
void fits_states(bool has_bias) {
  BitQuantConfig quant;
  quant.granularity = ternary::Granularity::kChannel;
  quant.activation = ternary::ActKind::kNone;
  Net net;
  auto rnn = net.register_module("rnn", Ours(nn::BitRecurrentOptions(6, 5).batch_first(true).bias(has_bias).quant(quant)));
  net.body = [=](Net&, const at::Tensor& x) { return std::get<0>(rnn->forward(x)); };
  std::map<std::string, at::Tensor> before;
  for (const auto& item : rnn->named_parameters()) before[item.key()] = item.value().detach().clone();
  const std::vector<at::Tensor> samples{torch::randn({7, 9, 6}), torch::randn({3, 4, 6})};
  const auto report = quantize_for_deployment(net, nn::forward_of(net), test::named(samples)).value();
  ASSERT_EQ(report.layers.size(), 2U);
  EXPECT_EQ(report.layers[0].name, "rnn.weight_ih_l0");
  EXPECT_EQ(report.layers[1].name, "rnn.weight_hh_l0");
  EXPECT_LE(report.output_error, report.output_error_encoded);
  const auto after = rnn->named_parameters();
  const auto codes = [&](const std::string& name) {
    const at::Tensor s = before[name].abs().mean(1, true).clamp_min(1e-5);
    return std::pair((before[name] / s).round().clamp(-1, 1), s);
  };
  const auto expect_fit = [&](const std::string& suffix, const Best& best, const at::Tensor& t) {
    const at::Tensor scale = after["weight_scale" + suffix].to(at::kDouble);
    EXPECT_TRUE(torch::allclose(scale, best.scale, 1e-4, 1e-6)) << suffix;
    EXPECT_TRUE(torch::allclose(after["weight" + suffix].to(at::kDouble), t * scale.unsqueeze(1), 1e-5, 1e-7)) << suffix;
    at::Tensor bias = best.mean_error;
    if (has_bias) bias = bias + before["bias" + suffix];
    EXPECT_TRUE(torch::allclose(after["bias" + suffix].to(at::kDouble), bias, 1e-4, 1e-5)) << suffix;
  };
  const auto [t_ih, s_ih] = codes("weight_ih_l0");
  const auto [t_hh, s_hh] = codes("weight_hh_l0");
  const at::Tensor read = torch::cat({samples[0].flatten(0, 1), samples[1].flatten(0, 1)});
  expect_fit("_ih_l0", best_of(read, before["weight_ih_l0"], t_ih), t_ih);
  if (report.layers[1].undone) return;
  Twin twin(TwinOptions(6, 5).batch_first(true));
  twin->to(at::kDouble);
  auto own = twin->named_parameters();
  const at::NoGradGuard no_grad;
  own["weight_ih_l0"].copy_(after["weight_ih_l0"]), own["bias_ih_l0"].copy_(after["bias_ih_l0"]);
  own["weight_hh_l0"].copy_(t_hh * s_hh), own["bias_hh_l0"].zero_();
  if (has_bias) own["bias_hh_l0"].copy_(before["bias_hh_l0"]);
  std::vector<at::Tensor> states;
  for (const at::Tensor& sample : samples) {
    const at::Tensor y = std::get<0>(twin->forward(sample.to(at::kDouble)));
    states.push_back(torch::zeros({y.size(0), 5}, at::kDouble));
    states.push_back(y.narrow(1, 0, y.size(1) - 1).flatten(0, 1));
  }
  expect_fit("_hh_l0", best_of(torch::cat(states), before["weight_hh_l0"], t_hh), t_hh);
}

TEST(PostTraining, FitsBothProductsOfARecurrentLayer) {
  for (const bool has_bias : {true, false}) {
    torch::manual_seed(3);
    fits_states<nn::BitLSTM, torch::nn::LSTM, torch::nn::LSTMOptions>(has_bias);
    fits_states<nn::BitGRU, torch::nn::GRU, torch::nn::GRUOptions>(has_bias);
  }
}

// Several layers in both directions, with static steps: nearer to the float network than as encoded, to the bit in the runtime, and in a clone.
template <class Layer>
void deploys_fitted_states(const BitQuantConfig& quant) {
  torch::manual_seed(4);
  Net net;
  auto rnn = net.register_module(
      "rnn", Layer(nn::BitRecurrentOptions(6, 16).num_layers(2).bidirectional(true).batch_first(true).quant(quant)));
  auto head = net.register_module("head", nn::BitLinear(nn::BitLinearOptions(32, 3).quant(quant)));
  net.body = [=](Net&, const at::Tensor& x) { return head->forward(std::get<0>(rnn->forward(x))); };
  const std::vector<at::Tensor> data{torch::randn({5, 8, 6}), torch::randn({2, 11, 6})};
  const auto forward = nn::forward_of(net);
  const auto report = quantize_for_deployment(net, forward, test::named(data)).value();
  ASSERT_EQ(report.layers.size(), 9U);
  const bool is_fit = is_ternary(*quant.method);
  for (const LayerFit& fit : report.layers) {
    EXPECT_EQ(fit.frozen, is_fit) << fit.name;
    EXPECT_EQ(fit.act_scale > 0, is_static(quant.activation)) << fit.name;
    EXPECT_LE(fit.error_after, fit.error_before + 1e-12) << fit.name;
  }
  EXPECT_EQ(report.layers[2].name, "rnn.weight_ih_l0_reverse");
  if (is_fit) {
    EXPECT_LT(report.output_error, report.output_error_encoded);
  } else {
    EXPECT_LT(report.output_error, 1e-3);
  }
  const auto program = capture(net, forward, data[0]).value();
  EXPECT_TRUE(check_parity(program, net, forward, data[0]).value().exact);
  const at::NoGradGuard no_grad;
  const auto copy = std::dynamic_pointer_cast<typename Layer::ContainedType>(rnn->clone());
  EXPECT_TRUE(torch::equal(std::get<0>(copy->forward(data[1])), std::get<0>(rnn->forward(data[1]))));
  const at::AutoGradMode grad(true);
  net.train();
  net.forward(data[0]).square().sum().backward();
  for (const auto& item : net.named_parameters()) EXPECT_TRUE(item.value().grad().defined()) << item.key();
}

TEST(PostTraining, FittedRecurrentLayersDeployTheirBits) {
  BitQuantConfig twn = static_int8();
  twn.method = ternary::Method::kTwn;
  for (const BitQuantConfig& quant : {static_int8(), twn, BitQuantConfig::int8()}) {
    SCOPED_TRACE(nn::describe(quant));
    deploys_fitted_states<nn::BitLSTM>(quant);
    deploys_fitted_states<nn::BitGRU>(quant);
  }
}

// Channels of x that are much larger than others: their range moves into the weight, the float network keeps its bits, and the quantized one comes
// nearer to it. What is deployed is what eval computes.
TEST(PostTraining, SmoothsChannels) {
  torch::manual_seed(7);
  const at::Tensor spread = torch::ones({32});
  spread[3] = 200, spread[17] = 50, spread[20] = 0;
  const at::Tensor x = torch::randn({40, 32}) * spread, image = (torch::randn({10, 32, 5, 6}) * spread.view({32, 1, 1}));
  std::vector<double> errors, conv_errors;
  for (const double smoothing : {0.0, 0.5}) {
    torch::manual_seed(8);
    BitQuantConfig quant = BitQuantConfig::int8();
    quant.smoothing = smoothing;
    Net net;
    auto fc = net.register_module("fc", nn::BitLinear(nn::BitLinearOptions(32, 6).quant(quant)));
    net.body = [=](Net&, const at::Tensor& v) { return fc->forward(v); };
    const at::Tensor before = fc->weight.detach().clone(), expected = at::linear(x, before, fc->bias).detach();
    const auto forward = nn::forward_of(net);
    ASSERT_TRUE(quantize_for_deployment(net, forward, test::named({x})).ok());
    const at::NoGradGuard no_grad;
    errors.push_back((net.forward(x) - expected).square().mean().item<double>());
    Net images;
    auto conv =
        images.register_module("conv", nn::BitConv2d(nn::BitConv2dOptions(32, 6, 3).groups(2).padding(1).quant(quant)));
    images.body = [=](Net&, const at::Tensor& v) { return conv->forward(v); };
    const at::Tensor y = at::conv2d(image, conv->weight, conv->bias, 1, 1, 1, 2);
    ASSERT_TRUE(quantize_for_deployment(images, nn::forward_of(images), test::named({image})).ok());
    conv_errors.push_back((images.forward(image) - y).square().mean().item<double>());
    const auto program = capture(net, forward, x);
    ASSERT_TRUE(program.ok()) << program.error().message;
    EXPECT_TRUE(check_parity(program.value(), net, forward, x).ok());
    if (smoothing == 0) continue;
    const at::Tensor factor = 1 / fc->quantizer.input_scale;
    EXPECT_TRUE(torch::equal(fc->weight, before * factor)) << "powers of two";
    const at::Tensor wanted = (x.abs().amax(0) / before.abs().amax(0)).sqrt();
    EXPECT_EQ(factor[20].item<float>(), 1.0F) << "a channel of zeros stays";
    for (int64_t c = 0; c < 32; ++c) {
      if (c == 20) continue;
      EXPECT_LE(std::abs(std::log2(factor[c].item<double>() / wanted[c].item<double>())), 0.5 + 1e-6) << c;
    }
    fc->quantizer.bypass(true);
    EXPECT_TRUE(torch::equal(net.forward(x), expected));
  }
  EXPECT_LT(errors[1], errors[0] / 4);
  EXPECT_LT(conv_errors[1], conv_errors[0] / 4);
}

TEST(PostTraining, LeavesGroupsTwoScalesAndInt8AsTheyAre) {
  torch::manual_seed(3);
  BitQuantConfig groups = BitQuantConfig::for_server(), two;
  groups.group_size = 64;
  two.method = ternary::Method::kTtq;
  for (const BitQuantConfig& quant : {groups, two, BitQuantConfig::int8()}) {
    Net net;
    auto fc = net.register_module("fc", nn::BitLinear(nn::BitLinearOptions(128, 6).quant(quant)));
    net.body = [=](Net&, const at::Tensor& x) { return fc->forward(x); };
    const at::Tensor x = torch::randn({5, 128}), before = fc->weight.detach().clone();
    const auto report = quantize_for_deployment(net, nn::forward_of(net), test::named({x})).value();
    EXPECT_FALSE(report.layers[0].frozen);
    EXPECT_TRUE(torch::equal(fc->weight, before));
    EXPECT_GT(report.bits_a_weight, quant.method == ternary::Method::kInt8 ? 8 : 2);
    EXPECT_LT(report.bits_a_weight, quant.method == ternary::Method::kInt8 ? 11 : 5);
  }
}

// Networks in which a layer or a BatchNorm has more than one part to play.
struct SharedNet : Net {
  nn::BitConv2d conv1{nullptr}, conv2{nullptr};
  torch::nn::BatchNorm2d norm1{nullptr}, norm2{nullptr};

  SharedNet() {
    BitQuantConfig quant;
    quant.granularity = ternary::Granularity::kChannel;
    for (auto [name, conv] : {std::pair("conv1", &conv1), std::pair("conv2", &conv2)})
      *conv = register_module(name, nn::BitConv2d(nn::BitConv2dOptions(6, 6, 3).padding(1).quant(quant)));
    for (auto [name, norm] : {std::pair("norm1", &norm1), std::pair("norm2", &norm2)}) {
      *norm = register_module(name, torch::nn::BatchNorm2d(6));
      (*norm)->running_mean.normal_();
      (*norm)->running_var.uniform_(0.2, 4);
      const at::NoGradGuard no_grad;
      (*norm)->weight.uniform_(0.5, 2);
      (*norm)->bias.normal_();
    }
    // Weights that are ternary already: what error there is comes from activations and from rewrites.
    const at::NoGradGuard no_grad;
    for (auto* conv : {&conv1, &conv2}) (*conv)->weight.copy_(torch::randint(-1, 2, {6, 6, 3, 3}) * 0.1);
    eval();
  }
};

TEST(PostTraining, FoldsWhereAllReadersAndWritersAreKnown) {
  using Body = std::function<at::Tensor(SharedNet&, const at::Tensor&)>;
  struct Case {
    const char* name;
    Body body;
    bool folds;
  };
  const Case cases[] = {
      {"a convolution shared by levels with a norm each",
       [](SharedNet& n, const at::Tensor& x) {
         return n.norm1(n.conv1(x)).mean({2, 3}) + n.norm2(n.conv1(at::avg_pool2d(x, {2, 2}))).mean({2, 3});
       },
       false},
      {"one norm behind two convolutions",
       [](SharedNet& n, const at::Tensor& x) { return n.norm1(n.conv1(x)) + n.norm1(n.conv2(x)); }, false},
      {"a convolution read by a norm and by cat",
       [](SharedNet& n, const at::Tensor& x) {
         const at::Tensor y = n.conv1(x);
         return at::cat({n.norm1(y), y}, 1);
       },
       false},
      {"a shared convolution with a norm behind its first use alone",
       [](SharedNet& n, const at::Tensor& x) { return n.conv1(at::relu(n.norm1(n.conv1(x)))); }, false},
      {"a norm whose weight is read elsewhere",
       [](SharedNet& n, const at::Tensor& x) {
         return n.norm1(n.conv1(x)) * n.norm1->weight.view({1, -1, 1, 1});
       },
       false},
      {"a norm and the output read a convolution's view",
       [](SharedNet& n, const at::Tensor& x) {
         const at::Tensor y = n.conv1(x);
         return n.norm1(y) + y.view({-1, 6, 8, 8});
       },
       false},
      {"a norm of its own",
       [](SharedNet& n, const at::Tensor& x) { return n.norm2(n.conv2(at::relu(n.norm1(n.conv1(x))))); }, true},
  };
  for (const Case& c : cases) {
    double errors[2];
    for (const bool fold : {false, true}) {
      torch::manual_seed(11);
      SharedNet net;
      const auto forward = [&](const at::Tensor& v) { return c.body(net, v); };
      const std::vector<at::Tensor> data{torch::randn({4, 6, 8, 8}), torch::randn({4, 6, 8, 8})};
      const auto with_float_weights = [&] {
        for (auto* conv : {&net.conv1, &net.conv2}) (*conv)->quantizer.bypass(true);
        const at::NoGradGuard no_grad;
        const at::Tensor y = forward(data[1]);
        for (auto* conv : {&net.conv1, &net.conv2}) (*conv)->quantizer.bypass(false);
        return y;
      };
      const at::Tensor wanted = with_float_weights();
      const auto report =
          quantize_for_deployment(net, nn::forward_of(forward), test::named(data), {.fold_batch_norm = fold}).value();
      const at::NoGradGuard no_grad;
      const at::Tensor found = forward(data[1]);
      errors[fold] = ((found - wanted).square().sum() / wanted.square().sum()).item<double>();
      EXPECT_LT(errors[fold], 2e-3) << c.name << (fold ? " folded" : "");
      EXPECT_NEAR(report.output_error, errors[fold], 0.5 * errors[fold] + 1e-6) << "one of two samples: " << c.name;
      for (const LayerFit& layer : report.layers) EXPECT_EQ(layer.folded, fold && c.folds) << c.name << " " << layer.name;
      const auto program = capture(net, nn::forward_of(forward), data[0]);
      ASSERT_TRUE(program.ok()) << program.error().message;
      EXPECT_TRUE(check_parity(*program, net, nn::forward_of(forward), data[0]).ok());
    }
    EXPECT_EQ(errors[0] == errors[1], !c.folds) << c.name;
  }
}

// Layers that only training uses are left as they are, and named; samples stay what they were.
TEST(PostTraining, LeavesLayersThatNoSampleReaches) {
  torch::manual_seed(12);
  Net net;
  auto fc = net.register_module("fc", nn::BitLinear(4, 3)), aux = net.register_module("aux", nn::BitLinear(4, 2));
  net.body = [=](Net& self, at::Tensor x) {
    const at::Tensor y = fc->forward(x.mul_(2));
    return self.is_training() ? y + aux->forward(x).sum() : y;
  };
  const at::Tensor x = torch::randn({5, 4}), before = x.clone(), weight = aux->weight.detach().clone();
  const auto report = quantize_for_deployment(net, nn::forward_of(net), test::named({x})).value();
  ASSERT_EQ(report.layers.size(), 1U);
  EXPECT_EQ(report.layers[0].name, "fc");
  EXPECT_EQ(report.unread, std::vector<std::string>{"aux"});
  EXPECT_TRUE(torch::equal(aux->weight, weight));
  EXPECT_TRUE(torch::equal(x, before));
}

// Errors of the whole network, layer by layer, against the float network.
TEST(PostTraining, ReportsTheNetworksOutputs) {
  torch::manual_seed(13);
  ConvNet<torch::nn::BatchNorm2d> net(static_int8());
  const auto data = samples();
  const auto forward = nn::forward_of(net);
  const auto report = quantize_for_deployment(net, forward, test::named(data)).value();
  EXPECT_EQ(report.layers[0].output_error_before, report.output_error_encoded);
  for (size_t i = 1; i < report.layers.size(); ++i)
    EXPECT_EQ(report.layers[i].output_error_before, report.layers[i - 1].output_error_after);
  EXPECT_EQ(report.layers.back().output_error_after, report.output_error);
  EXPECT_LT(report.output_error, report.output_error_encoded);
}

// The difference of two layers that are nearly the same: their errors cancel until one of them is better alone. With both fits undone the network is what its
// encoder made.
TEST(PostTraining, UndoesFitsThatMakeTheOutputsWorse) {
  torch::manual_seed(3);
  Net net;
  nn::BitLinear one = net.register_module("one", nn::BitLinear(32, 4));
  nn::BitLinear other = net.register_module("other", nn::BitLinear(32, 4));
  net.body = [=](Net&, const at::Tensor& x) mutable { return one(x) - other(x); };
  net.eval();
  const at::NoGradGuard no_grad;
  other->weight.copy_(one->weight + 1e-3 * torch::randn({4, 32}));
  if (one->bias.defined()) other->bias.copy_(one->bias);
  const at::Tensor x = torch::randn({256, 32}), encoded = net.forward(x);
  const auto report = quantize_for_deployment(net, nn::forward_of(net), test::named({x})).value();
  ASSERT_EQ(report.layers.size(), 2U);
  for (const LayerFit& fit : report.layers) {
    EXPECT_TRUE(fit.undone && fit.frozen) << fit.name;
    EXPECT_EQ(fit.error_after, fit.error_before) << fit.name;
    EXPECT_DOUBLE_EQ(fit.output_error_after, report.output_error_encoded) << fit.name;
  }
  EXPECT_DOUBLE_EQ(report.output_error, report.output_error_encoded);
  EXPECT_TRUE(torch::equal(net.forward(x), encoded));
}

TEST(PostTraining, RefusesWhatItCannotFit) {
  Net net;
  auto used = net.register_module("used", nn::BitLinear(4, 4));
  net.body = [=](Net&, const at::Tensor& x) { return used->forward(x); };
  const auto forward = nn::forward_of(net);
  EXPECT_EQ(quantize_for_deployment(net, forward, {}).error().message, "[post_training] samples, got none");
  const at::Tensor wrong = torch::randn({2, 3}), x = torch::randn({2, 4});
  EXPECT_EQ(quantize_for_deployment(net, forward, test::named({wrong})).error().code, ErrorCode::kInvalidArgument);
  Net idle;
  idle.register_module("unused", nn::BitLinear(4, 4));
  idle.body = [](Net&, const at::Tensor& v) { return at::relu(v); };
  EXPECT_EQ(quantize_for_deployment(idle, nn::forward_of(idle), test::named({x})).error().message,
            "[post_training] samples that reach a ternary layer, got 1 that reach none");
  torch::nn::Linear plain(4, 4);
  EXPECT_EQ(quantize_for_deployment(*plain, nn::forward_of(*plain), test::named({x})).error().message,
            "[post_training] a module with ternary layers, got none");
}

}  // namespace
}  // namespace bitlab::deploy
