// Operators on a CUDA device beside those of the CPU. The device is the one that the host plays: a ctest entry of its own loads it
// (tests/cuda/played_libtorch.cc).
#include <c10/core/Event.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <fmt/ranges.h>
#include <torch/torch.h>

#include "bitlab/kernels/internal/cuda_plugin.h"
#include "bitlab/ops/internal/implementations.h"
#include "bitlab/ops/test_support.h"

namespace bitlab::ops {
namespace {

using test::act_of, test::ActKind, test::Granularity, test::Method, test::same_bits, test::WeightSpec;

#define BITLAB_NEEDS_A_DEVICE() \
  if (!at::hasCUDA()) GTEST_SKIP() << "of the ctest entry torch_test_device"

at::Tensor moved(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kCUDA) : tensor; }
OptionalTensor moved(const OptionalTensor& tensor) { return tensor ? OptionalTensor(moved(*tensor)) : tensor; }
PackedWeight moved(const PackedWeight& w) { return {moved(w.codes), moved(w.scale), moved(w.scale_neg), w.group}; }
ActQuant moved(const ActQuant& act) { return {act.kind, moved(act.act_scale)}; }

void expect_same(const at::Tensor& found, const at::Tensor& expected) {
  EXPECT_TRUE(found.is_cuda());
  EXPECT_EQ(found.strides(), expected.strides());
  EXPECT_TRUE(same_bits(found.cpu(), expected));
}

std::vector<ActQuant> activations(const WeightSpec& spec) {
  std::vector<ActQuant> list;
  for (const ActKind kind : test::kQuantizing) list.push_back(act_of(kind));
  const bool stays_float =
      is_ternary(spec.method) && spec.granularity != Granularity::kGroup && !info(spec.method).asymmetric;
  if (stays_float) list.push_back(act_of(ActKind::kNone));
  return list;
}

TEST(Cuda, TernaryLinearHasTheBitsOfTheCpu) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(1);
  for (const WeightSpec& spec : test::specs(true))
    for (const ActQuant& act : activations(spec))
      for (const auto& [rows, depth] : {std::pair<int64_t, int64_t>{5, 131}, {67, 192}}) {
        SCOPED_TRACE(fmt::format("{} {}", to_text(spec), name(act.kind)));
        const PackedWeight weight = ternary_pack(at::randn({rows, depth}), test::quant_of(spec, rows));
        const at::Tensor x = at::randn({3, 2, depth}).transpose(0, 1);
        for (const OptionalTensor& bias : {OptionalTensor(), OptionalTensor(at::randn({rows}))})
          expect_same(ternary_linear(moved(x), moved(weight), moved(bias), moved(act)),
                      ternary_linear(x, weight, bias, act));
      }
}

TEST(Cuda, TernaryConvHasTheBitsOfTheCpu) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(2);
  for (const test::ConvCase& c : test::conv_cases())
    for (const Method method : {Method::kAbsmean, Method::kTtq, Method::kInt8})
      for (const Granularity granularity : {Granularity::kTensor, Granularity::kChannel}) {
        const WeightSpec spec{.method = method, .granularity = granularity};
        if (!validate(spec).ok()) continue;
        const at::Tensor x = at::randn(test::concat({c.batch, c.channels}, c.input));
        const PackedWeight weight = ternary_pack(test::random_weight(c), test::quant_of(spec, c.filters), &c.window);
        const at::Tensor bias = at::randn({c.filters});
        for (const ActQuant& act : activations(spec)) {
          SCOPED_TRACE(fmt::format("{} {} {}", to_text(spec), name(act.kind), fmt::join(c.kernel, "x")));
          const at::Tensor expected = ternary_conv(x, weight, bias, c.kernel, c.window, act);
          expect_same(ternary_conv(moved(x), moved(weight), moved(bias), c.kernel, c.window, moved(act)), expected);
          expect_same(ternary_conv(moved(x[0]), moved(weight), moved(bias), c.kernel, c.window, moved(act)),
                      ternary_conv(x[0], weight, bias, c.kernel, c.window, act));
          if (x.dim() != 4) continue;
          const at::Tensor last = x.contiguous(at::MemoryFormat::ChannelsLast);
          expect_same(ternary_conv(moved(last), moved(weight), moved(bias), c.kernel, c.window, moved(act)),
                      ternary_conv(last, weight, bias, c.kernel, c.window, act));
        }
      }
}

TEST(Cuda, TernaryEmbeddingHasTheBitsOfTheCpu) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(3);
  constexpr int64_t kRows = 21, kDepth = 70;
  const at::Tensor indices = at::randint(kRows, {4, 5}).t();
  for (const WeightSpec& spec : test::specs(true)) {
    SCOPED_TRACE(to_text(spec));
    const PackedWeight table = ternary_pack(at::randn({kRows, kDepth}), test::quant_of(spec, kRows));
    expect_same(ternary_embedding(moved(table), moved(indices), kDepth), ternary_embedding(table, indices, kDepth));
    const at::Tensor outside = at::tensor({int64_t{3}, kRows, int64_t{-1}});
    const at::Tensor found = ternary_embedding(moved(table), moved(outside), kDepth).cpu();
    EXPECT_TRUE(same_bits(found[0], ternary_embedding(table, outside.narrow(0, 0, 1), kDepth)[0]));
    EXPECT_TRUE(found.narrow(0, 1, 2).isnan().all().item<bool>());
  }
}

// Forward and back, by the encoders and products of the plug-in and by LibTorch's operators.
TEST(Cuda, LayersInTrainingHaveTheBitsOfTheCpu) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(4);
  for (const WeightSpec& spec : test::specs(true))
    for (const double blend : {1.0, 0.25}) {
      SCOPED_TRACE(fmt::format("{} {}", to_text(spec), blend));
      const WeightQuant quant = test::quant_of(spec, 9);
      WeightQuant other{spec, {}};
      for (const at::Tensor& learned : quant.learned) other.learned.push_back(moved(learned));
      const at::Tensor x = at::randn({7, 70}), bias = at::randn({9});
      const at::Tensor weight = at::randn({9, 70}).requires_grad_(), device_weight = moved(weight.detach()).requires_grad_();
      const at::Tensor y = bit_linear(x, weight, bias, quant, {}, blend),
                       found = bit_linear(moved(x), device_weight, moved(bias), other, {}, blend);
      if (blend == 1) {
        expect_same(found.detach(), y.detach());
      } else {
        EXPECT_TRUE(at::allclose(found.detach().cpu(), y.detach(), 1e-5, 1e-5));
      }
      y.square().sum().backward();
      found.square().sum().backward();
      EXPECT_TRUE(at::allclose(device_weight.grad().cpu(), weight.grad(), 1e-4, 1e-4));
    }
}

// Results in 16 bits are those in float32, rounded once; x may have 16 bits, too.
TEST(Cuda, AutocastRoundsTheResultsOfLayers) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(5);
  const auto check = [](at::ScalarType type, const at::Tensor& x, const at::Tensor& weight, const auto& layer) {
    const at::Tensor own = x.to(type), expected = layer(own.to(at::kFloat), weight).to(type);
    const at::Tensor leaf = moved(own).requires_grad_(), device_weight = moved(weight).requires_grad_();
    at::Tensor y;
    {
      const test::Autocast autocast(at::kCUDA, type);
      y = layer(leaf, device_weight);
    }
    expect_same(y.detach(), expected);
    y.sum().backward();
    EXPECT_EQ(leaf.grad().scalar_type(), type);
    EXPECT_EQ(device_weight.grad().scalar_type(), at::kFloat);
  };
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf})
    for (const Method method : {Method::kAbsmean, Method::kTwnAsymmetric, Method::kInt8}) {
      const WeightSpec spec{.method = method, .granularity = Granularity::kChannel};
      SCOPED_TRACE(fmt::format("{} {}", to_text(spec), c10::toString(type)));
      // Of 7 tokens the product begins early, and right behind the codes, as q takes no padding.
      for (const auto& [tokens, depth] : {std::pair<int64_t, int64_t>{1, 70}, {7, 256}, {70, 256}})
        check(type, at::randn({tokens, depth}), at::randn({67, depth}), [&](const at::Tensor& x, const at::Tensor& weight) {
          return bit_linear(x, weight, {}, {spec, {}}, {});
        });
      for (const test::ConvCase& c : test::conv_cases())
        check(type, at::randn(test::concat({c.batch, c.channels}, c.input)), test::random_weight(c),
              [&](const at::Tensor& x, const at::Tensor& weight) {
                return bit_conv(x, weight, {}, c.window, {spec, {}}, {});
              });
    }
}

// What is evaluated is what evaluation on the CPU computes, of codes that follow their weight.
TEST(Cuda, EvaluationHasTheBitsOfTheCpu) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(6);
  const at::NoGradGuard no_grad;
  for (const WeightSpec& spec : test::specs(true))
    for (const ActQuant& act : activations(spec)) {
      SCOPED_TRACE(fmt::format("{} {}", to_text(spec), name(act.kind)));
      const WeightQuant quant = test::quant_of(spec, 9);
      WeightQuant other{spec, {}};
      for (const at::Tensor& learned : quant.learned) other.learned.push_back(moved(learned));
      const at::Tensor x = at::randn({3, 70}), weight = at::randn({9, 70}), device_weight = moved(weight),
                       bias = at::randn({9});
      const auto check = [&] {
        for (int i = 0; i < 2; ++i)
          expect_same(bit_linear(moved(x), device_weight, moved(bias), other, moved(act)),
                      bit_linear(x, weight, bias, quant, act));
      };
      check();
      weight.mul_(-3), device_weight.mul_(-3);
      check();
      if (quant.learned.empty()) continue;
      for (const at::Tensor& learned : quant.learned) learned.mul_(2);
      for (const at::Tensor& learned : other.learned) learned.mul_(2);
      check();
    }
}

TEST(Cuda, EvaluationOfConvolutionsHasTheBitsOfTheCpu) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(7);
  const at::NoGradGuard no_grad;
  for (const test::ConvCase& c : test::conv_cases())
    for (const char* text : {"absmean", "ttq", "int8", "absmean/group64"}) {
      const WeightSpec spec = ternary::parse_weight_spec(text).value();
      if (spec.granularity == Granularity::kGroup && c.channels % spec.group != 0) continue;
      const at::Tensor x = at::randn(test::concat({c.batch, c.channels}, c.input)), weight = test::random_weight(c);
      const WeightQuant quant = test::quant_of(spec, c.filters);
      WeightQuant other{spec, {}};
      for (const at::Tensor& learned : quant.learned) other.learned.push_back(moved(learned));
      for (const ActQuant& act : activations(spec)) {
        SCOPED_TRACE(fmt::format("{} {} {}", text, name(act.kind), fmt::join(c.kernel, "x")));
        expect_same(bit_conv(moved(x), moved(weight), {}, c.window, other, moved(act)),
                    bit_conv(x, weight, {}, c.window, quant, act));
      }
    }
}

// The products of a backward pass have the type of the results, whoever asks for it, and values of float16 that no scale of float16 would give.
TEST(Cuda, GradientsComeFromProductsInTheTypeOfResults) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(8);
  const at::Tensor x = moved(at::randn({30, 64}) * 3e-5), start = at::randn({20, 64}), g = moved(at::randn({30, 20}));
  const OptionalTensor none;
  const auto gradient_of = [&](auto layer) {
    const at::Tensor weight = moved(start).requires_grad_();
    const at::Tensor y = layer(weight);
    y.backward(g.to(y.scalar_type()));
    return weight.grad().cpu();
  };
  const auto in_float32 = gradient_of([&](const at::Tensor& weight) { return bit_linear(x, weight, {}, {}, {}); });
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    SCOPED_TRACE(c10::toString(type));
    const at::Tensor asked = gradient_of([&](const at::Tensor& weight) {
      return redispatch::bit_product({x, weight, none, std::nullopt, "absmean/tensor", "int8", {}, none, 1, type});
    });
    const at::Tensor automatic = gradient_of([&](const at::Tensor& weight) {
      const test::Autocast autocast(at::kCUDA, type);
      return bit_linear(x, weight, {}, {}, {});
    });
    EXPECT_TRUE(same_bits(asked, automatic));
    EXPECT_FALSE(same_bits(asked, in_float32));
    EXPECT_LT((asked - in_float32).norm().item<double>(), 0.01 * in_float32.norm().item<double>());
  }
}

// Whether the host waits for the device in a call.
template <class Call>
bool waits(Call call) {
  c10::Event before(at::kCUDA, c10::EventFlag::BACKEND_DEFAULT);
  before.record(c10::impl::VirtualGuardImpl(at::kCUDA).getStream({at::kCUDA, 0}));
  call();
  return before.query();
}

// It waits for codes that are kept, once.
TEST(Cuda, EvaluationWaitsForCodesThatAreKept) {
  BITLAB_NEEDS_A_DEVICE();
  const at::NoGradGuard no_grad;
  const at::Tensor x = moved(at::randn({3, 70})), weight = moved(at::randn({9, 70}));
  const auto layer = [&](const at::Tensor& own) { bit_linear(x, own, {}, {}, {}); };
  EXPECT_TRUE(waits([&] { layer(weight); }));
  EXPECT_FALSE(waits([&] { layer(weight); }));
  weight.mul_(2);
  EXPECT_TRUE(waits([&] { layer(weight); }));
  const c10::InferenceMode inference;  // whose tensors change unseen
  const at::Tensor unseen = weight.clone();
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(waits([&] { layer(unseen); }));
}

// A graph computes with the weight that it finds when it is run.
TEST(Cuda, GraphsFollowTheirWeights) {
  BITLAB_NEEDS_A_DEVICE();
  at::manual_seed(9);
  const at::NoGradGuard no_grad;
  const kernels::CudaPlugin& plugin = *kernels::cuda_plugin().value();
  const at::Tensor x = at::randn({20, 256}), weight = at::randn({40, 256}), device_x = moved(x),
                   device_weight = moved(weight);
  const auto layer = [&] { return bit_linear(device_x, device_weight, {}, {}, {}); };
  layer();  // whose codes are kept
  at::Tensor y;
  void* graph = nullptr;
  const auto capture = [&] {
    ASSERT_EQ(plugin.begin_graph(nullptr), nullptr);
    y = layer();
    ASSERT_EQ(plugin.end_graph(nullptr, &graph), nullptr);
  };
  EXPECT_FALSE(waits(capture));
  for (const double factor : {-3.0, 0.5}) {
    weight.mul_(factor), device_weight.mul_(factor);
    ASSERT_EQ(plugin.run_graph(graph, nullptr), nullptr);
    expect_same(y, bit_linear(x, weight, {}, {}, {}));
  }
  plugin.release_graph(graph);
}

// What is traced has the form of what is computed, of samples without a batch that are no block of memory and of x in 16 bits, too.
TEST(Cuda, TracesHaveTheFormOfResults) {
  BITLAB_NEEDS_A_DEVICE();
  const at::Tensor picture = at::randn({6, 5, 64}).permute({2, 0, 1}), filters = at::randn({5, 64, 3, 3}),
                   rows = at::randn({9, 64});
  const ConvWindow window{{1, 1}, {1, 1}, {1, 1}};
  for (const bool learns : {false, true})
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(fmt::format("{} {}", learns, c10::toString(type)));
      const auto check = [&](const auto& layer) {
        const at::Tensor found = layer(at::kCUDA), traced = layer(at::kMeta);
        EXPECT_EQ(found.sizes(), traced.sizes());
        EXPECT_EQ(found.strides(), traced.strides());
        EXPECT_EQ(found.scalar_type(), traced.scalar_type());
      };
      if (learns) {  // LibTorch's convolution has no such form in C++
        EXPECT_TRUE(bit_conv(moved(picture.to(type)), moved(filters).requires_grad_(), {}, window, {}, {}).is_contiguous());
      } else {
        check([&](at::DeviceType device) {
          return bit_conv(picture.to(device, type), filters.to(device), {}, window, {}, {});
        });
      }
      check([&](at::DeviceType device) {
        return bit_linear(picture.to(device, type).movedim(0, -1), rows.to(device).requires_grad_(learns), {}, {}, {});
      });
    }
}

TEST(Cuda, WhatCannotBeIsRefused) {
  BITLAB_NEEDS_A_DEVICE();
  const PackedWeight weight = ternary_pack(at::randn({4, 8}), {});
  const at::Tensor x = at::randn({2, 8});
  EXPECT_EQ(test::code_of([&] { ternary_linear(moved(x), weight, {}, {}); }), ErrorCode::kInvalidArgument);
  EXPECT_EQ(test::code_of([&] { ternary_linear(moved(x), moved(weight), at::randn({4}), {}); }),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(test::code_of([&] {
              ternary_linear(moved(at::randn({2, 9})), moved(weight), {}, {});
            }),
            ErrorCode::kShapeMismatch);
  // What the host has is no memory of the device.
  const at::Tensor latent = at::randn({4, 8}), filters = at::randn({4, 1, 2}), bias = at::randn({4}),
                   place = at::tensor({int64_t{0}});
  const ConvWindow window{.stride = {1}, .padding = {0}, .dilation = {1}, .groups = 2};
  for (const bool learns : {false, true}) {
    const c10::AutoGradMode mode(learns);
    const auto refuses = [](auto layer) { EXPECT_EQ(test::code_of(layer), ErrorCode::kInvalidArgument); };
    refuses([&] { bit_linear(moved(x), moved(latent), bias, {}, {}); });
    refuses([&] { bit_linear(moved(x), latent, {}, {}, {}); });
    refuses([&] { bit_linear(x, moved(latent), {}, {}, {}); });
    refuses([&] { bit_conv(moved(x), filters, {}, window, {}, {}); });
    refuses([&] { bit_conv(moved(x), moved(filters), bias, window, {}, {}); });
    refuses([&] { ternary_embedding(moved(weight), place, 8); });
    refuses([&] { ternary_embedding(weight, moved(place), 8); });
  }
  EXPECT_EQ(test::code_of([&] {
              quantize_weight(moved(latent), {{}, {moved(at::ones({1}))}});
            }),
            test::code_of([&] {
              quantize_weight(latent, {{}, {at::ones({1})}});
            }));
  PackedWeight broken = moved(weight);
  broken.codes = at::full_like(broken.codes, 0xFF);
  EXPECT_EQ(test::code_of([&] { ternary_linear(moved(x), broken, {}, {}); }), ErrorCode::kCorrupt);
  EXPECT_EQ(test::code_of([&] { ternary_embedding(broken, moved(at::tensor({int64_t{0}})), 8); }), ErrorCode::kCorrupt);
  // Without inputs there is the bias.
  const PackedWeight empty{at::empty({4, 0}, at::kByte), at::ones({1}), {}, 0};
  EXPECT_TRUE(same_bits(ternary_linear(moved(at::empty({2, 0})), moved(empty), moved(bias), {}).cpu(), bias.expand({2, 4})));
}

}  // namespace
}  // namespace bitlab::ops
