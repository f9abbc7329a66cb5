#include "bitlab/format/decoder/decoder.h"

#include <gtest/gtest.h>

#include "bitlab/format/decoder/test_support.h"

namespace bitlab::format::decoder {
namespace {

using program::Op;
using program::Program;

TEST(Decoder, IsFoundInTheProgramThatItIs) {
  for (const bool sub_norms : {false, true})
    for (const Activation activation : {Activation::kSilu, Activation::kSquaredRelu})
      for (const bool tied : {false, true}) {
        const Config config = test::small_config(sub_norms, activation);
        const Program p = test::random_decoder(config, {.tied = tied, .biases = !sub_norms});
        const Decoder found = match(p, "test").value();
        EXPECT_EQ(found.is_tied(), tied);
        std::mt19937 random(7);
        const Source same = test::random_source(config, {.tied = tied, .biases = !sub_norms}, random);
        // The weights of each part are those that it was built from, in the order of building.
        const auto expect = [&](Part part, int64_t layer) {
          const auto expected = same(part, layer).value();
          if (!expected) return;
          const Weight weight = weight_of(p, found.parts.at({part, layer}), "test").value();
          EXPECT_EQ(weight.shape, expected->shape);
          EXPECT_EQ(weight.bias, expected->bias);
          if (const auto* ternary = std::get_if<Ternary>(&weight.data)) {
            EXPECT_EQ(ternary->codes, std::get<Ternary>(expected->data).codes) << hf_name(part, layer);
          } else {
            EXPECT_EQ(floats_of(weight), floats_of(*expected)) << hf_name(part, layer);
          }
        };
        expect(Part::kEmbedding, 0);
        for (int64_t layer = 0; layer < config.layers; ++layer) {
          for (const Part part : {Part::kAttentionNorm, Part::kQuery, Part::kKey, Part::kValue}) expect(part, layer);
          if (sub_norms) expect(Part::kAttentionSubNorm, layer);
          for (const Part part : {Part::kOutput, Part::kFeedForwardNorm, Part::kGate, Part::kUp}) expect(part, layer);
          if (sub_norms) expect(Part::kFeedForwardSubNorm, layer);
          expect(Part::kDown, layer);
        }
        expect(Part::kNorm, 0);
        expect(Part::kHead, 0);
        const Config& c = found.config;
        EXPECT_EQ(c.context, 12);
        EXPECT_EQ(c.kv_heads, 2);
        EXPECT_EQ(c.head_dim, 16);
        EXPECT_EQ(c.activation, activation);
        EXPECT_EQ(c.sub_norms, sub_norms);
        EXPECT_EQ(c.norm_eps, 0x1p-17);
      }
}

// A node with something else in its place, or of another part, is named.
TEST(Decoder, WhatIsNoneIsRefusedByItsNode) {
  const Program p = test::random_decoder(test::small_config(true, Activation::kSilu));
  const auto error_with = [&](const std::string& node, const auto& change) {
    Program other = p;
    const auto found = std::find_if(other.nodes.begin(), other.nodes.end(), [&](const auto& n) { return n.name == node; });
    EXPECT_NE(found, other.nodes.end()) << node;
    change(*found);
    const auto decoder = match(other, "test");
    return decoder.ok() ? "no error" : decoder.error().message;
  };
  const auto op = [](Op to) { return [to](program::Node& node) { node.op = to; }; };
  EXPECT_EQ(error_with("layers.1.mlp.silu", op(Op::gelu)), "[test] SiLU or squared ReLU, got gelu (node=layers.1.mlp.silu)");
  EXPECT_EQ(error_with("layers.0.mlp.gated", op(Op::add)),
            "[test] a gated feed-forward part, got add (node=layers.0.mlp.gated)");
  EXPECT_EQ(error_with("layers.0.self_attn", [](program::Node& n) { n.attributes["scale"] = 0.5; }),
            "[test] a scale of 0.25, got 0.5 (node=layers.0.self_attn)");
  EXPECT_EQ(error_with("layers.0.self_attn", [](program::Node& n) { n.attributes["causal"] = int64_t{0}; }),
            "[test] causal attention without a mask, got attention (node=layers.0.self_attn)");
  EXPECT_EQ(error_with("layers.0.self_attn.q_proj.rotary", [](program::Node& n) { n.attributes["theta"] = 500.0; }),
            "[test] a base of 10000 in all layers, got 500 (node=layers.0.self_attn.q_proj.rotary)");
  EXPECT_EQ(error_with("norm", op(Op::layer_norm)), "[test] an RMS norm as Norm, got layer_norm (node=norm)");
  EXPECT_EQ(error_with("layers.1.mlp.up_proj", [](program::Node& n) { n.attributes["activation"] = std::string("int4"); }),
            "[test] int8 activations by token, got int4 (node=layers.1.mlp.up_proj)");
}

TEST(Decoder, MissingAndMisshapenWeightsAreErrors) {
  const Config config = test::small_config(false, Activation::kSilu);
  const auto error_of = [&](Part wrong, const auto& change) {
    std::mt19937 random(7);
    const Source source = test::random_source(config, {}, random);
    const auto program = build(
        config,
        [&](Part part, int64_t layer) {
          auto weight = source(part, layer);
          if (part == wrong && layer == 0) change(weight.value());
          return weight;
        },
        "test");
    return program.ok() ? "no error" : program.error().message;
  };
  EXPECT_EQ(error_of(Part::kUp, [](auto& w) { w.reset(); }),
            "[test] weights of every part, got none (part=layers.0.mlp.up_proj)");
  EXPECT_EQ(error_of(Part::kNorm, [](auto& w) { w->shape = {63}; }), "[test] [64] as the sizes say, got [63] (part=norm)");
  EXPECT_EQ(error_of(Part::kKey, [](auto& w) { w->bias = {1}; }),
            "[test] a bias of 32 values, got 1 (part=layers.0.self_attn.k_proj)");
  Config odd = config;
  odd.head_dim = 15;
  EXPECT_EQ(check(odd, "test").error().message,
            "[test] heads in groups of one size and with an even number of values, got 4 and 2 of 15 values");
  odd.layers = 0;
  EXPECT_EQ(check(odd, "test").error().message, "[test] a size from 1 to 2147483648, got 0 (name=layers)");
}

}  // namespace
}  // namespace bitlab::format::decoder
