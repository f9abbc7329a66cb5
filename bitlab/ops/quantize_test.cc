// The quantizers of devices without kernels, run on the CPU, against the CPU's own: to the bit, errors included.
#include <cmath>
#include <limits>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/base/test_support.h"
#include "bitlab/ops/internal/implementations.h"
#include "bitlab/ops/test_support.h"
#include "bitlab/ternary/test_support.h"

namespace bitlab::ops {
namespace {

using bitlab::test::message_of;

using ternary::Granularity;
using ternary::WeightSpec;

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<WeightSpec> all_specs() {
  std::vector<WeightSpec> list;
  for (size_t m = 0; m < ternary::method_list().size(); ++m)
    for (Granularity granularity : {Granularity::kTensor, Granularity::kChannel, Granularity::kGroup})
      for (int64_t group : {64, 256}) {
        const WeightSpec spec{.method = static_cast<ternary::Method>(m), .granularity = granularity, .group = group};
        if (!validate(spec).ok() || (group != 64 && granularity != Granularity::kGroup)) continue;
        list.push_back(spec);
        WeightSpec sparse = spec, random = spec;
        sparse.sparsity = group == 64 ? ternary::Sparsity::k2of4 : ternary::Sparsity::k6of8;
        if (validate(sparse).ok()) list.push_back(sparse);
        random.rounding = ternary::Rounding::kStochastic, random.draw = 0x7123456789ABCDEF;
        if (validate(random).ok()) list.push_back(random);
      }
  list.push_back({.sparsity = ternary::Sparsity::k3of4, .rounding = ternary::Rounding::kStochastic, .draw = 1});
  list.push_back({.method = ternary::Method::kTwn, .granularity = Granularity::kGroup, .group = 64, .threshold = 1.3});
  list.push_back({.method = ternary::Method::kTtq, .threshold = 0.001});
  list.push_back({.method = ternary::Method::kFixed, .granularity = Granularity::kChannel, .threshold = 100});
  return list;
}

// Over many orders of magnitude, so that the order of additions shows.
at::Tensor wide(at::IntArrayRef sizes) { return torch::ldexp(torch::randn(sizes), torch::randint(-20, 6, sizes)); }

// Bits, type and memory format.
bool are_same(const at::Tensor& a, const at::Tensor& b) {
  return a.suggest_memory_format() == b.suggest_memory_format() && a.scalar_type() == b.scalar_type() &&
         test::same_bits(a, b);
}

using Learned = std::vector<at::Tensor>;

Learned learned_for(const WeightSpec& spec, int64_t rows) {
  const int64_t scales = spec.granularity == Granularity::kTensor ? 1 : rows;
  Learned learned;
  for (size_t i = 0; i < info(spec.method).learned.size(); ++i) learned.push_back(torch::randn({scales}));
  return learned;
}

void expect_same(const WeightSpec& spec, const at::Tensor& weight, const Learned& learned, bool transposed = false,
                 int64_t groups = 1) {
  const std::string text = to_text(spec);
  const auto [t, scale, scale_neg, threshold] = any_device::quantize_weight(weight, text, learned, transposed, groups);
  const auto [t2, scale2, scale_neg2, threshold2] = cpu::quantize_weight(weight, text, learned, transposed, groups);
  EXPECT_TRUE(are_same(t, t2)) << text << weight.sizes();
  EXPECT_TRUE(are_same(scale, scale2)) << text << weight.sizes();
  EXPECT_TRUE(are_same(scale_neg, scale_neg2)) << text << weight.sizes();
  EXPECT_TRUE(are_same(threshold, threshold2)) << text << weight.sizes();
}

TEST(QuantizeWeight, AnyDeviceHasTheBitsOfTheCpu) {
  torch::manual_seed(1);
  for (const WeightSpec& spec : all_specs())
    for (auto [rows, depth] : {std::pair<int64_t, int64_t>{1, 1},
                               {1, 15},
                               {16, 1},
                               {1, 17},
                               {3, 63},
                               {1, 4095},
                               {2, 4096},
                               {1, 4097},
                               {5, 3 * 4096 + 5},
                               {7, 20'481},
                               {129, 301},
                               {3, 32'771}}) {
      const bool plain = spec.sparsity == ternary::Sparsity::kDense && spec.draw == 0;
      if (plain || rows * depth < 20'000) expect_same(spec, wide({rows, depth}), learned_for(spec, rows));
    }
}

// Float scales hide the last bits of most sums; not of these.
TEST(QuantizeWeight, AnyDeviceAddsInTheOrderOfTheCpu) {
  int differs = 0, trials = 0;
  for (int64_t n : {1024, 4097, 8192, 3 * 4096 + 5, 7 * 4096})
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const at::Tensor weight = torch::tensor(ternary::test::order_sensitive_weights(n, seed)).view({1, n});
      const WeightSpec fixed{.method = ternary::Method::kFixed, .threshold = ternary::test::kBelowOrderSensitive};
      expect_same(fixed, weight, {});
      if ((n & (n - 1)) == 0) expect_same({.method = ternary::Method::kAbsmean}, weight, {});
      const at::Tensor scale = std::get<1>(cpu::quantize_weight(weight, to_text(fixed), {}, false, 1));
      double serial = 0;
      for (int64_t i = 0; i < n; ++i) serial += std::fabs(weight.const_data_ptr<float>()[i]);
      differs += scale.item<float>() != static_cast<float>(serial / 8) ? 1 : 0;
      ++trials;
    }
  EXPECT_GT(differs, trials / 20) << "weights for which an order shows";
}

// LibTorch's gradient of a convolution writes beyond its memory for a weight of one pixel whose strides are those of a permuted one.
TEST(QuantizeWeight, FiltersOfOnePixelHaveTheStridesOfTheirWeight) {
  const at::Tensor weight = torch::randn({48, 3, 1, 1});
  for (const auto& quantize : {cpu::quantize_weight, any_device::quantize_weight})
    EXPECT_EQ(std::get<0>(quantize(weight, to_text(WeightSpec{}), {}, false, 1)).strides(), weight.strides());
}

TEST(QuantizeWeight, AnyDeviceKeepsTheLayoutOfConvolutions) {
  torch::manual_seed(2);
  for (const WeightSpec& spec : all_specs()) {
    const bool grouped = spec.granularity == Granularity::kGroup;
    const int64_t channels = grouped ? spec.group : 6;  // of a group: those of one tap
    for (int64_t dims : {1, 2, 3}) {
      std::vector<int64_t> kernel{3, 2, 5};
      kernel.resize(static_cast<size_t>(dims));
      const auto shaped = [&](int64_t first, int64_t second) {
        std::vector<int64_t> sizes{first, second};
        sizes.insert(sizes.end(), kernel.begin(), kernel.end());
        return wide(sizes);
      };
      expect_same(spec, shaped(10, channels), learned_for(spec, 10));
      expect_same(spec, shaped(10, channels), learned_for(spec, 10), false, 2);
      expect_same(spec, shaped(channels, 7), learned_for(spec, 7), true);
      expect_same(spec, shaped(2 * channels, 7), learned_for(spec, 14), true, 2);
      if (dims != 2) continue;
      expect_same(spec, shaped(10, channels).contiguous(at::MemoryFormat::ChannelsLast), learned_for(spec, 10));
    }
  }
}

TEST(QuantizeWeight, AnyDeviceOnEdges) {
  for (const WeightSpec& spec : all_specs()) {
    const Learned learned = learned_for(spec, 3);
    for (double value : {0.0, -0.0, 1e-45, 1e-6, -1.0}) expect_same(spec, torch::full({3, 130}, value, at::kFloat), learned);
    if (spec.granularity != Granularity::kGroup) expect_same(spec, torch::full({3, 130}, 3e38, at::kFloat), learned);
    // Halves of a step, equal values, a transposed view.
    expect_same(spec, torch::randint(-8, 9, {3, 4099}).to(at::kFloat) / 2, learned);
    expect_same(spec, wide({300, 3}).t(), learned);
  }
}

TEST(QuantizeWeight, AnyDeviceReportsWhatTheCpuReports) {
  for (const WeightSpec& spec : all_specs()) {
    const std::string text = to_text(spec);
    const auto both = [&](const at::Tensor& weight, const Learned& learned) {
      const auto cpu = message_of([&] { cpu::quantize_weight(weight, text, learned, false, 1); });
      EXPECT_NE(cpu, "no error") << text;
      EXPECT_EQ(message_of([&] { any_device::quantize_weight(weight, text, learned, false, 1); }), cpu);
    };
    const Learned learned = learned_for(spec, 3);
    for (float bad : {kInfinity, -kInfinity, kNan}) {
      at::Tensor weight = torch::randn({3, 5000});
      weight[1][77] = bad;
      weight[2][4999] = kNan;
      both(weight, learned);
      for (size_t i = 0; i < learned.size(); ++i) {
        Learned broken = learned;
        broken[i] = torch::full_like(learned[i], bad);
        both(weight, broken);
        both(torch::randn({3, 5}), broken);
      }
    }
    for (size_t i = 0; i < learned.size(); ++i) {
      Learned other = learned;
      other[i] = torch::randn({2});
      both(torch::randn({3, 5}), other);
      other.pop_back();
      both(torch::randn({3, 5}), other);
    }
    both(torch::randn({3, 5}), Learned(learned.size() + 1, torch::randn({1})));
    both(torch::randn({3, 5}, at::kDouble), learned);
    if (spec.granularity == Granularity::kGroup)
      both(torch::cat({torch::randn({2, 300}), torch::randn({1, 300}) * 1e6}), learned);
  }
}

TEST(QuantizeWeight, AnyDeviceHasNoGradient) {
  const at::Tensor weight = torch::randn({3, 5}, at::requires_grad());
  const auto [t, scale, scale_neg, threshold] = any_device::quantize_weight(weight, "twn", {}, false, 1);
  EXPECT_FALSE(scale.requires_grad());
  EXPECT_FALSE(threshold.requires_grad());
}

TEST(QuantizeActivation, AnyDeviceHasTheBitsOfTheCpu) {
  torch::manual_seed(3);
  const at::Tensor step = torch::full({1}, 0.043);
  for (const char* kind : {"int8", "int4", "int8_static", "int4_static"})
    for (const auto& sizes :
         std::vector<std::vector<int64_t>>{{1}, {3, 7}, {2, 5, 33}, {2, 3, 9, 8}, {0, 4}, {4, 0}, {100, 4097}})
      for (int64_t start : {int64_t{-1}, int64_t{0}, static_cast<int64_t>(sizes.size()) / 2}) {
        const OptionalTensor act_scale = std::string_view(kind).ends_with("static") ? OptionalTensor(step) : std::nullopt;
        const at::Tensor x = wide(sizes);
        const auto [q, a] = any_device::quantize_activation(x, start, kind, act_scale);
        const auto [q2, a2] = cpu::quantize_activation(x, start, kind, act_scale);
        EXPECT_TRUE(are_same(q, q2)) << kind << sizes << start;
        EXPECT_TRUE(are_same(a, a2)) << kind << sizes << start;
      }
}

TEST(QuantizeActivation, AnyDeviceReportsWhatTheCpuReports) {
  const auto both = [](const at::Tensor& x, std::string_view kind, const OptionalTensor& act_scale) {
    const auto cpu = message_of([&] { cpu::quantize_activation(x, -1, kind, act_scale); });
    EXPECT_NE(cpu, "no error");
    EXPECT_EQ(message_of([&] { any_device::quantize_activation(x, -1, kind, act_scale); }), cpu);
  };
  const at::Tensor step = torch::full({1}, 0.1);
  for (float bad : {kInfinity, -kInfinity, kNan}) {
    at::Tensor x = torch::randn({5, 33});
    x[3][17] = bad;
    both(x, "int8", {});
    both(x, "int4_static", step);
    both(torch::randn({5, 33}), "int8_static", torch::full({1}, bad));
  }
  for (double bad : {0.0, 1e-31, -1.0}) both(torch::randn({5, 33}), "int8_static", torch::full({1}, bad, at::kFloat));
  both(torch::randn({5, 33}), "int8_static", {});
  both(torch::randn({5, 33}), "int8", step);
  both(torch::randn({5, 33}), "none", {});
  both(torch::randn({5, 33}, at::kDouble), "int8", {});
}

}  // namespace
}  // namespace bitlab::ops
