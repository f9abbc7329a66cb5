// The product of integers: which operands it takes, that autocast changes no bit of it, and what it makes of the backward pass.
#include "bitlab/ops/internal/product.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/base/machine.h"
#include "bitlab/ops/test_support.h"

namespace bitlab::ops {
namespace {

using namespace test;

// Whatever comes in: the bits of float32. Gradients are products of its type where the CPU has these, else they have the bits, too.
TEST(Autocast, HasTheBitsOfFloat32) {
  torch::manual_seed(13);
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf})
    for (const WeightSpec& spec : specs(false)) {
      const at::Tensor x = torch::randn({4, 32}).to(type), weight = torch::randn({8, 32}, at::requires_grad());
      const WeightQuant quant = quant_of(spec, 8);
      const at::Tensor expected = bit_linear(x.to(at::kFloat), weight, {}, quant, {});
      const at::Tensor wanted = torch::autograd::grad({expected.sum()}, {weight})[0];
      const Autocast on(at::kCPU, type);
      const at::Tensor y = bit_linear(x, weight, {}, quant, {});
      EXPECT_EQ(y.scalar_type(), at::kFloat);
      EXPECT_TRUE(same_bits(y, expected)) << to_text(spec);
      const at::Tensor gradient = torch::autograd::grad({y.sum()}, {weight})[0];
      if (type == at::kBFloat16 && this_machine().features.contains(Feature::avx512bf16)) {
        EXPECT_LT((gradient - wanted).abs().max().item<float>(), wanted.abs().max().item<float>() / 64) << to_text(spec);
        EXPECT_FALSE(same_bits(gradient, wanted)) << to_text(spec);
      } else {
        EXPECT_TRUE(same_bits(gradient, wanted)) << to_text(spec);
      }
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
    const Autocast on(at::kCPU, at::kBFloat16);
    EXPECT_TRUE(same_bits(bit_linear(x.to(at::kBFloat16), weight, {}, {}, {}), expected));
  }
}

TEST(IntegerProducts, AreChosenByDeviceDepthAndAutocast) {
  using Kind = IntegerProduct::Kind;
  for (const auto device : {c10::DeviceType::CPU, c10::DeviceType::CUDA})
    for (const bool linear : {true, false}) {
      const bool on_cuda = device == c10::DeviceType::CUDA;
      EXPECT_EQ(IntegerProduct::choose({device, std::nullopt, linear, true}),
                on_cuda && !linear ? Kind::kFloat64 : Kind::kFloat32);
      EXPECT_EQ(IntegerProduct::choose({device, at::kBFloat16, linear, true}), !on_cuda ? Kind::kFloat32
                                                                               : linear ? Kind::kHalf
                                                                                        : Kind::kFloat64);
      EXPECT_EQ(IntegerProduct::choose({device, at::kBFloat16, linear, false}), Kind::kFloat64);
    }
  // Both of the half types hold every operand, so that what is multiplied and summed in float32 are the integers.
  const at::Tensor integers = torch::arange(-127, 128);
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf})
    EXPECT_TRUE(torch::equal(integers.to(type).to(at::kLong), integers));
}

}  // namespace
}  // namespace bitlab::ops
