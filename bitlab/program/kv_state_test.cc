// The pass that makes decoders refuses what would not give the same bits in parts. That it gives them is shown where programs run.
#include "bitlab/program/kv_state.h"

#include <gtest/gtest.h>

namespace bitlab::program {
namespace {

// Causal attention over x [batch, 2, tokens, 4], and a node behind it.
Result<Program> with_node(Op op, const std::function<Attributes(Dim tokens)>& attributes) {
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens", 1, 16);
  const ValueId x = b.input("x", {kBatch, 2, tokens, 4});
  const ValueId y = b.node(Op::attention, "attend", {x, x, x}, {{"causal", int64_t{1}}, {"scale", 0.5}}).value();
  const std::vector<ValueId> inputs = op == Op::positions ? std::vector<ValueId>() : std::vector<ValueId>{y};
  BITLAB_TRY(const ValueId z, b.node(op, "node", inputs, attributes(tokens)));
  BITLAB_TRY(Program program, b.finish({y, z}));
  return add_kv_state(std::move(program));
}

std::string outcome(Op op, const std::function<Attributes(Dim tokens)>& attributes) {
  const Result<Program> program = with_node(op, attributes);
  return program.ok() ? "ok" : program.error().message;
}

TEST(AddKvState, KnowsWhichReshapesKeepTokensApart) {
  const auto reshape = [](const std::function<Shape(Dim)>& shape) {
    return outcome(Op::reshape, [&](Dim tokens) { return Attributes{{"shape", shape(tokens)}}; });
  };
  const std::string refused =
      "[add_kv_state] operations that treat tokens one by one besides attention, got reshape (node=node)";
  EXPECT_EQ(reshape([](Dim tokens) { return Shape{kBatch, 2, tokens, 2, 2}; }), "ok");
  EXPECT_EQ(reshape([](Dim tokens) { return Shape{kBatch * Dim(2), tokens, 4}; }), "ok");
  EXPECT_EQ(reshape([](Dim tokens) { return Shape{kBatch, tokens, 2, 4}; }), refused);
  EXPECT_EQ(reshape([](Dim tokens) { return Shape{kBatch, 2, tokens * Dim(4)}; }), "ok");
  EXPECT_EQ(reshape([](Dim tokens) { return Shape{kBatch, tokens * Dim(2), 4}; }), refused);
  EXPECT_EQ(reshape([](Dim tokens) { return Shape{kBatch, 4, tokens, 2}; }), refused);
}

TEST(AddKvState, PositionsAreThoseOfTokens) {
  const auto positions = [](int64_t factor) {
    return outcome(Op::positions, [&](Dim tokens) {
      return Attributes{{"size", Shape{tokens * Dim(factor)}}, {"continues", int64_t{0}}};
    });
  };
  EXPECT_EQ(positions(1), "ok");
  EXPECT_EQ(positions(2),
            "[add_kv_state] operations that treat tokens one by one besides attention, got positions (node=node)");
}

TEST(AddKvState, NeedsCausalSelfAttention) {
  ProgramBuilder b;
  const Dim tokens = b.symbol("tokens", 1, 16);
  const ValueId x = b.input("x", {kBatch, 2, tokens, 4});
  const ValueId all = b.node(Op::attention, "attend", {x, x, x}, {{"causal", int64_t{0}}, {"scale", 0.5}}).value();
  EXPECT_EQ(add_kv_state(b.finish({all}).value()).error().message,
            "[add_kv_state] causal attention, got one that sees all tokens (node=attend)");
  const Program decoder = with_node(Op::relu, [](Dim) { return Attributes(); }).value();
  EXPECT_EQ(decoder.states.size(), 2U);
  EXPECT_EQ(add_kv_state(decoder).error().code, ErrorCode::kInvalidArgument) << "states already";
}

}  // namespace
}  // namespace bitlab::program
