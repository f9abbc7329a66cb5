#include "bitlab/format/onnx/onnx.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "bitlab/base/protobuf.h"
#include "bitlab/format/bit/test_support.h"

namespace bitlab::format::onnx {
namespace {

constexpr std::array kAll{"float", "matmulnbits", "int2", "int8"};

struct OnnxNode {
  std::string type;
  std::vector<std::string> inputs, outputs;
};
struct OnnxTensor {
  std::vector<uint64_t> dims;
  uint64_t type = 0;
  std::string bytes;
};

// What the tests look at of a ModelProto, by the field numbers of onnx.proto.
struct OnnxModel {
  std::vector<OnnxNode> nodes;
  std::map<std::string, OnnxTensor> tensors;
  std::map<std::string, std::vector<std::string>> inputs, outputs;  // sizes

  explicit OnnxModel(std::string_view bytes) {
    for (ProtobufReader model(bytes); model.next();)
      if (model.field == 7)
        for (ProtobufReader graph(model.content); graph.next();) read(graph);
  }

 private:
  void read(const ProtobufReader& graph) {
    if (graph.field == 1) read_node(graph.content);
    if (graph.field == 5) read_tensor(graph.content);
    if (graph.field == 11) read_port(graph.content, inputs);
    if (graph.field == 12) read_port(graph.content, outputs);
  }
  void read_node(std::string_view bytes) {
    OnnxNode& node = nodes.emplace_back();
    for (ProtobufReader field(bytes); field.next();) {
      if (field.field == 1) node.inputs.emplace_back(field.content);
      if (field.field == 2) node.outputs.emplace_back(field.content);
      if (field.field == 4) node.type = field.content;
    }
  }
  void read_tensor(std::string_view bytes) {
    OnnxTensor tensor;
    std::string name;
    for (ProtobufReader field(bytes); field.next();) {
      if (field.field == 1) tensor.dims.push_back(field.number);
      if (field.field == 2) tensor.type = field.number;
      if (field.field == 8) name = field.content;
      if (field.field == 9) tensor.bytes = field.content;
    }
    EXPECT_TRUE(tensors.emplace(name, tensor).second) << name;
  }
  static void read_port(std::string_view bytes, std::map<std::string, std::vector<std::string>>& ports) {
    std::string name;
    std::vector<std::string> sizes;
    for (ProtobufReader port(bytes); port.next();) {
      if (port.field == 1) name = port.content;
      if (port.field != 2) continue;
      for (ProtobufReader type(port.content); type.next();)
        for (ProtobufReader tensor(type.content); tensor.next();)
          if (tensor.field == 2)
            for (ProtobufReader shape(tensor.content); shape.next();)
              for (ProtobufReader dim(shape.content); dim.next();)
                sizes.push_back(dim.field == 1 ? std::to_string(dim.number) : std::string(dim.content));
    }
    ports[name] = sizes;
  }
};

OnnxModel written(const program::Program& program, std::string_view variant) {
  return OnnxModel(serialize(program, variant).value());
}

TEST(Onnx, EachNameIsDefinedOnceAndBeforeItIsRead) {
  for (const char* variant : kAll)
    for (const auto& program :
         {bit::test::small_program(), bit::test::wide_program(), bit::test::image_program(), bit::test::decoder_program()}) {
      const OnnxModel model = written(program, variant);
      std::set<std::string> known;
      for (const auto& [name, sizes] : model.inputs) EXPECT_TRUE(known.insert(name).second) << name;
      for (const auto& [name, tensor] : model.tensors) EXPECT_TRUE(known.insert(name).second) << name;
      for (const OnnxNode& node : model.nodes) {
        for (const std::string& input : node.inputs) EXPECT_TRUE(input.empty() || known.contains(input)) << input;
        for (const std::string& output : node.outputs) EXPECT_TRUE(known.insert(output).second) << output;
      }
      for (const auto& [name, sizes] : model.outputs) EXPECT_TRUE(known.contains(name)) << name;
      EXPECT_EQ(serialize(program, variant).value(), serialize(program, variant).value());
    }
}

TEST(Onnx, StatesAreInputsAndOutputs) {
  const OnnxModel model = written(bit::test::decoder_program(), "float");
  using Sizes = std::vector<std::string>;
  EXPECT_EQ(model.inputs.at("ids"), (Sizes{"batch", "tokens"}));
  EXPECT_EQ(model.inputs.at("keys"), (Sizes{"batch", "1", "past_context", "4"}));
  EXPECT_EQ(model.outputs.at("values.next"), (Sizes{"batch", "1", "context", "4"}));
  EXPECT_EQ(model.outputs.at("logits"), (Sizes{"batch", "tokens", "5"}));
  EXPECT_EQ(model.inputs.size(), 4U);
  EXPECT_EQ(model.outputs.size(), 5U);
}

// t of small_program: 1 0 -1 -1 1 and 0 0 0 1 -1.
TEST(Onnx, CodesOfTwoBits) {
  const OnnxTensor int2 = written(bit::test::small_program(), "int2").tensors.at("fc.weight");
  EXPECT_EQ(int2.type, 26U);
  EXPECT_EQ(int2.dims, (std::vector<uint64_t>{2, 5}));
  EXPECT_EQ(int2.bytes, "\xF1\x01\x0D");  // two's complement, the first in the low bits
  const OnnxTensor blocks = written(bit::test::small_program(), "matmulnbits").tensors.at("fc.weight");
  EXPECT_EQ(blocks.type, 2U);
  EXPECT_EQ(blocks.dims, (std::vector<uint64_t>{2, 1, 32}));
  const std::string padding(30, '\xAA');  // t + 2, and 2 where there is no weight
  EXPECT_EQ(blocks.bytes, "\x5B\xAB" + padding + "\xEA\xA9" + padding);
}

TEST(Onnx, WhatHasNoFormIsRefused) {
  program::ProgramBuilder b;
  const program::ValueId x = b.input("x", {program::kBatch, 5});
  const auto places = b.nodes(program::Op::cummax, "most", {x}).value();
  const Result<std::string> refused = serialize(b.finish({places[0]}).value(), "");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(refused.error().message, "[onnx] an operation that ONNX has, got cummax (node=most)");
  EXPECT_EQ(serialize(bit::test::small_program(), "int3").error().code, ErrorCode::kUnknownName);
}

TEST(Onnx, AnOutputMayBeGivenTwice) {
  program::ProgramBuilder b;
  const program::ValueId x = b.input("x", {program::kBatch, 5});
  const program::ValueId y = b.node(program::Op::relu, "relu", {x}).value();
  const OnnxModel model = written(b.finish({{"a", y}, {"b", y}}).value(), "");
  EXPECT_EQ(model.outputs.size(), 2U);
  program::ProgramBuilder same;
  const program::ValueId z = same.node(program::Op::relu, "relu", {same.input("x", {program::kBatch, 5})}).value();
  const auto clash = serialize(same.finish(std::vector<program::Output>{{"x", z}}).value(), "");
  EXPECT_EQ(clash.error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace bitlab::format::onnx
