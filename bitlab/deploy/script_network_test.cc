// Networks that are TorchScript, as modules. Those of whole programs and of files by PyTorch: python/tests/test_formats_module.py.
#include "bitlab/deploy/script_network.h"

#include <filesystem>
#include <unistd.h>

#include <gtest/gtest.h>
#include <torch/csrc/jit/serialization/export.h>
#include <torch/torch.h>

#include "bitlab/base/file.h"
#include "bitlab/base/test_support.h"
#include "bitlab/convert/bit_model.h"
#include "bitlab/deploy/deploy.h"
#include "bitlab/deploy/test_support.h"

namespace bitlab::deploy {
namespace {

using bitlab::test::message_of, test::same_bits;
using nn::NamedTensors;
using program::kBatch, program::Op, program::ProgramBuilder;

torch::jit::Module script(const std::string& source) {
  torch::jit::Module module("Net");
  module.register_parameter("weight", torch::randn({5, 3}, torch::requires_grad()), false);
  torch::jit::Module child("Child");
  child.register_parameter("bias", torch::randn({5}, torch::requires_grad()), false);
  module.register_module("child", child);
  module.define(source);
  return module;
}

TEST(ScriptNetwork, HasTheScriptsParametersAndOutputs) {
  ScriptNetwork net(script("def forward(self, x):\n  return torch.linear(x, self.weight, self.child.bias)\n"));
  EXPECT_EQ(net.named_parameters().keys(), (std::vector<std::string>{"weight", "child.bias"}));
  const at::Tensor x = torch::randn({2, 3});
  const at::Tensor y = net.forward({{"x", x}}).at("output");
  EXPECT_TRUE(same_bits(y, at::linear(x, net.named_parameters()["weight"], net.named_parameters()["child.bias"])));
  y.sum().backward();
  EXPECT_TRUE(net.named_parameters()["weight"].grad().defined());
  EXPECT_FALSE(net.is_training());
}

TEST(ScriptNetwork, OutputsOfEveryForm) {
  const NamedTensors x{{"x", torch::randn({2, 3})}};
  EXPECT_EQ(ScriptNetwork(script("def forward(self, x):\n  return (x, x + 1)\n")).forward(x).names(), "output_0, output_1");
  EXPECT_EQ(ScriptNetwork(script("def forward(self, x):\n  return [x, x + 1]\n")).forward(x).names(), "output_0, output_1");
  EXPECT_EQ(ScriptNetwork(script("def forward(self, x):\n  return {'a': x, 'b': x + 1}\n")).forward(x).names(), "a, b");
  EXPECT_EQ(ScriptNetwork(script("def forward(self, x, scale: float = 2.0):\n  return x * scale\n")).inputs(),
            std::vector<std::string>{"x"});
  EXPECT_NE(message_of([&] {
              ScriptNetwork(script("def forward(self, x):\n  return 3\n")).forward(x);
            }).find("outputs that are tensors, got one of int"),
            std::string::npos);
  EXPECT_NE(message_of([&] {
              ScriptNetwork(script("def forward(self, x, y):\n  return x + y\n")).forward(x);
            }).find("the inputs {x, y}, got {x}"),
            std::string::npos);
  EXPECT_NE(message_of([&] { ScriptNetwork(script("def run(self, x):\n  return x\n")); }).find("with a forward()"),
            std::string::npos);
}

// Float layers of a program are made ternary as others are, and what has no weight to train stays.
TEST(ScriptNetwork, OfAProgramIsCapturedConvertedAndDeployed) {
  ProgramBuilder b;
  const auto x = b.input("input", {kBatch, 2, 6, 5});
  const auto floats = [&](const char* name, std::vector<int64_t> sizes) {
    const at::Tensor values = torch::randn(sizes);
    return b.floats(name, sizes, {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()});
  };
  const program::Sizes ones{1, 1}, zeros{0, 0};
  const auto conv = b.node(Op::conv, "conv", {x, floats("conv.weight", {4, 3, 3, 2}), floats("conv.bias", {4})},
                           {{"stride", ones},
                            {"padding", ones},
                            {"dilation", ones},
                            {"transposed", int64_t{0}},
                            {"output_padding", zeros},
                            {"groups", int64_t{1}}})
                        .value();
  const auto flat = b.node(Op::reshape, "flat", {conv}, {{"shape", program::Shape{kBatch, 120}}}).value();
  const auto shifted = b.node(Op::add, "shifted", {flat, floats("shift", {120})}).value();
  const auto y = b.node(Op::linear, "fc", {shifted, floats("fc.weight", {7, 120})}).value();
  const program::Program program = b.finish({y}).value();

  const auto net = network_of(program).value();
  EXPECT_EQ(net->named_parameters().keys(), (std::vector<std::string>{"conv_weight", "conv_bias", "fc_weight"}));
  const NamedTensors images{{"input", torch::randn({3, 2, 6, 5})}};
  const auto again = capture(*net, images, {.signature = program.signature()}).value();
  EXPECT_EQ(to_string(again.signature()), to_string(program.signature()));
  EXPECT_TRUE(same_bits(test::run_program(again, images[0].second), test::run_program(program, images[0].second)));

  const auto ternary = convert::BitModel::wrap(net, MixedPrecisionConfig{});
  const auto made = capture(*ternary, images, {.signature = program.signature()}).value();
  const auto count = [&](Op op) {
    return std::count_if(made.nodes.begin(), made.nodes.end(), [&](auto& n) { return n.op == op; });
  };
  EXPECT_EQ(count(Op::ternary_conv), 1);
  EXPECT_EQ(count(Op::ternary_linear), 1);
  EXPECT_EQ(count(Op::conv) + count(Op::linear), 0);
}

TEST(ScriptNetwork, FilesAreLoadedOrRefused) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("script_network_test_{}.pt", getpid());
  EXPECT_EQ(load_script(path).error().code, ErrorCode::kNotFound);
  ASSERT_TRUE(write_file_atomic(path, std::string_view("no archive")).ok());
  EXPECT_EQ(load_script(path).error().code, ErrorCode::kCorrupt);
  const torch::jit::Module module =
      script("def forward(self, x):\n  return torch.linear(x, self.weight, self.child.bias)\n");
  module.save(path.string());
  const at::Tensor x = torch::randn({2, 3});
  EXPECT_TRUE(same_bits(load_script(path).value()->forward({{"x", x}})[0].second,
                        ScriptNetwork(module).forward({{"x", x}})[0].second));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace bitlab::deploy
