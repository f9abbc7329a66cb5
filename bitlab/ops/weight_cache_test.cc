// What evaluation keeps of weights follows every way in which a weight can change, serves every use, and serves many threads.
#include "bitlab/ops/weight_cache.h"

#include <thread>

#include <ATen/record_function.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/ops/internal/call_observer.h"
#include "bitlab/ops/test_support.h"

namespace bitlab::ops {
namespace {

using test::same_bits;

// The training form, which keeps nothing: gradients are on.
at::Tensor trained(const at::Tensor& x, const at::Tensor& weight, const WeightQuant& quant = {}) {
  const at::AutoGradMode gradients(true);
  return bit_linear(x, weight, {}, quant, {}).detach();
}

TEST(Layouts, ChangedCodesArePackedAnew) {
  at::NoGradGuard no_grad;
  torch::manual_seed(1);
  const at::Tensor x = torch::randn({4, 32});
  const PackedWeight a = ternary_pack(torch::randn({8, 32}), {}), b = ternary_pack(torch::randn({8, 32}), {});
  const at::Tensor before = ternary_linear(x, a, {}, {}), wanted = ternary_linear(x, b, {}, {});
  a.codes.copy_(b.codes);
  a.scale.copy_(b.scale);
  EXPECT_FALSE(same_bits(before, wanted));
  EXPECT_TRUE(same_bits(ternary_linear(x, a, {}, {}), wanted));
}

TEST(Layouts, CodesOfAnotherStorageArePackedAnew) {
  at::NoGradGuard no_grad;
  torch::manual_seed(2);
  const at::Tensor x = torch::randn({4, 32});
  PackedWeight a = ternary_pack(torch::randn({8, 32}), {});
  const PackedWeight b = ternary_pack(torch::randn({8, 32}), {});
  ternary_linear(x, a, {}, {});
  a.codes.set_data(b.codes);
  a.scale.copy_(b.scale);
  EXPECT_TRUE(same_bits(ternary_linear(x, a, {}, {}), ternary_linear(x, b, {}, {})));
}

// Inference tensors have no version that would show a change.
TEST(Layouts, CodesOfInferenceModeMayChange) {
  const c10::InferenceMode inference;
  torch::manual_seed(3);
  const at::Tensor x = torch::randn({4, 32});
  PackedWeight a = ternary_pack(torch::randn({8, 32}), {});
  const PackedWeight b = ternary_pack(torch::randn({8, 32}), {});
  ASSERT_TRUE(a.codes.is_inference());
  ternary_linear(x, a, {}, {});
  a.codes.copy_(b.codes);
  a.scale.copy_(b.scale);
  EXPECT_TRUE(same_bits(ternary_linear(x, a, {}, {}), ternary_linear(x, b, {}, {})));
}

TEST(Layouts, DeadWeightsLeave) {
  at::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({1, 16});
  for (int i = 0; i < 50; ++i) ternary_linear(x, ternary_pack(torch::randn({4, 16}), {}), {}, {});
  EXPECT_LT(packed_weight_count(), 10U);
}

TEST(Codes, FollowEveryChangeOfTheWeight) {
  at::NoGradGuard no_grad;
  torch::manual_seed(4);
  const at::Tensor x = torch::randn({3, 40});
  const WeightQuant ttq{{.method = ternary::Method::kTtq}, {torch::tensor({0.4F}), torch::tensor({0.7F})}};
  for (const WeightQuant& quant : {WeightQuant{}, ttq}) {
    const at::Tensor weight = torch::randn({7, 40});
    const auto follows = [&](const char* change) {
      EXPECT_TRUE(same_bits(bit_linear(x, weight, {}, quant, {}), trained(x, weight, quant))) << change;
    };
    follows("none");
    weight.mul_(-2);
    follows("in place");
    weight.set_data(torch::randn({7, 40}));
    follows("set_data");
    weight.set_data(torch::randn({40, 7}).t());
    follows("other strides");
    weight.set_data(weight.to(at::kDouble).to(at::kFloat));
    follows("to another type and back");
    weight.t()[3].fill_(0.5);
    follows("through a view");
    weight.data().neg_();  // leaves no trace
    forget_codes(weight);
    follows("through data(), and forgotten");
    for (const at::Tensor& parameter : quant.learned) parameter.mul_(3);
    follows("what is learned");
  }
}

TEST(Codes, FollowWeightsOfInferenceMode) {
  const c10::InferenceMode inference;
  torch::manual_seed(5);
  const at::Tensor x = torch::randn({3, 40}), weight = torch::randn({7, 40});
  bit_linear(x, weight, {}, {}, {});
  weight.neg_();
  EXPECT_TRUE(same_bits(bit_linear(x, weight, {}, {}, {}), ternary_linear(x, ternary_pack(weight, {}), {}, {})));
}

TEST(Codes, OfWeightsOutsideAreKeptInInferenceMode) {
  const at::Tensor x = torch::randn({3, 40}), weight = torch::randn({7, 40});
  const c10::InferenceMode inference;
  EXPECT_TRUE(cached_codes(weight, {})->codes.is_same(cached_codes(weight, {})->codes));
}

// A weight that a convolution and its transpose read has other rows, scales and codes for each.
TEST(Codes, ServeEveryUseOfAWeight) {
  torch::manual_seed(6);
  for (const auto granularity : {ternary::Granularity::kTensor, ternary::Granularity::kChannel})
    for (const int64_t filters : {6, 9}) {
      const at::Tensor weight = torch::randn({filters, 6, 3, 3}), x = torch::randn({2, 6, 8, 7}),
                       z = torch::randn({2, filters, 5, 4});
      const WeightQuant quant{{.granularity = granularity}, {}};
      const ConvWindow plain{{1, 1}, {1, 1}, {1, 1}}, transposed{{2, 1}, {1, 1}, {1, 1}, true, {1, 0}};
      const auto both = [&] {
        std::vector<at::Tensor> results;
        for (int round = 0; round < 2; ++round) {
          results.push_back(bit_conv(x, weight, {}, plain, quant, {}).detach());
          results.push_back(bit_conv(z, weight, {}, transposed, quant, {}).detach());
        }
        return results;
      };
      const auto wanted = both();
      const at::NoGradGuard no_grad;
      const auto found = both();
      for (size_t i = 0; i < wanted.size(); ++i) EXPECT_TRUE(same_bits(found[i], wanted[i])) << i;
    }
}

TEST(Codes, KnowWhatTheyWereMadeOf) {
  const at::Tensor weight = torch::randn({4, 8}), step = torch::tensor({0.3F});
  const auto packed = cached_codes(weight, {{.method = ternary::Method::kLsq}, {step}});
  const auto sources = sources_of(packed->codes);
  ASSERT_EQ(sources.size(), 2U);
  EXPECT_TRUE(sources[0].is_same(weight));
  EXPECT_TRUE(sources[1].is_same(step));
  EXPECT_TRUE(sources_of(weight).empty());
}

TEST(Codes, AreMadeByManyThreadsAtOnce) {
  torch::manual_seed(7);
  const at::Tensor x = torch::randn({2, 64});
  for (int round = 0; round < 50; ++round) {
    const at::Tensor weight = torch::randn({32, 64}), wanted = trained(x, weight);
    std::vector<at::Tensor> found(8);
    std::vector<std::thread> threads;
    for (at::Tensor& y : found)
      threads.emplace_back([&] {
        const at::NoGradGuard no_grad;
        y = bit_linear(x, weight, {}, {}, {});
      });
    for (std::thread& thread : threads) thread.join();
    for (const at::Tensor& y : found) ASSERT_TRUE(same_bits(y, wanted));
  }
}

// What a listener is shown, as text: "(" and ")" around calls, "!" where one is replaced.
struct Log : CallListener {
  std::string text;
  void enter(const at::RecordFunction& fn) override { text += fmt::format("({}", fn.name()); }
  void leave(const at::RecordFunction&) override { text += ")"; }
  void rewritten() override { text += "!"; }
};

TEST(Observers, EachSeesTheCallsOfItsLifetime) {
  const at::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({2, 8}), weight = torch::randn({4, 8});
  Log outer, inner;
  {
    const CallObserver first(outer);
    {
      const CallObserver second(inner);
      bit_linear(x, weight, {}, {}, {});
      const ObservationPause pause;
      x.clone();
    }
    x.neg();
  }
  x.abs();
  EXPECT_TRUE(inner.text.starts_with("(bitlab::bit_linear!(bitlab::ternary_linear")) << inner.text;
  EXPECT_EQ(outer.text, inner.text + "(aten::neg)");
}

}  // namespace
}  // namespace bitlab::ops
