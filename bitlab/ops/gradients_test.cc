// The gradients of the operators of training, against compositions of LibTorch's operators in float64 whose derivatives autograd takes.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/ops/test_support.h"

namespace bitlab::ops {
namespace {

using namespace test;

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
  const at::Tensor g = torch::randn(y.sizes());
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
      const at::Tensor g = torch::randn(y.sizes());
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

}  // namespace
}  // namespace bitlab::ops
