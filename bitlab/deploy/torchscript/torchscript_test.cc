// TorchScript of programs that no forward pass makes: names, refusals. What it computes is compared in python/tests/test_formats_torchscript.py.
#include "bitlab/deploy/torchscript/torchscript.h"

#include <filesystem>
#include <sstream>
#include <unistd.h>

#include <gtest/gtest.h>
#include <torch/csrc/jit/mobile/import.h>
#include <torch/csrc/jit/serialization/import.h>
#include <torch/torch.h>

#include "bitlab/base/file.h"
#include "bitlab/deploy/test_support.h"
#include "bitlab/deploy/torch_formats.h"
#include "bitlab/format/formats.h"

namespace bitlab::deploy {
namespace {

using program::DType, program::kBatch, program::Op, program::ProgramBuilder, program::Sizes;
using test::same_bits;

// relu(x + w) with the names given.
program::Program sum_of(const std::string& input, const std::string& weight, const std::string& node) {
  ProgramBuilder b;
  const auto x = b.input(input, {kBatch, 3}), w = b.floats(weight, {3}, {1, -2, 0.5F});
  const auto sum = b.node(Op::add, node, {x, w}).value();
  return b.finish({b.node(Op::relu, node + "+", {sum}).value()}).value();
}

TEST(TorchScript, AnyNamesBecomeIdentifiers) {
  const at::Tensor x = torch::randn({4, 3});
  const at::Tensor expected = torch::relu(x + torch::tensor({1.0F, -2.0F, 0.5F}));
  for (const std::string name :
       {"self", "torch", "forward", "0", "a b", "in", "bitlab", "batch", "ß", "x\n    import os", "\"\"\"", "self.x("}) {
    torch::jit::Module module = to_torchscript(sum_of(name, name + ".", name + "'"), "packed").value();
    EXPECT_TRUE(same_bits(module.forward({x}).toTensor(), expected)) << name;
  }
}

TEST(TorchScript, ProgramsWithoutAFormAreRefusedByNode) {
  ProgramBuilder b;
  const auto x = b.input("x", {kBatch, 2, 8});
  const auto pool =
      b.node(Op::avg_pool, "pool", {x},
             {{"kernel_size", Sizes{2}}, {"stride", Sizes{2}}, {"padding", Sizes{0}}, {"divisor", int64_t{3}}});
  const auto program = b.finish({pool.value()}).value();
  const auto refused = to_script(program);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(refused.error().message.find("avg_pool (node=pool)"), std::string::npos) << refused.error().message;
  const auto flat = b.input("flat", {kBatch * b.symbol("tokens")});
  const auto untold = b.finish({b.node(Op::relu, "y", {flat}).value()});
  ASSERT_TRUE(untold.ok());
  EXPECT_NE(to_script(*untold).error().message.find("(symbol=batch)"), std::string::npos);
  EXPECT_EQ(to_script(program, "float").error().code, ErrorCode::kUnknownName);
}

TEST(TorchScript, BothFilesAreLoadedByLibTorch) {
  const program::Program program = sum_of("input", "w", "y");
  const at::Tensor x = torch::randn({2, 3});
  const at::Tensor expected = test::run_program(program, x);
  std::istringstream script(torchscript_bytes(program).value()), phone(to_mobile(program).value());
  EXPECT_TRUE(same_bits(torch::jit::load(script).forward({x}).toTensor(), expected));
  EXPECT_TRUE(same_bits(torch::jit::_load_for_mobile(phone).forward({x}).toTensor(), expected));
}

TEST(TorchScript, AFormatIsAddedOnce) {
  register_formats(), register_formats();
  const auto list = format::format_list();
  EXPECT_EQ(
      std::count_if(list.begin(), list.end(), [](const auto& f) { return f.extension == ".pt" || f.extension == ".ptl"; }),
      2);
  const program::Program program = sum_of("x", "w", "y");
  const auto path = std::filesystem::temp_directory_path() / fmt::format("torchscript_test_{}.pt", getpid());
  ASSERT_TRUE(format::save(program, path).ok());
  EXPECT_EQ(read_file(path).value(), torchscript_bytes(program).value()) << "the same bytes for the same program";
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace bitlab::deploy
