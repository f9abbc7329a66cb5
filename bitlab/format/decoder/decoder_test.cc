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

TEST(Encoder, IsFoundInTheProgramThatItIs) {
  for (const Pooling pooling : {Pooling::kNone, Pooling::kMean, Pooling::kFirst, Pooling::kClassifier})
    for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh}) {
      const Config config = test::small_encoder(pooling, activation);
      const Program p = test::random_decoder(config, {.biases = true});
      EXPECT_EQ(kind_of(p), Kind::kEncoder);
      const Decoder found = match_encoder(p, "test").value();
      const Config& c = found.config;
      EXPECT_EQ(c.pooling, pooling);
      EXPECT_EQ(c.activation, activation);
      EXPECT_EQ(c.has_types, config.has_types);
      EXPECT_EQ(c.classes, config.classes);
      EXPECT_EQ(std::tuple(c.vocabulary, c.context, c.layers, c.dim, c.heads, c.kv_heads, c.head_dim, c.hidden, c.norm_eps),
                std::tuple(11, 12, 2, 64, 4, 4, 16, 128, 0x1p-17));
      // Built again of what was found, it is the same program.
      const auto source = [&](Part part, int64_t layer) -> Result<std::optional<Weight>> {
        const auto at = found.parts.find({part, layer});
        if (at == found.parts.end()) return std::optional<Weight>();
        BITLAB_TRY(Weight weight, weight_of(p, at->second, "test"));
        return std::optional(std::move(weight));
      };
      const Program again = build(c, source, "test").value();
      ASSERT_EQ(again.nodes.size(), p.nodes.size());
      for (size_t i = 0; i < p.nodes.size(); ++i) EXPECT_EQ(again.nodes[i].name, p.nodes[i].name);
      ASSERT_EQ(again.constants.size(), p.constants.size());
      for (size_t i = 0; i < p.constants.size(); ++i) {
        const auto *a = std::get_if<program::TernaryData>(&p.constants[i].data),
                   *b = std::get_if<program::TernaryData>(&again.constants[i].data);
        ASSERT_EQ(a == nullptr, b == nullptr);
        EXPECT_TRUE(a == nullptr || std::equal(a->codes.begin(), a->codes.end(), b->codes.begin(), b->codes.end()));
      }
    }
}

TEST(Encoder, WhatIsNoneIsRefusedByItsNode) {
  const Program p = test::random_decoder(test::small_encoder(Pooling::kClassifier, Activation::kGelu));
  const auto error_with = [&](const std::string& node, const auto& change) {
    Program other = p;
    const auto found = std::find_if(other.nodes.begin(), other.nodes.end(), [&](const auto& n) { return n.name == node; });
    EXPECT_NE(found, other.nodes.end()) << node;
    change(*found);
    const auto encoder = match_encoder(other, "test");
    return encoder.ok() ? "no error" : encoder.error().message;
  };
  const auto op = [](Op to) { return [to](program::Node& node) { node.op = to; }; };
  EXPECT_EQ(error_with("layers.1.mlp.gelu", op(Op::silu)), "[test] GELU, got silu (node=layers.1.mlp.gelu)");
  EXPECT_EQ(error_with("layers.0.mlp.gelu", op(Op::gelu_tanh)),
            "[test] one activation in all layers, got gelu_tanh (node=layers.0.mlp.gelu)");
  EXPECT_EQ(error_with("pooler.tanh", op(Op::sigmoid)),
            "[test] tanh in front of a classifier, got sigmoid (node=pooler.tanh)");
  EXPECT_EQ(error_with("pooled.first", [](program::Node& n) { n.attributes["start"] = int64_t{1}; }),
            "[test] the first token, got slice (node=pooled.first)");
  EXPECT_EQ(error_with("layers.0.self_attn", [](program::Node& n) { n.attributes["causal"] = int64_t{1}; }),
            "[test] attention to all tokens, without a mask, got attention (node=layers.0.self_attn)");
  EXPECT_EQ(error_with("layers.0.self_attn", [](program::Node& n) { n.attributes["scale"] = 0.5; }),
            "[test] a scale of 0.25, got 0.5 (node=layers.0.self_attn)");
  EXPECT_EQ(error_with("layers.1.self_attn.norm", [](program::Node& n) { n.attributes["eps"] = 0.5; }),
            "[test] an epsilon of 7.62939453125e-06 in all layers, got 0.5 (node=layers.1.self_attn.norm)");
  EXPECT_EQ(error_with("layers.0.mlp.sum", [](program::Node& n) { n.inputs[0] = n.inputs[1]; }),
            "[test] a sum with what the part reads, got gelu (node=layers.0.mlp.gelu)");
  EXPECT_EQ(error_with("embed_norm", op(Op::rms_norm)), "[test] a layer norm behind a sum, got rms_norm (node=embed_norm)");
  const Program decoder = test::random_decoder(test::small_config(false, Activation::kSilu));
  EXPECT_EQ(kind_of(decoder), Kind::kDecoder);
  EXPECT_EQ(match(p, "test").error().message, "[test] an RMS norm as Norm, got tanh (node=pooler.tanh)");
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
