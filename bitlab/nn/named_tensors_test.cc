#include "bitlab/nn/named_tensors.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/base/result.h"

namespace bitlab::nn {
namespace {

TEST(NamedTensors, KeepTheOrderAndReplaceByName) {
  NamedTensors tensors{{"b", torch::ones({1})}, {"a", torch::zeros({2})}};
  tensors.set("b", torch::full({3}, 7));
  EXPECT_EQ(tensors.names(), "b, a");
  EXPECT_EQ(tensors.at("b").size(0), 3);
  EXPECT_EQ(tensors.find("c"), nullptr);
  try {
    tensors.at("c");
    FAIL();
  } catch (const Exception& error) {
    EXPECT_STREQ(error.what(), "[tensors] one called 'c', got [b, a]");
  }
}

TEST(NamedTensors, ModulesOfOneTensorAndOfSeveralAreCalledAlike) {
  struct One : torch::nn::Module {
    at::Tensor forward(const at::Tensor& x) { return x + 1; }
  } one;
  struct Several : torch::nn::Module {
    NamedTensors forward(const NamedTensors& x) { return {{"sum", x.at("a") + x.at("b")}}; }
  } several;
  const at::Tensor x = torch::tensor({1.0F, 2.0F});
  EXPECT_TRUE(torch::equal(forward_of(one)(x).at(kOutput), x + 1));
  EXPECT_TRUE(torch::equal(forward_of(one)({{"anything", x}}).at(kOutput), x + 1));
  EXPECT_TRUE(torch::equal(forward_of(several)({{"a", x}, {"b", x}}).at("sum"), 2 * x));
  EXPECT_TRUE(torch::equal(forward_of([](const at::Tensor& t) { return -t; })(x).at(kOutput), -x));
  EXPECT_THROW(forward_of(one)(NamedTensors()), Exception);
}

}  // namespace
}  // namespace bitlab::nn
