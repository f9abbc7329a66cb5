#include "bitlab/format/c/c.h"

#include <gtest/gtest.h>

#include "bitlab/format/bit/test_support.h"

namespace bitlab::format::c {
namespace {

using program::kBatch;
using program::Op;
using program::ProgramBuilder;

std::string refusal(const program::Program& p) {
  const auto source = serialize(p, {"net", "2bit"});
  return source.ok() ? "none" : source.error().message;
}

TEST(C, NamesBecomeIdentifiers) {
  EXPECT_EQ(identifier("lenet5"), "lenet5");
  EXPECT_EQ(identifier("my-net v2"), "my_net_v2");
  EXPECT_EQ(identifier("5x5"), "n5x5");
  EXPECT_EQ(identifier(""), "n");
}

TEST(C, TheHeaderSaysWhatARunTakes) {
  // [1, 3] by [2, 3]: codes of two rows in a byte each, or two digits of base 3; two scales would be eight bytes.
  ProgramBuilder b;
  const auto x = b.input("x", {kBatch, 3});
  const auto y = b.node(Op::ternary_linear, "y", {x, b.ternary("w", {2, 3}, {0x54, 0x55}, {0.5F})},
                        {{"activation", std::string("int8")}});
  const program::Program p = b.finish({*y}).value();
  const std::string header = serialize(p, {"net", "2bit"}).value().header;
  for (const char* text : {"NET_FLASH_BYTES 6 ", "NET_RAM_BYTES 8 ", "NET_MACS 6 ", "NET_SAME_BITS 1 ", "NET_IN_X_SIZE 3 ",
                           "NET_OUT_OUTPUT_SIZE 2 ", "int net_run(const float *in_x, float *out_output);", "   1: y\n"})
    EXPECT_NE(header.find(text), std::string::npos) << text << "\n" << header;
}

TEST(C, WhatHasNoFormIsRefusedByName) {
  EXPECT_EQ(refusal(bit::test::decoder_program()), "[c] a program without states, got 2 (value=keys)");
  ProgramBuilder b;
  auto x = b.input("x", {kBatch, 4});
  x = b.node(Op::erfinv, "inverse", {x}).value();
  EXPECT_EQ(refusal(b.finish({x}).value()), "[c] an operation that has a form in C, got none (node=inverse, op=erfinv)");
  x = b.input("x", {kBatch, 4}, program::DType::kFloat16);
  x = b.node(Op::reshape, "flat", {x}, {{"shape", program::Shape{4, kBatch}}}).value();
  EXPECT_EQ(refusal(b.finish({x}).value()), "[c] values of float32, int64, int32 or bool, got float16 (value=x)");
}

TEST(C, ANameCannotLeaveItsComment) {
  ProgramBuilder b;
  auto x = b.input("x*/ int", {kBatch, 4});
  x = b.node(Op::relu, "*/ evil(); /*\\", {x}).value();
  const Source source = serialize(b.finish({x}).value(), {"net", "2bit"}).value();
  EXPECT_EQ((source.header + source.source).find("evil(); /*"), std::string::npos);
  EXPECT_EQ((source.header + source.source).find("x*/"), std::string::npos);
}

}  // namespace
}  // namespace bitlab::format::c
