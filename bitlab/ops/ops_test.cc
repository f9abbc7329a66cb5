// The operators against the scalar oracle, bit by bit.
#include "bitlab/ops/ops.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/ops/test_support.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::ops {
namespace {

using namespace test;

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

// As LibTorch's convolutions: a network may call view() on what is contiguous, and channels stay last where they are.
TEST(Conv, ResultsLieInMemoryAsTheirInputs) {
  for (const ConvCase& c : conv_cases()) {
    if (c.kernel.size() != 2 || c.channels == 1) continue;
    for (const int64_t batch : {1, 64})  // few tokens and many
      for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast})
        for (const bool evaluates : {true, false}) {
          const at::AutoGradMode mode(!evaluates);
          const at::Tensor x = torch::randn(concat({batch, c.channels}, c.input)).contiguous(format),
                           weight = random_weight(c).requires_grad_();
          if (x.size(2) * x.size(3) == 1) continue;  // both at once
          EXPECT_TRUE(bit_conv(x, weight, {}, c.window, {}, {}).is_contiguous(format)) << batch << evaluates;
        }
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
