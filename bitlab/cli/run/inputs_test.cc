#include "bitlab/cli/run/inputs.h"

#include <cstring>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"

namespace bitlab::cli {
namespace {

using program::DType;
using program::kBatch;

program::Program program_of_two_inputs() {
  program::ProgramBuilder b;
  const auto x = b.input("x", {kBatch, 3}), ids = b.input("ids", {kBatch, 2}, DType::kInt64);
  return b.finish({b.node(program::Op::relu, "relu", {x}).value(), b.node(program::Op::add, "sum", {ids, ids}).value()})
      .value();
}

TEST(Inputs, AreRandomAndTheSameEachTime) {
  const program::Program p = program_of_two_inputs();
  const Inputs a(p, program::at_batch(2)), b(p, program::at_batch(2));
  ASSERT_EQ(a.views().size(), 2U);
  EXPECT_EQ(a.views()[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(std::memcmp(a.views()[0].data, b.views()[0].data, 24), 0);
  EXPECT_NE(a.views()[0].as()[0], a.views()[0].as()[1]);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(a.views()[1].as<int64_t>()[i] / 2, 0) << "0 or 1";
}

TEST(Inputs, AreReadFromFiles) {
  const std::filesystem::path path = std::filesystem::path(testing::TempDir()) / "bitlab_inputs_test.bin";
  const int64_t ids[] = {7, -1, int64_t{1} << 40, 0};
  std::string bytes(sizeof ids, '\0');
  std::memcpy(bytes.data(), ids, sizeof ids);
  ASSERT_TRUE(write_file_atomic(path, bytes).ok());
  Inputs inputs(program_of_two_inputs(), program::at_batch(2));
  ASSERT_TRUE(inputs.read({"ids=" + path.string()}).ok());
  EXPECT_EQ(std::memcmp(inputs.views()[1].data, ids, sizeof ids), 0);

  const auto error_of = [&](const std::string& text) { return inputs.read({text}).error().message; };
  EXPECT_EQ(error_of("x=" + path.string()), "[input] 24 bytes for [2, 3] of float32, got 32 (input=x)");
  EXPECT_EQ(error_of("y=a"), "[input] one of {x, ids} and its file as NAME=FILE, got 'y=a'");
  EXPECT_EQ(error_of("ids"), "[input] one of {x, ids} and its file as NAME=FILE, got 'ids'");
  EXPECT_EQ(inputs.read({"x=/nowhere/x.bin"}).error().code, ErrorCode::kNotFound);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace bitlab::cli
