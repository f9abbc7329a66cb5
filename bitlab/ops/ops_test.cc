// The operators against the scalar oracle (bits) and against straight-through gradients of LibTorch in float64.
#include "bitlab/ops/ops.h"

#include <cstring>

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/ops/weight_cache.h"
#include "bitlab/ternary/codes.h"
#include "bitlab/ternary/oracle.h"

namespace bitlab::ops {
namespace {

using ternary::ActKind;
using ternary::Granularity;
using ternary::Method;
using ternary::WeightSpec;

constexpr WeightSpec kSpecs[] = {{Method::kAbsmean, Granularity::kTensor},
                                 {Method::kAbsmean, Granularity::kChannel},
                                 {Method::kTwn, Granularity::kTensor},
                                 {Method::kTwn, Granularity::kChannel}};

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.sizes() == y.sizes() && std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
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

at::Tensor oracle_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const WeightSpec& spec) {
  const auto [t, scale] = quantize_weight(weight, spec);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return tensor_of(ternary::oracle::linear(values<float>(x), x.numel() / x.size(-1), values<int8_t>(t), weight.size(0),
                                           weight.size(1), values<float>(scale), bias_values(bias)),
                   shape);
}

TEST(Linear, BothFamiliesEqualTheOracle) {
  torch::manual_seed(1);
  const std::vector<std::vector<int64_t>> shapes = {{1, 1}, {3, 7}, {64, 65}, {2, 5, 33}, {2, 1, 3, 500}, {500}};
  for (const WeightSpec& spec : kSpecs)
    for (const auto& shape : shapes)
      for (bool with_bias : {false, true}) {
        const at::Tensor x = torch::randn(shape) * 3, weight = torch::randn({13, shape.back()});
        const std::optional<at::Tensor> bias = with_bias ? std::optional(torch::randn({13})) : std::nullopt;
        const at::Tensor expected = oracle_linear(x, weight, bias, spec);
        EXPECT_TRUE(same_bits(bit_linear(x, weight, bias, spec, ActKind::kInt8), expected));
        EXPECT_TRUE(same_bits(ternary_linear(x, ternary_pack(weight, spec), bias, ActKind::kInt8), expected));
      }
}

// 127 K beyond 2^24, where float32 sums would round.
TEST(Linear, DeepWorstCaseIsExact) {
  const int64_t depth = 140'001;
  const at::Tensor x = torch::ones({2, depth}) * 0.75, weight = torch::ones({3, depth});
  const at::Tensor expected = oracle_linear(x, weight, {}, {});
  EXPECT_TRUE(same_bits(bit_linear(x, weight, {}, {}, ActKind::kInt8), expected));
  EXPECT_TRUE(same_bits(ternary_linear(x, ternary_pack(weight, {}), {}, ActKind::kInt8), expected));
}

struct ConvCase {
  int64_t batch, channels, height, width, filters, kh, kw;
  std::vector<int64_t> stride, padding, dilation;
};
const std::vector<ConvCase> kConvCases = {{1, 1, 28, 28, 20, 5, 5, {1, 1}, {0, 0}, {1, 1}},
                                          {2, 20, 12, 12, 50, 5, 5, {1, 1}, {0, 0}, {1, 1}},
                                          {3, 3, 9, 7, 17, 3, 2, {2, 1}, {1, 3}, {1, 2}},
                                          {2, 65, 1, 1, 3, 1, 1, {1, 1}, {0, 0}, {1, 1}}};

TEST(Conv2d, BothFamiliesEqualTheOracle) {
  torch::manual_seed(2);
  for (const WeightSpec& spec : kSpecs)
    for (const ConvCase& c : kConvCases)
      for (bool channels_last : {false, true}) {
        at::Tensor x = torch::randn({c.batch, c.channels, c.height, c.width}),
                   weight = torch::randn({c.filters, c.channels, c.kh, c.kw});
        if (channels_last)
          x = x.contiguous(at::MemoryFormat::ChannelsLast), weight = weight.contiguous(at::MemoryFormat::ChannelsLast);
        const at::Tensor bias = torch::randn({c.filters});
        const auto [t, scale] = quantize_weight(weight, spec);
        const ternary::oracle::ConvShape shape{.batch = c.batch,
                                               .channels = c.channels,
                                               .input = {1, c.height, c.width},
                                               .filters = c.filters,
                                               .kernel = {1, c.kh, c.kw},
                                               .stride = {1, c.stride[0], c.stride[1]},
                                               .padding = {0, c.padding[0], c.padding[1]},
                                               .dilation = {1, c.dilation[0], c.dilation[1]}};
        const at::Tensor expected =
            tensor_of(ternary::oracle::conv(values<float>(x), values<int8_t>(t.permute({0, 2, 3, 1})), values<float>(scale),
                                            values<float>(bias), shape),
                      {c.batch, c.filters, shape.out(1), shape.out(2)});
        const Conv2dWindow window{c.stride, c.padding, c.dilation};
        EXPECT_TRUE(same_bits(bit_conv2d(x, weight, bias, window, spec, ActKind::kInt8), expected));
        const PackedWeight packed = ternary_pack(weight, spec);
        const std::vector<int64_t> kernel{c.kh, c.kw};
        EXPECT_TRUE(same_bits(ternary_conv2d(x, packed, bias, kernel, window, ActKind::kInt8), expected));
        EXPECT_TRUE(same_bits(ternary_conv2d(x[0], packed, bias, kernel, window, ActKind::kInt8),
                              bit_conv2d(x[0], weight, bias, window, spec, ActKind::kInt8)));
      }
}

// --- gradients: the textbook form, x + (quantized(x) - x).detach(), in float64

at::Tensor straight_through(const at::Tensor& latent, const at::Tensor& quantized) {
  return latent + (quantized.to(at::kDouble) - latent).detach();
}

struct Leaves {
  at::Tensor x, weight, bias;
  explicit Leaves(const Leaves& other, at::ScalarType type)
      : x(other.x.detach().to(type).requires_grad_()),
        weight(other.weight.detach().to(type).requires_grad_()),
        bias(other.bias.detach().to(type).requires_grad_()) {}
  Leaves(at::Tensor x_, at::Tensor weight_, at::Tensor bias_)
      : x(x_.requires_grad_()), weight(weight_.requires_grad_()), bias(bias_.requires_grad_()) {}
};

template <class Ours, class Reference>
void expect_equal_gradients(const Leaves& leaves, const WeightSpec& spec, int64_t start_dim, Ours ours,
                            Reference reference) {
  const Leaves precise(leaves, at::kDouble);
  const at::Tensor y = ours(leaves);
  const at::Tensor g = torch::randn_like(y);
  y.backward(g);
  at::Tensor x_value, w_value;
  {
    at::NoGradGuard no_grad;
    const auto [q, a] = quantize_activation(leaves.x, start_dim, ActKind::kInt8);
    const auto [t, scale] = quantize_weight(leaves.weight, spec);
    std::vector<int64_t> channel(static_cast<size_t>(t.dim()), 1);
    channel[0] = -1;
    x_value = q.to(at::kDouble) * a;
    w_value = t.to(at::kDouble) * scale.view(channel);
  }
  reference(straight_through(precise.x, x_value), straight_through(precise.weight, w_value), precise.bias)
      .backward(g.to(at::kDouble));
  EXPECT_TRUE(torch::allclose(leaves.x.grad().to(at::kDouble), precise.x.grad(), 1e-4, 1e-4));
  EXPECT_TRUE(torch::allclose(leaves.weight.grad().to(at::kDouble), precise.weight.grad(), 1e-4, 1e-4));
  EXPECT_TRUE(torch::allclose(leaves.bias.grad().to(at::kDouble), precise.bias.grad(), 1e-4, 1e-4));
}

TEST(Linear, GradientsAreStraightThrough) {
  torch::manual_seed(3);
  for (const WeightSpec& spec : kSpecs)
    expect_equal_gradients(
        {torch::randn({4, 3, 31}), torch::randn({7, 31}), torch::randn({7})}, spec, -1,
        [&](const Leaves& l) { return bit_linear(l.x, l.weight, l.bias, spec, ActKind::kInt8); },
        [](const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) { return at::linear(x, w, b); });
}

TEST(Conv2d, GradientsAreStraightThrough) {
  torch::manual_seed(4);
  for (const WeightSpec& spec : kSpecs)
    for (const ConvCase& c : kConvCases)
      expect_equal_gradients(
          {torch::randn({c.batch, c.channels, c.height, c.width}), torch::randn({c.filters, c.channels, c.kh, c.kw}),
           torch::randn({c.filters})},
          spec, 1,
          [&](const Leaves& l) {
            return bit_conv2d(l.x, l.weight, l.bias, {c.stride, c.padding, c.dilation}, spec, ActKind::kInt8);
          },
          [&](const at::Tensor& x, const at::Tensor& w, const at::Tensor& b) {
            return at::conv2d(x, w, b, c.stride, c.padding, c.dilation);
          });
}

TEST(Gradients, OnlyWhereAsked) {
  const at::Tensor x = torch::randn({2, 5}), weight = torch::randn({3, 5}).requires_grad_();
  bit_linear(x, weight, {}, {}, ActKind::kInt8).sum().backward();
  EXPECT_TRUE(weight.grad().defined());
  EXPECT_FALSE(x.grad().defined());
}

TEST(Gradients, TernaryFamilyRefusesThem) {
  const PackedWeight packed = ternary_pack(torch::randn({3, 5}), {});
  const at::Tensor x = torch::randn({2, 5}).requires_grad_();
  EXPECT_EQ(code_of([&] { ternary_linear(x, packed, {}, ActKind::kInt8); }), ErrorCode::kUnsupported);
  at::NoGradGuard no_grad;
  EXPECT_EQ(ternary_linear(x, packed, {}, ActKind::kInt8).sizes(), at::IntArrayRef({2, 3}));
}

TEST(Pack, CodesHoldTheWeightInCanonicalOrder) {
  torch::manual_seed(5);
  const at::Tensor weight = torch::randn({6, 5, 3, 2});
  const WeightSpec spec{Method::kTwn, Granularity::kChannel};
  const auto [t, scale] = quantize_weight(weight, spec);
  const PackedWeight packed = ternary_pack(weight, spec);
  const std::vector<uint8_t> codes = values<uint8_t>(packed.codes);
  std::vector<int8_t> unpacked(6 * 30);
  ternary::unpack_codes(codes, 6, 30, unpacked);
  EXPECT_EQ(unpacked, values<int8_t>(t.permute({0, 2, 3, 1})));
  EXPECT_TRUE(same_bits(packed.scale, scale));
}

TEST(Pack, ChangedCodesArePackedAnew) {
  at::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({4, 32});
  const PackedWeight a = ternary_pack(torch::randn({8, 32}), {}), b = ternary_pack(torch::randn({8, 32}), {});
  const at::Tensor before = ternary_linear(x, a, {}, ActKind::kInt8);
  a.codes.copy_(b.codes);
  a.scale.copy_(b.scale);
  const at::Tensor after = ternary_linear(x, a, {}, ActKind::kInt8);
  EXPECT_FALSE(same_bits(before, after));
  EXPECT_TRUE(same_bits(after, ternary_linear(x, b, {}, ActKind::kInt8)));
}

TEST(Pack, DeadWeightsLeaveTheCache) {
  at::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({1, 16});
  for (int i = 0; i < 50; ++i) ternary_linear(x, ternary_pack(torch::randn({4, 16}), {}), {}, ActKind::kInt8);
  EXPECT_LT(packed_weight_count(), 10U);
}

TEST(QuantizeActivation, DeviceIndependentFormEqualsTheKernel) {
  torch::manual_seed(6);
  for (float size : {1e-7F, 1.0F, 1e6F})
    for (int64_t start_dim : {1, -1}) {
      const at::Tensor x = torch::randn({3, 5, 4, 6}) * size;
      const auto [q, a] = quantize_activation(x, start_dim, ActKind::kInt8);
      const at::Tensor inv =
          127.0F /
          x.abs().amax(start_dim == 1 ? std::vector<int64_t>{1, 2, 3} : std::vector<int64_t>{3}, true).clamp_min(1e-5F);
      EXPECT_TRUE(same_bits(a, 1.0F / inv));
      EXPECT_TRUE(torch::equal(q, torch::round(x * inv).clamp(-127, 127).to(at::kChar)));
    }
}

TEST(Meta, ShapesAndTypesWithoutValues) {
  const auto meta = torch::TensorOptions(at::kMeta);
  const at::Tensor weight = torch::empty({6, 33}, meta), filters = torch::empty({6, 3, 3, 2}, meta);
  const PackedWeight packed = ternary_pack(weight, {Method::kTwn, Granularity::kChannel}),
                     packed_filters = ternary_pack(filters, {});
  EXPECT_EQ(packed.codes.sizes(), at::IntArrayRef({6, 9}));
  EXPECT_EQ(packed.codes.scalar_type(), at::kByte);
  EXPECT_EQ(packed.scale.sizes(), at::IntArrayRef({6}));
  at::NoGradGuard no_grad;
  const std::vector<int64_t> kernel{3, 2}, ones{1, 1}, zeros{0, 0};
  EXPECT_EQ(ternary_linear(torch::empty({2, 4, 33}, meta), packed, {}, ActKind::kInt8).sizes(), at::IntArrayRef({2, 4, 6}));
  EXPECT_EQ(ternary_conv2d(torch::empty({2, 3, 8, 8}, meta), packed_filters, {}, kernel, {ones, zeros, ones}, ActKind::kInt8)
                .sizes(),
            at::IntArrayRef({2, 6, 6, 7}));
  EXPECT_EQ(bit_linear(torch::empty({2, 33}, meta), weight, {}, {}, ActKind::kInt8).sizes(), at::IntArrayRef({2, 6}));
  EXPECT_EQ(bit_conv2d(torch::empty({2, 3, 8, 8}, meta), filters, {}, {ones, zeros, ones}, {}, ActKind::kInt8).sizes(),
            at::IntArrayRef({2, 6, 6, 7}));
}

TEST(Autocast, RunsInFloat32) {
  const at::Tensor x = torch::randn({4, 32}), weight = torch::randn({8, 32});
  const at::Tensor expected = bit_linear(x.to(at::kBFloat16).to(at::kFloat), weight, {}, {}, ActKind::kInt8);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor y = bit_linear(x.to(at::kBFloat16), weight, {}, {}, ActKind::kInt8);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_TRUE(same_bits(y, expected));
}

TEST(Shapes, EmptyBatchesAreFine) {
  at::NoGradGuard no_grad;
  const at::Tensor weight = torch::randn({3, 5});
  EXPECT_EQ(bit_linear(torch::empty({0, 5}), weight, {}, {}, ActKind::kInt8).sizes(), at::IntArrayRef({0, 3}));
  EXPECT_EQ(ternary_linear(torch::empty({2, 0, 5}), ternary_pack(weight, {}), {}, ActKind::kInt8).sizes(),
            at::IntArrayRef({2, 0, 3}));
}

TEST(Errors, AreClear) {
  at::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({2, 5}), weight = torch::randn({3, 5});
  const PackedWeight packed = ternary_pack(weight, {});
  EXPECT_EQ(code_of([&] { bit_linear(torch::randn({2, 6}), weight, {}, {}, ActKind::kInt8); }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code_of([&] { bit_linear(x, weight, torch::randn({4}), {}, ActKind::kInt8); }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code_of([&] { ternary_linear(torch::randn({2, 9}), packed, {}, ActKind::kInt8); }), ErrorCode::kShapeMismatch);
  EXPECT_EQ(code_of([&] { ternary_linear(x.to(at::kDouble), packed, {}, ActKind::kInt8); }), ErrorCode::kTypeMismatch);
  EXPECT_EQ(code_of([&] { ternary_linear(x / 0, packed, {}, ActKind::kInt8); }), ErrorCode::kNotFinite);
  EXPECT_EQ(code_of([&] { bit_linear(x, weight / 0, {}, {}, ActKind::kInt8); }), ErrorCode::kNotFinite);
  PackedWeight broken{packed.codes.clone().fill_(255), packed.scale};
  EXPECT_EQ(code_of([&] { ternary_linear(x, broken, {}, ActKind::kInt8); }), ErrorCode::kCorrupt);
  try {
    ternary_linear(torch::randn({2, 9}), packed, {}, ActKind::kInt8);
  } catch (const Exception& error) {
    EXPECT_STREQ(error.what(), "[ternary_linear] codes [N, 3] for K = 9, got [3, 2]");
  }
}

}  // namespace
}  // namespace bitlab::ops
