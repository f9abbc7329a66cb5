// Broken models, and what programs they become. Models that others wrote: python/tests/test_formats_onnx_import.py.
#include <algorithm>
#include <array>
#include <fstream>

#include <gtest/gtest.h>

#include "bitlab/base/file.h"
#include "bitlab/format/bit/test_support.h"
#include "bitlab/format/onnx/onnx.h"
#include "bitlab/format/onnx/test_support.h"

namespace bitlab::format::onnx {
namespace {

using test::Message;
using test::model_of;
using test::port_of;

Message node_of(std::string_view type, const test::Texts& inputs, const std::string& output) {
  return test::node_of(type, inputs, {output});
}

// x [batch, 3] through one node of two inputs, the second a tensor.
std::string model_with(const Message& node, const Message& tensor, int64_t opset = 17) {
  return model_of(test::graph_of({{node}, {tensor}, {port_of("x", {"batch", "3"})}, {port_of("y", {})}}), opset);
}

Message tensor_of(const std::vector<int64_t>& sizes, std::string_view bytes) {
  return test::tensor_of("w", 1, sizes, std::vector<char>(bytes.begin(), bytes.end()));
}

Result<program::Program> parsed(std::string_view bytes) {
  return parse({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

TEST(OnnxRead, ANodeBecomesOne) {
  const auto p = parsed(model_with(node_of("Add", {"x", "w"}, "y"), tensor_of({1}, std::string("\0\0\x80\x3f", 4))));
  ASSERT_TRUE(p.ok()) << p.error().message;
  EXPECT_EQ(to_string(p->signature()), "(x: float32[batch, 3]) -> (y: float32[batch, 3])");
  ASSERT_EQ(p->nodes.size(), 1U);
  EXPECT_EQ(p->nodes[0].op, program::Op::add);
  EXPECT_EQ(std::get<program::FloatData>(p->constants.at(0).data)[0], 1);
}

TEST(OnnxRead, BrokenModelsSayWhereAndWhat) {
  const std::string whole = model_with(node_of("Add", {"x", "w"}, "y"), tensor_of({1}, std::string(4, '\0')));
  const std::array<std::pair<std::string, const char*>, 9> broken{{
      {"", "[onnx] a ModelProto with a graph, got none in 0 bytes"},
      {whole.substr(0, whole.size() - 1), "[onnx] a field, got none at byte"},
      {model_with(node_of("Add", {"x", "w"}, "y"), tensor_of({2}, std::string(4, '\0'))),
       "[onnx] 8 bytes of float32[2], got 4 (tensor=w)"},
      {model_with(node_of("Add", {"x", "w"}, "y"), tensor_of({-1}, "")), "values, got [-1] (tensor=w)"},
      {model_with(node_of("Add", {"x", "v"}, "y"), tensor_of({1}, std::string(4, '\0'))),
       "[onnx] inputs that are defined before, got 'v' (node=the_y, operator=Add)"},
      {model_with(node_of("Add", {"x", "w"}, "x"), tensor_of({1}, std::string(4, '\0'))),
       "[onnx] names that are defined once, got 'x' again"},
      {model_with(node_of("Add", {"x", "w"}, "z"), tensor_of({1}, std::string(4, '\0'))),
       "outputs that are defined, got 'y'"},
      {model_with(Message().text(4, "Relu"), tensor_of({1}, std::string(4, '\0'))),
       "[onnx] a node with an operator and an output"},
      {model_with(node_of("Add", {"x", "w"}, "y"), Message().text(1, std::string(3, '\xFF'))),
       "[onnx] sizes, got none at byte"},
  }};
  for (const auto& [bytes, message] : broken) {
    const auto read = parsed(bytes);
    ASSERT_FALSE(read.ok()) << message;
    EXPECT_EQ(read.error().code, ErrorCode::kCorrupt) << read.error().message;
    EXPECT_NE(read.error().message.find(message), std::string::npos) << read.error().message;
  }
}

TEST(OnnxRead, WhatAProgramCannotSayIsNamed) {
  const Message one = tensor_of({1}, std::string(4, '\0'));
  const std::array<std::pair<std::string, const char*>, 4> refused{{
      {model_with(node_of("NonZero", {"x"}, "y"), one),
       "an operator that the program has, got NonZero (node=the_y, operator=NonZero)"},
      {model_with(node_of("Softmax", {"x"}, "y"), one, 6), "[onnx] opset 7 or later, got 6"},
      {model_with(node_of("Add", {"x", "w"}, "y"), Message().number(1, 1).number(2, 1).text(8, "w").number(14, 1).message(
                                                       13, Message().text(1, "location").text(2, "weights.bin"))),
       "tensors in the model's own bytes, got one in 'weights.bin'"},
      {model_with(node_of("ConstantOfShape", {"w"}, "y"), Message().number(1, 2).number(2, 7).text(8, "w").text(
                                                              9, std::string("\0\0\0\x40\0\0\0\0\xFF\0\0\0\0\0\0\0", 16))),
       "constants that are computed of at most"},
  }};
  for (const auto& [bytes, message] : refused) {
    const auto read = parsed(bytes);
    ASSERT_FALSE(read.ok()) << message;
    EXPECT_EQ(read.error().code, ErrorCode::kUnsupported) << read.error().message;
    EXPECT_NE(read.error().message.find(message), std::string::npos) << read.error().message;
  }
}

TEST(OnnxRead, OperatorsOfManyNodes) {
  const std::vector<std::string> models = test::models();
  const std::array<std::pair<const char*, program::Op>, 5> expected{{
      {"(x: float32[3, batch, 2]) -> (y: float32[3, 1, batch, 2], z: float32[3, 1, batch, 2])", program::Op::recurrent},
      {"(q: float32[batch, 3, 8], k: float32[batch, 5, 4]) -> (y: float32[batch, 3, 3])", program::Op::softmax},
      {"(x: float32[batch, 3]) -> (y: float32[batch, 3])", program::Op::mul},
      {"(x: float32[n, 2, 5, 4]) -> (y: float32[n, 3, 4, 3])", program::Op::round},
      {"(x: float32[2, 1, 4, 3]) -> (y: float32[4])", program::Op::scatter},
  }};
  ASSERT_EQ(models.size(), expected.size());
  for (size_t i = 0; i < models.size(); ++i) {
    const auto p = parsed(models[i]);
    ASSERT_TRUE(p.ok()) << p.error().message;
    EXPECT_EQ(to_string(p->signature()), expected[i].first);
    EXPECT_TRUE(std::any_of(p->nodes.begin(), p->nodes.end(), [&](const auto& node) {
      return node.op == expected[i].second;
    })) << i;
  }
}

TEST(OnnxRead, TheBranchThatAConditionSays) {
  const auto p = parsed(test::control_model());
  ASSERT_TRUE(p.ok()) << p.error().message;
  for (const program::Node& node : p->nodes) EXPECT_NE(node.op, program::Op::exp);  // of the other one
  EXPECT_EQ(std::count_if(p->nodes.begin(), p->nodes.end(), [](const auto& node) { return node.op == program::Op::mul; }),
            1 + 3 + 1);  // -x, three steps, a slope
}

// A function of functions of functions: each name stands for twice as many nodes.
TEST(OnnxRead, FunctionsDoNotGrowWithoutEnd) {
  std::vector<Message> functions;
  for (int i = 0; i < 12; ++i) {
    Message function = Message().text(1, fmt::format("F{}", i)).text(4, "a").text(5, "d").text(10, "own");
    const std::string called = i == 0 ? "Neg" : fmt::format("F{}", i - 1);
    std::string from = "a";
    for (const std::string to : {"b", "c", "e", "d"}) {
      function.message(7, test::node_of(called, {from}, {to}, {}, i == 0 ? "" : "own"));
      from = to;
    }
    functions.push_back(function);
  }
  const auto p = parsed(model_of(
      test::graph_of(
          {{test::node_of("F11", {"x"}, {"y"}, {}, "own")}, {}, {port_of("x", {"batch", "3"})}, {port_of("y", {})}}),
      17, functions));
  ASSERT_FALSE(p.ok());
  EXPECT_EQ(p.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(p.error().message.find("got more"), std::string::npos) << p.error().message;
}

TEST(OnnxRead, FilesBesideStayInTheFolder) {
  const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / "bitlab_onnx_beside";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder / "model");
  ASSERT_TRUE(write_file_atomic(folder / "model" / "w.bin", std::string_view("\0\0\0\0\0\0\x80\x3f", 8)).ok());
  ASSERT_TRUE(write_file_atomic(folder / "secret.bin", std::string_view("\0\0\x80\x3f", 4)).ok());
  std::filesystem::create_symlink(folder / "secret.bin", folder / "model" / "link.bin");
  const auto loaded = [&](const std::string& location, const std::string& offset) {
    const auto entry = [](std::string_view key, std::string_view value) { return Message().text(1, key).text(2, value); };
    const Message tensor = Message()
                               .number(1, 1)
                               .number(2, 1)
                               .text(8, "w")
                               .number(14, 1)
                               .message(13, entry("location", location))
                               .message(13, entry("offset", offset))
                               .message(13, entry("length", "4"));
    EXPECT_TRUE(write_file_atomic(folder / "model" / "m.onnx", model_with(node_of("Add", {"x", "w"}, "y"), tensor)).ok());
    return load(folder / "model" / "m.onnx");
  };
  const auto whole = loaded("w.bin", "4");
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  EXPECT_EQ(std::get<program::FloatData>(whole->constants.at(0).data)[0], 1);
  EXPECT_EQ(loaded("w.bin", "5").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(loaded("w.bin", "-1").error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(loaded("none.bin", "0").error().code, ErrorCode::kNotFound);
  const std::vector<std::string> outsides{"../secret.bin", "link.bin", (folder / "secret.bin").string(), ""};
  for (const std::string& outside : outsides) EXPECT_EQ(loaded(outside, "0").error().code, ErrorCode::kCorrupt) << outside;
}

TEST(OnnxRead, OurOwnFilesComeBackWithTheirCodes) {
  const program::Program p = bit::test::small_program();
  for (const char* variant : {"float", "matmulnbits", "int2", "int8"}) {
    const auto again = parsed(serialize(p, variant).value());
    ASSERT_TRUE(again.ok()) << variant << again.error().message;
    ASSERT_EQ(again->nodes.size(), p.nodes.size()) << variant;
    const auto& expected = std::get<program::TernaryData>(p.constant(p.nodes[0].inputs[1])->data);
    const auto* found = std::get_if<program::TernaryData>(&again->constant(again->nodes[0].inputs[1])->data);
    ASSERT_NE(found, nullptr) << variant;
    EXPECT_TRUE(std::equal(found->codes.begin(), found->codes.end(), expected.codes.begin(), expected.codes.end()))
        << variant;
    EXPECT_TRUE(std::equal(found->scale.begin(), found->scale.end(), expected.scale.begin(), expected.scale.end()))
        << variant;
    EXPECT_EQ(again->metadata, p.metadata);
  }
}

}  // namespace
}  // namespace bitlab::format::onnx
