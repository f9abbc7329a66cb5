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

// x [1, 3] by [2, 3] with a static step, then what is made of it.
template <class Rest>
program::Program in_integers(const std::string& activation, Rest rest) {
  ProgramBuilder b;
  const auto x = b.input("x", {kBatch, 3});
  const auto step = activation == "int8" ? program::kNone : b.floats("step", {1}, {0.5F});
  const auto y = b.node(Op::ternary_linear, "y", {x, b.ternary("w", {2, 3}, {0x54, 0x55}, {0.5F}), program::kNone, step},
                        {{"activation", activation}});
  return b.finish({rest(b, *y)}).value();
}

std::string refusal_in_integers(const program::Program& p) {
  const auto source = serialize(p, {"net", "integer"});
  return source.ok() ? "none" : source.error().message;
}

TEST(C, TheHeaderSaysWhatIntegersStandFor) {
  const program::Program p = in_integers("int8_static", [](ProgramBuilder&, program::ValueId y) { return y; });
  const std::string header = serialize(p, {"net", "integer"}).value().header;
  // Codes of two rows and a factor of both; no memory but in front of and behind floats: 3 bytes and 2 x 4.
  for (const char* text :
       {"NET_FLASH_BYTES 6 ", "NET_RAM_BYTES 0 ", "NET_RAM_BYTES 11 ", "NET_MACS 6 ", "NET_SAME_BITS 0 ",
        "NET_IN_X_STEP 0x1p-1f ", "NET_IN_X_LIMIT 127 ", "int net_run(const float *in_x, float *out_output);",
        "void net_run_integers(const int8_t *in_x, int32_t *out_output);", "   1: y\n"})
    EXPECT_NE(header.find(text), std::string::npos) << text << "\n" << header;
}

TEST(C, WhatIntegersCannotSayIsRefusedWithItsReason) {
  const auto keep = [](ProgramBuilder&, program::ValueId y) { return y; };
  EXPECT_EQ(refusal_in_integers(in_integers("int8", keep)),
            "[c] a form in integers, got activations of int8, whose scale is found by floats: {int8_static, int4_static} "
            "have one (node=y, op=ternary_linear)");
  const auto softmax = [](ProgramBuilder& b, program::ValueId y) {
    return b.node(Op::softmax, "p", {y}, {{"dim", int64_t{1}}}).value();
  };
  EXPECT_EQ(refusal_in_integers(in_integers("int8_static", softmax)),
            "[c] a form in integers, got exponential functions (node=p, op=softmax)");
  const auto norm = [](ProgramBuilder& b, program::ValueId y) {
    return b.node(Op::rms_norm, "n", {y}, {{"dims", int64_t{1}}, {"eps", 1e-5}}).value();
  };
  EXPECT_EQ(refusal_in_integers(in_integers("int8_static", norm)),
            "[c] a form in integers, got a root of sums that every input has its own of (node=n, op=rms_norm)");
  const auto added = [](ProgramBuilder& b, program::ValueId y) {
    return b.node(Op::add, "more", {y, b.floats("one", {1}, {1})}).value();
  };
  EXPECT_EQ(refusal_in_integers(in_integers("int8_static", added)),
            "[c] a form in integers, got a constant, which has no step (node=more, op=add)");
  const auto dead = [](ProgramBuilder& b, program::ValueId y) {
    return b
        .node(Op::ternary_linear, "z",
              {y, b.ternary("v", {2, 2}, {0x58, 0x52}, {1e30F, 1e-30F}), program::kNone, b.floats("far", {1}, {1e-30F})},
              {{"activation", std::string("int8_static")}})
        .value();
  };
  EXPECT_EQ(refusal_in_integers(in_integers("int8_static", dead)),
            "[c] a form in integers, got scales so far apart that no factors of 31 bits stand for them (node=y, "
            "op=ternary_linear)");
  ProgramBuilder b;
  auto x = b.input("x", {kBatch, 4});
  x = b.node(Op::relu, "r", {x}).value();
  EXPECT_EQ(refusal_in_integers(b.finish({x}).value()),
            "[c] a form in integers of inputs that layers with one static step read, got other readers (value=x)");
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
