// Recurrent layers beyond their twins without quantization: values and gradients against LibTorch's layers and operators in float64, states, names, errors.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_recurrent.h"
#include "bitlab/nn/test_support.h"
#include "bitlab/ops/ops.h"

namespace bitlab::nn {
namespace {

namespace t = torch::nn;

BitQuantConfig by_channel(ternary::ActKind activation) {
  BitQuantConfig quant;
  quant.granularity = ternary::Granularity::kChannel;
  quant.activation = activation;
  return quant;
}

// What a layer gives, as one list: the output, then h and, of an LSTM, c.
using Tensors = std::vector<at::Tensor>;
Tensors outputs_of(BitLSTM& layer, const at::Tensor& x, const at::Tensor& h, const at::Tensor& c) {
  const auto [y, last] = h.defined() ? layer->forward(x, std::tuple(h, c)) : layer->forward(x);
  return {y, std::get<0>(last), std::get<1>(last)};
}
Tensors outputs_of(t::LSTM& layer, const at::Tensor& x, const at::Tensor& h, const at::Tensor& c) {
  const auto [y, last] = layer->forward(x, std::tuple(h, c));
  return {y, std::get<0>(last), std::get<1>(last)};
}
template <class Gru>
Tensors outputs_of(Gru& layer, const at::Tensor& x, const at::Tensor& h, const at::Tensor&) {
  const auto [y, last] = layer->forward(x, h);
  return {y, last};
}

// A sum that every value of the outputs enters in another way.
at::Tensor loss_of(const Tensors& outputs) {
  at::Tensor loss = torch::zeros({}, outputs[0].options());
  double factor = 1;
  for (const at::Tensor& y : outputs) loss = loss + ((y + 0.3) * y).sum() * (factor += 0.5);
  return loss;
}

template <class Ours, class Twin, class TwinOptions>
void expect_twin_of_quantized_weights(bool has_bias) {
  const BitQuantConfig quant = by_channel(ternary::ActKind::kNone);
  Ours ours(BitRecurrentOptions(5, 7).num_layers(2).bidirectional(true).bias(has_bias).quant(quant));
  Twin twin(TwinOptions(5, 7).num_layers(2).bidirectional(true).bias(has_bias));
  twin->to(at::kDouble);
  {
    const at::NoGradGuard no_grad;
    for (auto& item : twin->named_parameters()) {
      const at::Tensor own = ours->named_parameters()[item.key()];
      item.value().copy_(own.dim() == 2 ? ops::bit_weight(own, {quant.weight_spec(), {}}) : own);
    }
  }
  const auto leaf = [](std::vector<int64_t> shape) { return torch::randn(shape, torch::requires_grad()); };
  Tensors inputs{leaf({4, 3, 5}), leaf({4, 3, 7}), leaf({4, 3, 7})}, theirs;
  for (const at::Tensor& input : inputs) theirs.push_back(input.detach().to(at::kDouble).requires_grad_());
  const Tensors found = outputs_of(ours, inputs[0], inputs[1], inputs[2]);
  const Tensors expected = outputs_of(twin, theirs[0], theirs[1], theirs[2]);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_TRUE(torch::allclose(found[i].to(at::kDouble), expected[i], 1e-5, 1e-6)) << i;
  loss_of(found).backward();
  loss_of(expected).backward();
  for (size_t i = 0; i < inputs.size() && theirs[i].grad().defined(); ++i)
    EXPECT_TRUE(torch::allclose(inputs[i].grad().to(at::kDouble), theirs[i].grad(), 1e-4, 1e-5)) << i;
  for (const auto& item : twin->named_parameters())  // straight through the quantized weights
    EXPECT_TRUE(
        torch::allclose(ours->named_parameters()[item.key()].grad().to(at::kDouble), item.value().grad(), 1e-4, 1e-5))
        << item.key();
}

TEST(Recurrent, WithFloatActivationsItIsLibTorchsLayerOfTheQuantizedWeights) {
  torch::manual_seed(11);
  for (const bool has_bias : {true, false}) {
    expect_twin_of_quantized_weights<BitLSTM, t::LSTM, t::LSTMOptions>(has_bias);
    expect_twin_of_quantized_weights<BitGRU, t::GRU, t::GRUOptions>(has_bias);
  }
}

// The value of `value`, the gradient of `surrogate`.
at::Tensor instead_of(const at::Tensor& value, const at::Tensor& surrogate) {
  return surrogate + (value - surrogate).detach();
}
at::Tensor rounded_by_token(const at::Tensor& x) {
  const at::Tensor inv = 127 / x.detach().abs().amax(-1, true).clamp_min(1e-5);
  return instead_of((x.detach() * inv).round() / inv, x);
}

// One direction as PyTorch's documentation writes it.
at::Tensor by_the_formula(ops::RecurrentCell cell, const std::map<std::string, at::Tensor>& p, const at::Tensor& x) {
  using at::sigmoid, at::tanh;
  const auto weight = [&](const char* name) {
    const at::Tensor w = p.at(name), s = w.detach().abs().mean(1, true).clamp_min(1e-5);
    return instead_of((w.detach() / s).round().clamp(-1, 1) * s, w);
  };
  const at::Tensor w_ih = weight("weight_ih_l0"), w_hh = weight("weight_hh_l0");
  at::Tensor h = torch::zeros({x.size(1), w_hh.size(1)}, x.options()), c = h;
  Tensors outputs;
  for (const at::Tensor& step : x.unbind(0)) {
    const auto a = (rounded_by_token(step).matmul(w_ih.t()) + p.at("bias_ih_l0")).chunk(gates_of(cell), 1);
    const auto b = (rounded_by_token(h).matmul(w_hh.t()) + p.at("bias_hh_l0")).chunk(gates_of(cell), 1);
    if (cell == ops::RecurrentCell::kLstm) {
      c = sigmoid(a[1] + b[1]) * c + sigmoid(a[0] + b[0]) * tanh(a[2] + b[2]);
      h = sigmoid(a[3] + b[3]) * tanh(c);
    } else {
      const at::Tensor z = sigmoid(a[1] + b[1]), n = tanh(a[2] + sigmoid(a[0] + b[0]) * b[2]);
      h = (1 - z) * n + z * h;
    }
    outputs.push_back(h);
  }
  return torch::stack(outputs);
}

template <class Layer>
void expect_formula() {
  Layer layer(BitRecurrentOptions(6, 5).quant(by_channel(ternary::ActKind::kInt8)));
  const at::Tensor x = torch::randn({4, 3, 6}, torch::requires_grad()), z = x.detach().to(at::kDouble).requires_grad_();
  std::map<std::string, at::Tensor> parameters;
  for (const auto& item : layer->named_parameters())
    parameters[item.key()] = item.value().detach().to(at::kDouble).requires_grad_();
  const at::Tensor y = outputs_of(layer, x, {}, {})[0];
  const at::Tensor expected = by_the_formula(Layer::ContainedType::kCell, parameters, z);
  EXPECT_TRUE(torch::allclose(y.to(at::kDouble), expected, 1e-5, 1e-6)) << (y - expected).abs().max();
  loss_of({y}).backward();
  loss_of({expected}).backward();
  EXPECT_TRUE(torch::allclose(x.grad().to(at::kDouble), z.grad(), 1e-4, 1e-5));
  for (const auto& item : layer->named_parameters())
    EXPECT_TRUE(torch::allclose(item.value().grad().to(at::kDouble), parameters.at(item.key()).grad(), 1e-4, 1e-5))
        << item.key();
}

TEST(Recurrent, ValuesAndGradientsAreThoseOfTheFormula) {
  torch::manual_seed(12);
  expect_formula<BitLSTM>();
  expect_formula<BitGRU>();
}

template <class Layer>
void expect_same(const Tensors& a, const Tensors& b, const char* what) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << Layer::ContainedType::kName << what << i;
}

template <class Layer>
void expect_forms() {
  const auto options = BitRecurrentOptions(6, 17).num_layers(2).bidirectional(true);
  Layer layer(options), first(BitRecurrentOptions(options).batch_first(true));
  const at::Tensor x = torch::randn({5, 3, 6}), h = torch::randn({4, 3, 17}), c = torch::randn({4, 3, 17});
  for (const auto& item : layer->named_parameters())
    first->named_parameters()[item.key()].data().copy_(item.value().detach());
  const Tensors trained = outputs_of(layer, x, h, c);
  const at::NoGradGuard no_grad;
  for (Layer* either : {&layer, &first}) (*either)->eval();
  const Tensors found = outputs_of(layer, x, h, c);
  expect_same<Layer>(found, trained, " in training ");
  const at::Tensor zeros = torch::zeros_like(h);
  expect_same<Layer>(outputs_of(layer, x, {}, {}), outputs_of(layer, x, zeros, zeros), " without states ");
  Tensors turned = outputs_of(first, x.transpose(0, 1), h, c);
  turned[0] = turned[0].transpose(0, 1);
  expect_same<Layer>(turned, found, " batch first ");
  for (int64_t b = 0; b < 3; ++b) {  // a sample alone
    Tensors expected = found;
    for (at::Tensor& y : expected) y = y.select(1, b);
    expect_same<Layer>(outputs_of(layer, x.select(1, b), h.select(1, b), c.select(1, b)), expected, " unbatched ");
  }
  const int threads = at::get_num_threads();
  at::set_num_threads(3);
  expect_same<Layer>(outputs_of(layer, x, h, c), found, " threads ");
  at::set_num_threads(threads);
  EXPECT_EQ(outputs_of(layer, x.narrow(1, 0, 0), h.narrow(1, 0, 0), c.narrow(1, 0, 0))[0].sizes(),
            (std::vector<int64_t>{5, 0, 34}));
}

TEST(Recurrent, EveryFormGivesTheSameBits) {
  torch::manual_seed(13);
  expect_forms<BitLSTM>();
  expect_forms<BitGRU>();
}

TEST(Recurrent, StateHasTheNamesOfPyTorchAndTheQuantizers) {
  BitQuantConfig quant = by_channel(ternary::ActKind::kInt4Static);
  quant.method = ternary::Method::kLsq;
  quant.smoothing = 0.5;
  BitGRU layer(BitGRUOptions(6, 5).bidirectional(true).quant(quant));
  std::set<std::string> found, expected;
  for (const auto& item : layer->named_parameters()) found.insert(item.key());
  for (const auto& item : layer->named_buffers()) found.insert(item.key());
  for (const char* name : {"weight", "bias", "weight_scale", "act_scale", "blend"})
    for (const char* of : {"_ih_l0", "_hh_l0", "_ih_l0_reverse", "_hh_l0_reverse"}) expected.insert(std::string(name) + of);
  EXPECT_EQ(found, expected);
  EXPECT_EQ(layer->named_parameters()["act_scale_hh_l0"].item<float>(), 1.0F / 7);
  EXPECT_EQ(layer->named_parameters()["act_scale_ih_l0"].item<float>(), 0.0F);
  layer->forward(torch::randn({3, 2, 6}));
  EXPECT_GT(layer->named_parameters()["act_scale_ih_l0_reverse"].item<float>(), 0.0F);
}

// With a blend of 0 training computes in float; eval is ternary.
TEST(Recurrent, WarmsUpFromFloat) {
  torch::manual_seed(14);
  BitLSTM layer(5, 7);
  t::LSTM twin(5, 7);
  set_blend(*layer, 0);
  for (auto& item : twin->named_parameters()) item.value().data().copy_(layer->named_parameters()[item.key()].detach());
  const at::Tensor x = torch::randn({4, 2, 5}), h = torch::zeros({1, 2, 7});
  EXPECT_TRUE(torch::allclose(outputs_of(layer, x, {}, {})[0], outputs_of(twin, x, h, h)[0], 1e-5, 1e-6));
  layer->eval();
  EXPECT_FALSE(torch::allclose(outputs_of(layer, x, {}, {})[0], outputs_of(twin, x, h, h)[0], 1e-3, 1e-3));
}

// Without quantization, packed or not: LibTorch's layer in float64; and what the steps multiplied, sample by sample.
template <class Twin, class TwinOptions>
void expect_float_recurrence(ops::RecurrentCell cell, bool reverse) {
  Twin twin(TwinOptions(5, 4).batch_first(true).bidirectional(true));
  twin->to(at::kDouble);
  const std::string way = reverse ? "_reverse" : "";
  const auto parameter = [&](const std::string& name) { return twin->named_parameters()[name + "_l0" + way].detach(); };
  const std::vector<int64_t> lengths{6, 4, 4, 1};
  std::vector<at::Tensor> samples, gates, multiplied;
  std::vector<ops::RecurrentStates> alone;
  const at::Tensor w = parameter("weight_hh").to(at::kFloat), b = parameter("bias_hh").to(at::kFloat);
  for (const int64_t length : lengths) {
    const at::Tensor x = torch::randn({1, length, 5}, at::kDouble), zeros = torch::zeros({2, 1, 4}, at::kDouble);
    gates.push_back((x.matmul(parameter("weight_ih").t()) + parameter("bias_ih")).to(at::kFloat));
    const ops::RecurrentInputs inputs{cell, gates.back(), {}, {}, reverse};
    alone.push_back(ops::float_recurrent(inputs, w, b));
    const at::Tensor y = outputs_of(twin, x, zeros, zeros)[0].narrow(2, reverse ? 4 : 0, 4);
    EXPECT_TRUE(torch::allclose(alone.back().y.to(at::kDouble), y, 1e-5, 1e-6));
    multiplied.push_back(ops::multiplied_states(inputs, alone.back()));
    const at::Tensor read = torch::cat({torch::zeros({1, 4}, at::kDouble), y[0].narrow(0, reverse ? 1 : 0, length - 1)});
    EXPECT_TRUE(torch::allclose(multiplied.back().to(at::kDouble), read, 1e-5, 1e-6));
  }
  std::vector<at::Tensor> rows, sizes;
  for (int64_t t = 0; t < lengths[0]; ++t) {
    int64_t batch = 0;
    for (size_t i = 0; i < lengths.size() && lengths[i] > t; ++i, ++batch) rows.push_back(gates[i].select(1, t));
    sizes.push_back(torch::tensor(batch));
  }
  const ops::RecurrentInputs packed{cell, torch::cat(rows), {}, {}, reverse, torch::stack(sizes)};
  const ops::RecurrentStates together = ops::float_recurrent(packed, w, b);
  int64_t row = 0;
  for (int64_t t = 0; t < lengths[0]; ++t)
    for (size_t i = 0; i < lengths.size() && lengths[i] > t; ++i)
      EXPECT_TRUE(torch::allclose(together.y[row++], alone[i].y[0][t], 1e-6, 1e-7)) << t << ' ' << i;
  const auto sorted = [](const at::Tensor& states) { return std::get<0>(states.sum(1).sort()); };
  EXPECT_TRUE(torch::allclose(sorted(ops::multiplied_states(packed, together)), sorted(torch::cat(multiplied)), 1e-5, 1e-6));
}

TEST(Recurrent, WithoutQuantizationItIsLibTorchs) {
  torch::manual_seed(15);
  for (const bool reverse : {false, true}) {
    expect_float_recurrence<t::LSTM, t::LSTMOptions>(ops::RecurrentCell::kLstm, reverse);
    expect_float_recurrence<t::GRU, t::GRUOptions>(ops::RecurrentCell::kGru, reverse);
  }
}

TEST(Recurrent, SaysWhatItWants) {
  const at::Tensor x = torch::randn({4, 2, 5});
  EXPECT_EQ(message_of([] { BitLSTM(BitLSTMOptions(5, 0)); }), "[BitLSTM] sizes and layers from 1, got 5, 0 and 1");
  EXPECT_EQ(message_of([] { BitGRU(BitGRUOptions(5, 3).dropout(1.5)); }), "[BitGRU] a dropout from 0 to 1, got 1.5");
  BitLSTM lstm(5, 7);
  EXPECT_EQ(message_of([&] { lstm->forward(torch::randn({4, 2, 6})); }), "[BitLSTM] x [T, B, 5] or [T, 5], got [4, 2, 6]");
  EXPECT_EQ(message_of([&] { lstm->forward(x.narrow(0, 0, 0)); }), "[BitLSTM] at least one token, got [0, 2, 5]");
  EXPECT_EQ(message_of([&] {
              lstm->forward(x, std::tuple(torch::zeros({2, 7}), torch::zeros({1, 2, 7})));
            }),
            "[BitLSTM] states [1, 2, 7], got [2, 7]");
  lstm->eval();
  const at::NoGradGuard no_grad;
  EXPECT_EQ(message_of([&] {
              lstm->forward(x, std::tuple(torch::full({1, 2, 7}, NAN), torch::zeros({1, 2, 7})));
            }),
            "[ternary_recurrent] finite input, got NaN or infinity (row=1)");
  const ops::WeightQuant quant;
  const auto refused = [&](const ops::RecurrentInputs& inputs, const at::Tensor& weight) {
    return message_of([&] { ops::bit_recurrent(inputs, weight, std::nullopt, quant, {}); });
  };
  const at::Tensor gates = torch::randn({2, 3, 12});
  EXPECT_EQ(refused({ops::RecurrentCell::kLstm, gates}, torch::randn({12, 4})),
            "[bit_recurrent] a weight [4 H, H], got [12, 4]");
  EXPECT_EQ(refused({ops::RecurrentCell::kGru, gates, {}, torch::zeros({2, 4})}, torch::randn({12, 4})),
            "[ternary_recurrent] no c0 of a gru, got one");
  EXPECT_EQ(refused({ops::RecurrentCell::kGru, gates, torch::zeros({3, 4})}, torch::randn({12, 4})),
            "[ternary_recurrent] h0 [2, 4], got [3, 4]");
}

}  // namespace
}  // namespace bitlab::nn
