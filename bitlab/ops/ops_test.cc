// The operators against the scalar oracle (bits) and against straight-through gradients of LibTorch in float64.
#include "bitlab/ops/ops.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/ops/internal/product.h"
#include "bitlab/ops/test_support.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::ops {
namespace {

using ternary::ActKind;
using ternary::Granularity;
using ternary::Method;
using ternary::WeightSpec;
using test::same_bits;

constexpr ActKind kQuantizing[] = {ActKind::kInt8, ActKind::kInt4, ActKind::kInt8Static, ActKind::kInt4Static};

// Every method with every granularity that it has, 2:4 sparse and drawn at random where it can be; `group` is that of grouped ones.
std::vector<WeightSpec> specs(bool grouped) {
  std::vector<WeightSpec> list;
  for (size_t m = 0; m < ternary::method_list().size(); ++m)
    for (Granularity granularity : {Granularity::kTensor, Granularity::kChannel, Granularity::kGroup}) {
      const WeightSpec spec{.method = static_cast<Method>(m), .granularity = granularity, .group = 64};
      if (!validate(spec).ok() || (granularity == Granularity::kGroup && !grouped)) continue;
      list.push_back(spec);
      WeightSpec sparse = spec, random = spec;
      sparse.sparsity = ternary::Sparsity::k2of4;
      if (validate(sparse).ok()) list.push_back(sparse);
      random.rounding = ternary::Rounding::kStochastic, random.draw = 77;
      if (validate(random).ok()) list.push_back(random);
    }
  return list;
}

template <class T>
std::vector<T> values(const at::Tensor& tensor) {
  const at::Tensor plain = tensor.contiguous();
  return {plain.const_data_ptr<T>(), plain.const_data_ptr<T>() + plain.numel()};
}

at::Tensor tensor_of(std::vector<float> data, at::IntArrayRef sizes) { return torch::tensor(data).reshape(sizes); }

std::vector<float> bias_values(const std::optional<at::Tensor>& bias) {
  return bias ? values<float>(*bias) : std::vector<float>();
}

template <class Call>
ErrorCode code_of(Call call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.code();
  }
  ADD_FAILURE() << "expected an error";
  return ErrorCode::kInternal;
}

// A spec with learned scales for a weight of that many rows, where it has some.
WeightQuant quant_of(const WeightSpec& spec, int64_t rows) {
  const int64_t scales = spec.granularity == Granularity::kTensor ? 1 : rows;
  WeightQuant quant{spec, {}};
  for (size_t i = 0; i < info(spec.method).learned.size(); ++i) quant.learned.push_back(torch::rand({scales}) + 0.5);
  return quant;
}

ActQuant act_of(ActKind kind, double step = 0.043) {
  return {kind, is_static(kind) ? torch::full({1}, step, at::kFloat) : at::Tensor()};
}

ternary::oracle::Activation oracle_activation(const ActQuant& act) {
  return {static_cast<float>(act_limit(act.kind)), act.act_scale.defined() ? act.act_scale.item<float>() : 0.0F};
}

// Keeps what an oracle's weight points to.
struct OracleWeight {
  std::vector<int8_t> t;
  std::vector<float> scale, scale_neg, bias;
  ternary::oracle::Weight view;

  // `matrix`: t as [rows, K], canonical.
  OracleWeight(const QuantizedWeight& w, const at::Tensor& matrix, const std::optional<at::Tensor>& bias_,
               const WeightSpec& spec)
      : t(values<int8_t>(matrix)), scale(values<float>(w.scale)), bias(bias_values(bias_)) {
    if (w.scale_neg.defined()) scale_neg = values<float>(w.scale_neg);
    view = {t, scale, scale_neg, spec.granularity == Granularity::kGroup ? spec.group : 0, bias};
  }
};

at::Tensor oracle_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const WeightQuant& quant, const ActQuant& act) {
  const QuantizedWeight w = quantize_weight(weight, quant);
  const OracleWeight layer(w, w.t, bias, quant.spec);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return tensor_of(ternary::oracle::linear(values<float>(x), x.numel() / x.size(-1), layer.view, weight.size(0),
                                           weight.size(1), oracle_activation(act)),
                   shape);
}

TEST(Linear, BothFamiliesEqualTheOracle) {
  torch::manual_seed(1);
  const std::vector<std::vector<int64_t>> shapes = {{1, 1}, {3, 7}, {64, 65}, {2, 5, 33}, {2, 1, 3, 300}, {500}};
  int i = 0;
  for (const WeightSpec& spec : specs(true))
    for (ActKind kind : kQuantizing)
      for (const auto& shape : shapes) {
        const at::Tensor x = torch::randn(shape) * 3, weight = torch::randn({13, shape.back()});
        const std::optional<at::Tensor> bias = i++ % 2 == 0 ? std::optional(torch::randn({13})) : std::nullopt;
        const WeightQuant quant = quant_of(spec, 13);
        const ActQuant act = act_of(kind);
        const at::Tensor expected = oracle_linear(x, weight, bias, quant, act);
        EXPECT_TRUE(same_bits(ternary_linear(x, ternary_pack(weight, quant), bias, act), expected))
            << to_text(spec) << name(kind);
        const at::Tensor trained = bit_linear(x, weight, bias, quant, act);
        if (spec.granularity == Granularity::kGroup) {
          EXPECT_TRUE(torch::allclose(trained, expected, 1e-4, 1e-4)) << to_text(spec);
        } else {
          EXPECT_TRUE(same_bits(trained, expected)) << to_text(spec) << name(kind);
        }
      }
}

TEST(Linear, FloatActivationsAreWithinRounding) {
  torch::manual_seed(11);
  for (const WeightSpec& spec : specs(false)) {
    if (info(spec.method).asymmetric || !is_ternary(spec.method)) continue;
    const at::Tensor x = torch::randn({5, 3, 77}), weight = torch::randn({9, 77}), bias = torch::randn({9});
    const WeightQuant quant = quant_of(spec, 9);
    const ActQuant act{ActKind::kNone, {}};
    const QuantizedWeight w = quantize_weight(weight, quant);
    const at::Tensor value = w.t.to(at::kDouble) * w.scale.to(at::kDouble).view({-1, 1});
    const at::Tensor expected = at::linear(x.to(at::kDouble), value, bias.to(at::kDouble)).to(at::kFloat);
    EXPECT_TRUE(torch::allclose(ternary_linear(x, ternary_pack(weight, quant), bias, act), expected, 1e-4, 1e-4));
    EXPECT_TRUE(torch::allclose(bit_linear(x, weight, bias, quant, act), expected, 1e-4, 1e-4));
  }
}

// 127 K beyond 2^24, where float32 sums would round.
TEST(Linear, DeepWorstCaseIsExact) {
  const int64_t depth = 140'001;
  const at::Tensor x = torch::ones({2, depth}) * 0.75, weight = torch::ones({3, depth});
  const at::Tensor expected = oracle_linear(x, weight, {}, {}, {});
  EXPECT_TRUE(same_bits(bit_linear(x, weight, {}, {}, {}), expected));
  EXPECT_TRUE(same_bits(ternary_linear(x, ternary_pack(weight, {}), {}, {}), expected));
}

// The deepest layer in int8 that int32 sums hold, at the largest weights and activations.
TEST(Linear, DeepestInt8IsExact) {
  const WeightQuant quant{{.method = Method::kInt8, .granularity = Granularity::kChannel}, {}};
  const at::Tensor x = torch::ones({2, ternary::kMaxInt8Depth}) * 0.75;
  at::Tensor weight = torch::ones({3, ternary::kMaxInt8Depth});
  weight[1].mul_(-2);
  weight[2].slice(0, 1, {}, 2).mul_(-1);
  const at::Tensor expected = oracle_linear(x, weight, {}, quant, {});
  EXPECT_TRUE(same_bits(bit_linear(x, weight, {}, quant, {}), expected));
  EXPECT_TRUE(same_bits(ternary_linear(x, ternary_pack(weight, quant), {}, {}), expected));
  try {
    ternary_pack(torch::ones({1, ternary::kMaxInt8Depth + 1}), quant);
    ADD_FAILURE() << "expected an error";
  } catch (const Exception& error) {
    EXPECT_STREQ(error.what(), "[ternary_pack] K of at most 131072 for int8, got 131073");
  }
}

struct ConvCase {
  int64_t batch, channels, filters;
  std::vector<int64_t> input, kernel;
  ConvWindow window;
};
const std::vector<ConvCase>& conv_cases() {
  static const std::vector<ConvCase> cases = {
      {1, 1, 20, {28, 28}, {5, 5}, {{1, 1}, {0, 0}, {1, 1}}},
      {3, 3, 17, {9, 7}, {3, 2}, {{2, 1}, {1, 3}, {1, 2}}},
      {2, 65, 3, {1, 1}, {1, 1}, {{1, 1}, {0, 0}, {1, 1}}},
      {2, 12, 18, {9, 9}, {3, 3}, {{1, 1}, {1, 1}, {1, 1}, false, {}, 3}},
      {2, 7, 7, {9, 8}, {3, 3}, {{2, 1}, {1, 1}, {1, 1}, false, {}, 7}},  // depthwise
      {2, 5, 6, {40}, {7}, {{2}, {3}, {2}}},
      {1, 4, 6, {5, 6, 7}, {3, 2, 3}, {{2, 1, 1}, {1, 0, 1}, {1, 2, 1}}},
      {2, 6, 9, {6, 5}, {4, 3}, {{2, 3}, {1, 1}, {1, 1}, true, {1, 2}, 3}},
      {1, 8, 4, {20}, {3}, {{2}, {1}, {1}, true, {1}, 1}},
  };
  return cases;
}

std::vector<int64_t> concat(std::vector<int64_t> a, const std::vector<int64_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

at::Tensor random_weight(const ConvCase& c) {
  const int64_t g = c.window.groups;
  return torch::randn(concat(c.window.transposed ? std::vector<int64_t>{c.channels, c.filters / g}
                                                 : std::vector<int64_t>{c.filters, c.channels / g},
                             c.kernel));
}

// t as [N, K], K over (kernel..., c): by a loop over the groups.
at::Tensor matrix_of(const at::Tensor& t, const ConvCase& c) {
  if (!c.window.transposed) return t.movedim(1, -1).reshape({c.filters, -1});
  std::vector<at::Tensor> rows;
  for (const at::Tensor& group : t.chunk(c.window.groups, 0))
    for (int64_t n = 0; n < group.size(1); ++n) rows.push_back(group.select(1, n).movedim(0, -1).flatten());
  return torch::stack(rows);
}

TEST(Conv, FloatActivationsAreWithinRounding) {
  torch::manual_seed(12);
  const ActQuant act{ActKind::kNone, {}};
  for (const WeightSpec& spec : specs(false)) {
    if (info(spec.method).asymmetric || !is_ternary(spec.method)) continue;
    for (const ConvCase& c : conv_cases()) {
      const at::Tensor x = torch::randn(concat({c.batch, c.channels}, c.input)), weight = random_weight(c),
                       bias = torch::randn({c.filters});
      const WeightQuant quant = quant_of(spec, c.filters);
      const QuantizedWeight w = quantize_weight(weight, quant, &c.window);
      const ConvWindow& win = c.window;
      const std::vector<int64_t> no_padding(c.kernel.size(), 0);
      at::Tensor expected =
          at::convolution(x.to(at::kDouble), w.t.to(at::kDouble), {}, win.stride, win.padding, win.dilation, win.transposed,
                          win.output_padding.empty() ? no_padding : win.output_padding, win.groups);
      std::vector<int64_t> channel(c.kernel.size() + 1, 1);
      channel[0] = -1;
      expected = (expected * w.scale.to(at::kDouble).view(channel) + bias.to(at::kDouble).view(channel)).to(at::kFloat);
      const at::Tensor found = ternary_conv(x, ternary_pack(weight, quant, &win), bias, c.kernel, win, act);
      EXPECT_TRUE(torch::allclose(found, expected, 1e-4, 1e-4)) << to_text(spec);
      EXPECT_TRUE(torch::allclose(bit_conv(x, weight, bias, win, quant, act), expected, 1e-4, 1e-4)) << to_text(spec);
    }
  }
}

TEST(Conv, BothFamiliesEqualTheOracle) {
  torch::manual_seed(2);
  int i = 0;
  for (const WeightSpec& spec : specs(false))
    for (const ConvCase& c : conv_cases()) {
      const ActQuant act = act_of(kQuantizing[i++ % 4]);
      at::Tensor x = torch::randn(concat({c.batch, c.channels}, c.input)), weight = random_weight(c);
      if (i % 3 == 0 && c.kernel.size() == 2) {
        x = x.contiguous(at::MemoryFormat::ChannelsLast);
        weight = weight.contiguous(at::MemoryFormat::ChannelsLast);
      }
      const at::Tensor bias = torch::randn({c.filters});
      const WeightQuant quant = quant_of(spec, c.filters);
      const QuantizedWeight w = quantize_weight(weight, quant, &c.window);
      const OracleWeight layer(w, matrix_of(w.t, c), bias, spec);
      ternary::oracle::ConvShape shape{
          .batch = c.batch, .channels = c.channels, .input = {1, 1, 1}, .filters = c.filters, .kernel = {1, 1, 1}};
      const size_t first = 3 - c.kernel.size();
      for (size_t d = 0; d < c.kernel.size(); ++d) {
        shape.input[first + d] = c.input[d], shape.kernel[first + d] = c.kernel[d];
        shape.stride[first + d] = c.window.stride[d], shape.padding[first + d] = c.window.padding[d];
        shape.dilation[first + d] = c.window.dilation[d];
        if (!c.window.output_padding.empty()) shape.output_padding[first + d] = c.window.output_padding[d];
      }
      shape.groups = c.window.groups, shape.transposed = c.window.transposed;
      std::vector<int64_t> sizes{c.batch, c.filters};
      for (size_t d = first; d < 3; ++d) sizes.push_back(shape.out(d));
      const at::Tensor expected =
          tensor_of(ternary::oracle::conv(values<float>(x), layer.view, shape, oracle_activation(act)), sizes);
      SCOPED_TRACE(fmt::format("{} {} case {}", to_text(spec), name(act.kind), &c - conv_cases().data()));
      EXPECT_TRUE(same_bits(bit_conv(x, weight, bias, c.window, quant, act), expected));
      const PackedWeight packed = ternary_pack(weight, quant, &c.window);
      EXPECT_TRUE(same_bits(ternary_conv(x, packed, bias, c.kernel, c.window, act), expected));
      EXPECT_TRUE(same_bits(ternary_conv(x[0], packed, bias, c.kernel, c.window, act),
                            bit_conv(x[0], weight, bias, c.window, quant, act)));
    }
}

TEST(Conv, GroupsOfScalesLieWithinATap) {
  torch::manual_seed(12);
  const WeightQuant quant{{.method = Method::kTwn, .granularity = Granularity::kGroup, .group = 64}, {}};
  const ConvWindow window{{1, 1}, {1, 1}, {1, 1}};
  const at::Tensor x = torch::randn({2, 128, 6, 5}), weight = torch::randn({7, 128, 3, 3});
  const QuantizedWeight w = quantize_weight(weight, quant, &window);
  EXPECT_EQ(w.scale.sizes(), at::IntArrayRef({7, 18}));
  const OracleWeight layer(w, w.t.movedim(1, -1).reshape({7, -1}), {}, quant.spec);
  const at::Tensor expected = tensor_of(
      ternary::oracle::conv(
          values<float>(x), layer.view,
          {.batch = 2, .channels = 128, .input = {1, 6, 5}, .filters = 7, .kernel = {1, 3, 3}, .padding = {0, 1, 1}}),
      {2, 7, 6, 5});
  const std::vector<int64_t> kernel{3, 3};
  EXPECT_TRUE(same_bits(ternary_conv(x, ternary_pack(weight, quant, &window), {}, kernel, window, {}), expected));
  EXPECT_TRUE(torch::allclose(bit_conv(x, weight, {}, window, quant, {}), expected, 1e-4, 1e-4));
  EXPECT_EQ(code_of([&] { ternary_pack(torch::randn({4, 96, 3, 3}), quant, &window); }), ErrorCode::kUnsupported);
}

// --- gradients, against compositions of LibTorch's operators in float64 whose derivatives autograd takes

at::Tensor replaced(const at::Tensor& value, const at::Tensor& surrogate) {
  return surrogate + (value - surrogate).detach();
}
at::Tensor rounded(const at::Tensor& x) { return replaced(x.round(), x); }
// The value of s, the gradient times `factor`.
at::Tensor slowed(const at::Tensor& s, double factor) { return replaced(s, s * factor); }

struct Leaves {
  at::Tensor x, weight, bias, act_scale;
  std::vector<at::Tensor> learned{};

  std::vector<at::Tensor*> all() {
    std::vector<at::Tensor*> list{&x, &weight, &bias, &act_scale};
    for (at::Tensor& parameter : learned) list.push_back(&parameter);
    return list;
  }
  Leaves in(at::ScalarType type) const {
    Leaves copy = *this;
    for (at::Tensor* leaf : copy.all())
      if (leaf->defined()) *leaf = leaf->detach().to(type).requires_grad_();
    return copy;
  }
};

// Scales as a tensor that multiplies the weight of a linear layer or a plain convolution.
at::Tensor by_row(const at::Tensor& scale, const at::Tensor& weight) {
  std::vector<int64_t> shape(static_cast<size_t>(weight.dim()), 1);
  shape[0] = -1;
  return scale.to(at::kDouble).view(shape);
}

at::Tensor reference_weight(const Leaves& l, const WeightSpec& spec, const QuantizedWeight& w) {
  const at::Tensor t = w.t.to(at::kDouble), threshold = by_row(w.threshold, l.weight);
  if (spec.method == Method::kLsq) {  // the form of the paper's appendix
    const double shared = static_cast<double>(l.weight.numel()) / static_cast<double>(l.learned[0].numel());
    const at::Tensor s = by_row(slowed(l.learned[0], 1 / std::sqrt(shared)), l.weight);
    return replaced(t, (l.weight / s).clamp(-1, 1)) * s;
  }
  if (spec.method ==
      Method::kTga) {  // w' = t s(D), with the slope of a Gaussian's mean beyond D by differences in its two functions
    const at::Tensor d = at::sqrt(spec.granularity == Granularity::kTensor ? l.weight.detach().square().mean().view({1})
                                                                           : l.weight.detach().square().flatten(1).mean(1));
    const auto gaussian_mean = [&](const at::Tensor& threshold) {
      const at::Tensor z = threshold / d, density = at::exp(-z.square() / 2) / std::sqrt(2 * M_PI);
      return d * density / (0.5 * at::special_erfc(z / std::sqrt(2.0)));
    };
    const at::Tensor scale = replaced(w.scale.to(at::kDouble), gaussian_mean(l.learned[0]));
    return replaced(t * by_row(w.scale, l.weight), l.weight) +
           t * (by_row(scale, l.weight) - by_row(scale.detach(), l.weight));
  }
  if (spec.method == Method::kTtq) {
    const at::Tensor p = by_row(l.learned[0], l.weight), n = by_row(l.learned[1], l.weight);
    const at::Tensor slope = at::where(t > 0, p, at::where(t < 0, n, at::ones_like(t))).detach();
    const at::Tensor value = at::where(t > 0, p, at::where(t < 0, -n, at::zeros_like(t)));
    return value + (l.weight * slope) - (l.weight * slope).detach();
  }
  const at::Tensor scale = by_row(w.scale, l.weight),
                   scale_neg = by_row(w.scale_neg.defined() ? w.scale_neg : w.scale, l.weight);
  const at::Tensor value = (t > 0) * t * scale + (t < 0) * t * scale_neg, u = l.weight / threshold;
  switch (spec.gradient) {
    case ternary::Gradient::kStraightThrough:
      return replaced(value, l.weight);
    case ternary::Gradient::kClipped:
      return replaced(value, at::where(l.weight.abs() <= 2 * threshold, l.weight, l.weight.detach()));
    case ternary::Gradient::kTanh:
      return replaced(value, (scale * at::tanh(2 * (u - 1)) + scale_neg * at::tanh(2 * (u + 1))) / 2);
  }
  return {};
}

at::Tensor reference_x(const Leaves& l, ActKind kind, const QuantizedActivation& quantized) {
  if (!is_static(kind)) return replaced(quantized.q.to(at::kDouble) * quantized.a.to(at::kDouble), l.x);
  const double limit = act_limit(kind);
  const at::Tensor s = slowed(l.act_scale, 1 / std::sqrt(static_cast<double>(l.x.numel()) * limit));
  return rounded((l.x / s).clamp(-limit, limit)) * s;
}

void expect_equal_gradients(const Leaves& start, const WeightSpec& spec, ActKind kind, const ConvWindow* window,
                            double blend) {
  SCOPED_TRACE(fmt::format("{} {} blend {}", to_text(spec), name(kind), blend));
  Leaves ours = start.in(at::kFloat), exact = start.in(at::kDouble);
  const WeightQuant quant{spec, ours.learned};
  const ActQuant act{kind, ours.act_scale};
  const at::Tensor y = window != nullptr ? bit_conv(ours.x, ours.weight, ours.bias, *window, quant, act, blend)
                                         : bit_linear(ours.x, ours.weight, ours.bias, quant, act, blend);
  at::Tensor x, w;
  {
    const at::Tensor float_x = ours.x.detach(), float_w = ours.weight.detach();
    WeightQuant plain{spec, {}};
    for (const at::Tensor& parameter : ours.learned) plain.learned.push_back(parameter.detach());
    const ActQuant plain_act{kind, ours.act_scale.defined() ? ours.act_scale.detach() : at::Tensor()};
    w = reference_weight(exact, spec, quantize_weight(float_w, plain, window));
    x = kind == ActKind::kNone
            ? exact.x
            : reference_x(exact, kind, quantize_activation(float_x, window != nullptr ? 1 : -1, plain_act));
  }
  x = exact.x + (x - exact.x) * blend;
  w = exact.weight + (w - exact.weight) * blend;
  const at::Tensor expected = window != nullptr
                                  ? at::convolution(x, w, exact.bias, window->stride, window->padding, window->dilation,
                                                    false, std::vector<int64_t>(window->stride.size(), 0), window->groups)
                                  : at::linear(x, w, exact.bias);
  EXPECT_TRUE(torch::allclose(y.to(at::kDouble), expected, 1e-4, 1e-4));
  const at::Tensor g = torch::randn_like(y);
  y.backward(g);
  expected.backward(g.to(at::kDouble));
  for (size_t i = 0; i < ours.all().size(); ++i) {
    if (!ours.all()[i]->defined()) continue;
    const at::Tensor found = ours.all()[i]->grad(), wanted = exact.all()[i]->grad();
    ASSERT_TRUE(found.defined()) << "leaf " << i;
    EXPECT_TRUE(torch::allclose(found.to(at::kDouble), wanted, 2e-3, 2e-4)) << "leaf " << i;
  }
}

TEST(Linear, GradientsAreThoseOfTheirSurrogates) {
  torch::manual_seed(3);
  std::vector<WeightSpec> list = specs(false);
  for (Method method : {Method::kAbsmean, Method::kAbsmedian, Method::kTwn, Method::kTwnAsymmetric, Method::kFixed})
    for (ternary::Gradient gradient : {ternary::Gradient::kClipped, ternary::Gradient::kTanh})
      list.push_back({.method = method, .granularity = Granularity::kChannel, .gradient = gradient});
  for (const WeightSpec& spec : list)
    for (ActKind kind : {ActKind::kInt8, ActKind::kInt4, ActKind::kInt8Static, ActKind::kInt4Static, ActKind::kNone})
      for (double blend : {1.0, 0.25}) {
        const WeightQuant quant = quant_of(spec, 7);
        if (kind == ActKind::kNone && info(spec.method).asymmetric) continue;
        expect_equal_gradients({torch::randn({4, 3, 31}), torch::randn({7, 31}), torch::randn({7}),
                                act_of(kind, kind == ActKind::kInt4Static ? 0.25 : 0.017).act_scale, quant.learned},
                               spec, kind, nullptr, blend);
      }
}

TEST(Conv, GradientsAreThoseOfTheirSurrogates) {
  torch::manual_seed(4);
  for (const WeightSpec& spec : specs(false))
    for (const ConvCase& c : conv_cases()) {
      if (c.window.transposed) continue;
      const WeightQuant quant = quant_of(spec, c.filters);
      const ActKind kind = (&c - conv_cases().data()) % 2 == 0 ? ActKind::kInt8 : ActKind::kInt8Static;
      expect_equal_gradients({torch::randn(concat({c.batch, c.channels}, c.input)), random_weight(c),
                              torch::randn({c.filters}), act_of(kind, 0.017).act_scale, quant.learned},
                             spec, kind, &c.window, 1);
    }
}

// Of transposed convolutions: the straight-through form, whose weight gradient is that of LibTorch's operator.
TEST(Conv, TransposedGradientsAreStraightThrough) {
  torch::manual_seed(5);
  for (const ConvCase& c : conv_cases()) {
    if (!c.window.transposed) continue;
    for (Granularity granularity : {Granularity::kTensor, Granularity::kChannel}) {
      const WeightSpec spec{.method = Method::kTwn, .granularity = granularity};
      const Leaves start{
          torch::randn(concat({c.batch, c.channels}, c.input)), random_weight(c), torch::randn({c.filters}), {}};
      Leaves ours = start.in(at::kFloat), exact = start.in(at::kDouble);
      const at::Tensor y = bit_conv(ours.x, ours.weight, ours.bias, c.window, {spec, {}}, {});
      const QuantizedWeight w = quantize_weight(start.weight, {spec, {}}, &c.window);
      at::Tensor scale = w.scale.to(at::kDouble);
      if (granularity == Granularity::kChannel) {  // output channel n is in group n / own
        std::vector<at::Tensor> parts;
        const int64_t own = c.filters / c.window.groups;
        std::vector<int64_t> shape(static_cast<size_t>(start.weight.dim()), 1);
        shape[1] = own;
        for (int64_t g = 0; g < c.window.groups; ++g) {
          std::vector<int64_t> rows = shape;
          rows[0] = c.channels / c.window.groups;
          parts.push_back(scale.narrow(0, g * own, own).view(shape).expand(rows));
        }
        scale = torch::cat(parts);
      }
      const QuantizedActivation x = quantize_activation(start.x, 1, {});
      const at::Tensor expected = at::convolution(
          replaced(x.q.to(at::kDouble) * x.a, exact.x), replaced(w.t.to(at::kDouble) * scale, exact.weight), exact.bias,
          c.window.stride, c.window.padding, c.window.dilation, true, c.window.output_padding, c.window.groups);
      EXPECT_TRUE(torch::allclose(y.to(at::kDouble), expected, 1e-4, 1e-4));
      const at::Tensor g = torch::randn_like(y);
      y.backward(g);
      expected.backward(g.to(at::kDouble));
      for (size_t i = 0; i < 3; ++i)
        EXPECT_TRUE(torch::allclose(ours.all()[i]->grad().to(at::kDouble), exact.all()[i]->grad(), 1e-3, 1e-4)) << i;
    }
  }
}

TEST(Blend, FromFloatToTernary) {
  torch::manual_seed(6);
  const at::Tensor x = torch::randn({4, 20}), weight = torch::randn({5, 20});
  EXPECT_TRUE(torch::allclose(bit_linear(x, weight, {}, {}, {}, 0), at::linear(x, weight), 1e-5, 1e-6));
  EXPECT_EQ(code_of([&] { bit_linear(x, weight, {}, {}, {}, 1.5); }), ErrorCode::kInvalidArgument);
}

TEST(Gradients, OnlyWhereAsked) {
  const at::Tensor x = torch::randn({2, 5}), weight = torch::randn({3, 5}).requires_grad_();
  bit_linear(x, weight, {}, {}, {}).sum().backward();
  EXPECT_TRUE(weight.grad().defined());
  EXPECT_FALSE(x.grad().defined());
}

TEST(Gradients, TernaryFamilyRefusesThem) {
  const PackedWeight packed = ternary_pack(torch::randn({3, 5}), {});
  const at::Tensor x = torch::randn({2, 5}).requires_grad_();
  EXPECT_EQ(code_of([&] { ternary_linear(x, packed, {}, {}); }), ErrorCode::kUnsupported);
  at::NoGradGuard no_grad;
  EXPECT_EQ(ternary_linear(x, packed, {}, {}).sizes(), at::IntArrayRef({2, 3}));
}

TEST(Pack, CodesHoldTheWeightInCanonicalOrder) {
  torch::manual_seed(5);
  const at::Tensor weight = torch::randn({6, 5, 3, 2});
  const WeightQuant spec{{.method = Method::kTwn, .granularity = Granularity::kChannel}, {}};
  const at::Tensor t = quantize_weight(weight, spec).t, scale = quantize_weight(weight, spec).scale;
  const PackedWeight packed = ternary_pack(weight, spec);
  const std::vector<uint8_t> codes = values<uint8_t>(packed.codes);
  std::vector<int8_t> unpacked(6 * 30);
  ternary::unpack_codes(codes, 6, 30, unpacked);
  EXPECT_EQ(unpacked, values<int8_t>(t.permute({0, 2, 3, 1})));
  EXPECT_TRUE(same_bits(packed.scale, scale));
}

TEST(QuantizeActivation, DeviceIndependentFormEqualsTheKernel) {
  torch::manual_seed(6);
  for (float size : {1e-7F, 1.0F, 1e6F})
    for (int64_t start_dim : {1, -1}) {
      const at::Tensor x = torch::randn({3, 5, 4, 6}) * size;
      const auto [q, a] = quantize_activation(x, start_dim, {});
      const at::Tensor inv =
          127.0F /
          x.abs().amax(start_dim == 1 ? std::vector<int64_t>{1, 2, 3} : std::vector<int64_t>{3}, true).clamp_min(1e-5F);
      EXPECT_TRUE(same_bits(a, 1.0F / inv));
      EXPECT_TRUE(torch::equal(q, torch::round(x * inv).clamp(-127, 127).to(at::kChar)));
    }
}

TEST(BatchNorm, EqualsLibTorchsInValueAndGradients) {
  torch::manual_seed(7);
  const auto wide = torch::TensorOptions(at::kDouble);
  const at::Tensor x = torch::randn({3, 5, 2, 4}, wide).requires_grad_(), weight = torch::randn({5}, wide).requires_grad_(),
                   bias = torch::randn({5}, wide).requires_grad_(), mean = torch::randn({5}, wide),
                   variance = torch::rand({5}, wide), cotangent = torch::randn({3, 5, 2, 4}, wide);
  const at::Tensor y = batch_norm(x, weight, bias, mean, variance, 1e-3),
                   expected = at::batch_norm(x, weight, bias, mean, variance, false, 0, 1e-3, false);
  EXPECT_TRUE(torch::allclose(y, expected, 1e-12, 1e-12));
  const auto found = torch::autograd::grad({y}, {x, weight, bias}, {cotangent}),
             wanted = torch::autograd::grad({expected}, {x, weight, bias}, {cotangent});
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(torch::allclose(found[i], wanted[i], 1e-12, 1e-12)) << i;
  EXPECT_TRUE(torch::allclose(batch_norm(x, {}, {}, mean, variance, 1e-3),
                              at::batch_norm(x, {}, {}, mean, variance, false, 0, 1e-3, false), 1e-12, 1e-12));
}

TEST(Meta, ShapesAndTypesWithoutValues) {
  const auto meta = torch::TensorOptions(at::kMeta);
  const at::Tensor weight = torch::empty({6, 33}, meta), filters = torch::empty({6, 3, 3, 2}, meta);
  const PackedWeight packed = ternary_pack(weight, {{.method = Method::kTwn, .granularity = Granularity::kChannel}, {}}),
                     packed_filters = ternary_pack(filters, {});
  EXPECT_EQ(packed.codes.sizes(), at::IntArrayRef({6, 9}));
  EXPECT_EQ(packed.codes.scalar_type(), at::kByte);
  EXPECT_EQ(packed.scale.sizes(), at::IntArrayRef({6}));
  at::NoGradGuard no_grad;
  const std::vector<int64_t> kernel{3, 2};
  const ConvWindow window{{1, 1}, {0, 0}, {1, 1}};
  EXPECT_EQ(ternary_linear(torch::empty({2, 4, 33}, meta), packed, {}, {}).sizes(), at::IntArrayRef({2, 4, 6}));
  EXPECT_EQ(ternary_conv(torch::empty({2, 3, 8, 8}, meta), packed_filters, {}, kernel, window, {}).sizes(),
            at::IntArrayRef({2, 6, 6, 7}));
  EXPECT_EQ(bit_linear(torch::empty({2, 33}, meta), weight, {}, {}, {}).sizes(), at::IntArrayRef({2, 6}));
  EXPECT_EQ(bit_conv(torch::empty({2, 3, 8, 8}, meta), filters, {}, window, {}, {}).sizes(), at::IntArrayRef({2, 6, 6, 7}));
}

struct WithAutocast {
  WithAutocast() { at::autocast::set_autocast_enabled(at::kCPU, true); }
  ~WithAutocast() {
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
  }
};

// Whatever comes in: the bits of float32, gradients and learned parameters included.
TEST(Autocast, HasTheBitsOfFloat32) {
  torch::manual_seed(13);
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf})
    for (const WeightSpec& spec : specs(false)) {
      const at::Tensor x = torch::randn({4, 32}).to(type), weight = torch::randn({8, 32}, at::requires_grad());
      const WeightQuant quant = quant_of(spec, 8);
      const at::Tensor expected = bit_linear(x.to(at::kFloat), weight, {}, quant, {});
      const at::Tensor wanted = torch::autograd::grad({expected.sum()}, {weight})[0];
      const WithAutocast on;
      const at::Tensor y = bit_linear(x, weight, {}, quant, {});
      EXPECT_EQ(y.scalar_type(), at::kFloat);
      EXPECT_TRUE(same_bits(y, expected)) << to_text(spec);
      EXPECT_TRUE(same_bits(torch::autograd::grad({y.sum()}, {weight})[0], wanted)) << to_text(spec);
      WeightQuant halves = quant;
      for (at::Tensor& parameter : halves.learned) parameter = parameter.to(type);
      if (!halves.learned.empty()) bit_linear(x, weight, {}, halves, {});  // are cast, too
    }
  EXPECT_EQ(code_of([] {
              bit_linear(torch::randn({4, 32}, at::kBFloat16), torch::randn({8, 32}), {}, {}, {});
            }),
            ErrorCode::kTypeMismatch)
      << "outside of autocast";
}

// The deepest layers whose sums float32 holds, and those beyond, at the largest integers.
TEST(Autocast, WorstCaseIsExact) {
  for (const int64_t depth : {int64_t{132'104}, int64_t{132'105}}) {
    const at::Tensor x = torch::ones({2, depth}) * 0.75, weight = torch::ones({3, depth});
    const at::Tensor expected = oracle_linear(x, weight, {}, {}, {});
    const WithAutocast on;
    EXPECT_TRUE(same_bits(bit_linear(x.to(at::kBFloat16), weight, {}, {}, {}), expected));
  }
}

TEST(IntegerProducts, AreChosenByDeviceDepthAndAutocast) {
  using Kind = IntegerProduct::Kind;
  for (const auto device : {c10::DeviceType::CPU, c10::DeviceType::CUDA})
    for (const bool linear : {true, false}) {
      const bool halves = device == c10::DeviceType::CUDA && linear;
      EXPECT_EQ(IntegerProduct::choose({device, std::nullopt, linear, true}), Kind::kFloat32);
      EXPECT_EQ(IntegerProduct::choose({device, at::kBFloat16, linear, true}), halves ? Kind::kHalf : Kind::kFloat32);
      EXPECT_EQ(IntegerProduct::choose({device, at::kBFloat16, linear, false}), Kind::kFloat64);
    }
  // Both of the half types hold every operand, so that what is multiplied and summed in float32 are the integers.
  const at::Tensor integers = torch::arange(-127, 128);
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf})
    EXPECT_TRUE(torch::equal(integers.to(type).to(at::kLong), integers));
}

TEST(Parameters, BeginAtAnotherMethodsFit) {
  torch::manual_seed(14);
  const at::Tensor weight = torch::randn({5, 40});
  const at::Tensor mean = weight.to(at::kDouble).abs().mean(1).to(at::kFloat);
  const auto of = [&](const char* text) { return initial_parameters(weight, ternary::parse_weight_spec(text).value()); };
  EXPECT_TRUE(of("absmean").empty());
  ASSERT_EQ(of("lsq/channel").size(), 1U);
  EXPECT_TRUE(torch::allclose(of("lsq/channel")[0], 2 * mean));
  EXPECT_TRUE(
      torch::allclose(initial_parameters(weight, {.method = Method::kLsq}, nullptr, false)[0], mean.mean().view({1})));
  const at::Tensor kept = weight.abs() > 0.7 * mean.unsqueeze(1);
  const auto ttq = of("ttq/channel");
  ASSERT_EQ(ttq.size(), 2U);
  EXPECT_TRUE(torch::allclose(ttq[0], (weight.abs() * kept).sum(1) / kept.sum(1)));
  EXPECT_TRUE(torch::equal(ttq[0], ttq[1]));
  EXPECT_TRUE(torch::allclose(of("tga/channel/threshold=0.5")[0], 0.5 * mean));
}

// What a draw makes is not kept: codes of evaluation are those of the nearest rounding.
TEST(Draws, TakeNoPartInEvaluation) {
  torch::manual_seed(15);
  const at::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({3, 40}), weight = torch::randn({5, 40});
  WeightSpec random{.rounding = ternary::Rounding::kStochastic};
  EXPECT_TRUE(same_bits(bit_linear(x, weight, {}, {random, {}}, {}), bit_linear(x, weight, {}, {}, {})));
  std::vector<at::Tensor> drawn;
  for (random.draw = 1; random.draw <= 2; ++random.draw) drawn.push_back(bit_linear(x, weight, {}, {random, {}}, {}));
  EXPECT_FALSE(torch::equal(drawn[0], drawn[1]));
  random.draw = 1;
  const int threads = torch::get_num_threads();
  torch::set_num_threads(threads == 1 ? 3 : 1);
  EXPECT_TRUE(same_bits(bit_linear(x, weight, {}, {random, {}}, {}), drawn[0]));
  torch::set_num_threads(threads);
  const at::Tensor indices = torch::tensor({1, 1, 4});
  random.granularity = Granularity::kChannel;
  const at::Tensor rows = bit_embedding(weight, indices, {random, {}});
  EXPECT_TRUE(same_bits(rows, bit_weight(weight, {random, {}}).index_select(0, indices))) << "a row has its own place";
}

TEST(Shapes, EmptyBatchesAreFine) {
  at::NoGradGuard no_grad;
  const at::Tensor weight = torch::randn({3, 5});
  EXPECT_EQ(bit_linear(torch::empty({0, 5}), weight, {}, {}, {}).sizes(), at::IntArrayRef({0, 3}));
  EXPECT_EQ(ternary_linear(torch::empty({2, 0, 5}), ternary_pack(weight, {}), {}, {}).sizes(), at::IntArrayRef({2, 0, 3}));
}

TEST(Errors, AreClear) {
  at::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({2, 5}), weight = torch::randn({3, 5});
  const PackedWeight packed = ternary_pack(weight, {});
  EXPECT_EQ(code_of([&] { bit_linear(torch::randn({2, 6}), weight, {}, {}, {}); }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code_of([&] { bit_linear(x, weight, torch::randn({4}), {}, {}); }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code_of([&] { ternary_linear(torch::randn({2, 9}), packed, {}, {}); }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code_of([&] { ternary_linear(x.to(at::kDouble), packed, {}, {}); }), ErrorCode::kTypeMismatch);
  EXPECT_EQ(code_of([&] { ternary_linear(x / 0, packed, {}, {}); }), ErrorCode::kNotFinite);
  EXPECT_EQ(code_of([&] { bit_linear(x, weight / 0, {}, {}, {}); }), ErrorCode::kNotFinite);
  EXPECT_EQ(code_of([&] { batch_norm(x, {}, {}, torch::zeros({4}), torch::ones({4}), 0); }), ErrorCode::kShapeMismatch);
  PackedWeight broken = packed;
  broken.codes = packed.codes.narrow(0, 0, 0);
  EXPECT_EQ(code_of([&] { ternary_linear(x, broken, {}, {}); }), ErrorCode::kShapeMismatch);
  const at::Tensor image = torch::randn({1, 4, 5, 5}), filters = torch::randn({3, 4, 2, 2});
  for (const int64_t extreme : {int64_t{0}, int64_t{-1}, (int64_t{1} << 20) + 1, std::numeric_limits<int64_t>::max()}) {
    EXPECT_EQ(code_of([&] {
                bit_conv(image, filters, {}, {{extreme, 1}, {0, 0}, {1, 1}}, {}, {});
              }),
              ErrorCode::kInvalidArgument);
    EXPECT_EQ(code_of([&] {
                bit_conv(image, filters, {}, {{1, 1}, {0, 0}, {1, extreme}}, {}, {});
              }),
              ErrorCode::kInvalidArgument);
    if (extreme == 0) continue;  // padding of nothing
    EXPECT_EQ(code_of([&] {
                bit_conv(image, filters, {}, {{1, 1}, {extreme, 0}, {1, 1}}, {}, {});
              }),
              ErrorCode::kInvalidArgument);
  }
  broken.codes = packed.codes.clone().fill_(255);
  EXPECT_EQ(code_of([&] { ternary_linear(x, broken, {}, {}); }), ErrorCode::kCorrupt);
  try {
    ternary_linear(x, packed, {}, act_of(ActKind::kInt8Static, 0));
    ADD_FAILURE() << "expected an error";
  } catch (const Exception& error) {
    EXPECT_STREQ(error.what(),
                 "[ternary_linear] static activations whose step a forward pass in training, or a calibration "
                 "(quantize_for_deployment), has set, got act_scale 0");
  }
  try {
    ternary_linear(torch::randn({2, 9}), packed, {}, {});
  } catch (const Exception& error) {
    EXPECT_STREQ(error.what(), "[ternary_linear] codes [N, 3] for K = 9, got [3, 2]");
  }
}

}  // namespace
}  // namespace bitlab::ops
