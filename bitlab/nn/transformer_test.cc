// Transformer blocks beyond their twins, and generation.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_transformer.h"
#include "bitlab/nn/test_support.h"

namespace bitlab::nn {
namespace {

TEST(Block, NormsFirstInItsOrder) {
  torch::manual_seed(27);
  BitTransformerBlock block(BitTransformerBlockOptions(8, 2)
                                .norm_first(true)
                                .norm(NormKind::kRms)
                                .cross_attention(true)
                                .quant(BitQuantConfig::none()));
  const at::Tensor x = torch::randn({2, 4, 8}), memory = torch::randn({2, 3, 8}),
                   mask = torch::ones({4, 4}, at::kBool).tril();
  const at::Tensor memory_mask = torch::tensor({true, false, true});
  const auto norm = [](const at::Tensor& v) { return v / (v.square().mean(-1, true) + 1e-5).sqrt(); };
  at::Tensor y = norm(x);
  y = x + block->self_attn->forward(y, y, y, mask);
  y = y + block->cross_attn->forward(norm(y), memory, memory, memory_mask);
  y = y + block->feed_forward->forward(norm(y));
  EXPECT_TRUE(torch::allclose(block->forward(x, memory, mask, memory_mask), y, 1e-5, 1e-5));
}

TEST(Block, NormsAreTernaryWhereAsked) {
  for (bool asked : {false, true}) {
    const BitTransformerBlock block(BitTransformerBlockOptions(8, 2).ternary_norms(asked).sub_norm(true).bias(false));
    const auto buffers = block->named_buffers();
    EXPECT_EQ(buffers.contains("self_attn_norm.blend"), asked);
    EXPECT_TRUE(buffers.contains("self_attn.q_proj.blend"));
    EXPECT_FALSE(buffers.contains("self_attn.sub_norm.blend"));
    EXPECT_FALSE(block->named_parameters().contains("self_attn_norm.bias"));
    EXPECT_TRUE(block->named_parameters().contains("feed_forward.sub_norm.weight"));
  }
}

// At each place that has one.
TEST(Block, DropsOutInTrainingAlone) {
  torch::manual_seed(28);
  const at::Tensor x = torch::randn({2, 4, 8});
  BitTransformerBlock block(BitTransformerBlockOptions(8, 2).dropout(0.5).quant(BitQuantConfig::none()));
  EXPECT_FALSE(torch::equal(block->forward(x), block->forward(x)));
  EXPECT_FALSE(torch::equal(block->self_attn->forward(x), block->self_attn->forward(x)));
  EXPECT_FALSE(torch::equal(block->feed_forward->forward(x), block->feed_forward->forward(x)));
  block->eval();
  EXPECT_TRUE(torch::equal(block->forward(x), block->forward(x)));
}

// Steps of 1, 3, 1, ... tokens give what the whole sequence gives.
template <class Layer>
void expect_steps_equal_the_whole(Layer layer, const at::Tensor& x, double tolerance) {
  const at::NoGradGuard no_grad;
  layer->eval();
  const at::Tensor whole = layer->forward(x);
  KvState state;
  std::vector<at::Tensor> parts;
  for (int64_t step = 1; state.position() < x.size(1); step = 4 - step) {
    const int64_t count = std::min(step, x.size(1) - state.position());
    parts.push_back(layer->forward(x.narrow(1, state.position(), count), &state));
  }
  EXPECT_TRUE(torch::allclose(torch::cat(parts, 1), whole, tolerance, tolerance))
      << *layer << (torch::cat(parts, 1) - whole).abs().max();
  state.truncate(2);
  EXPECT_TRUE(torch::allclose(layer->forward(x.narrow(1, 2, 4), &state), whole.narrow(1, 2, 4), tolerance, tolerance));
  EXPECT_EQ(state.position(), 6);
  state.clear();
  EXPECT_EQ(state.position(), 0);
  EXPECT_TRUE(torch::allclose(layer->forward(x, &state), whole, tolerance, tolerance));
}

TEST(Generation, StepsEqualTheWholeSequence) {
  torch::manual_seed(24);
  const at::Tensor x = torch::randn({2, 9, 24});
  for (const BitQuantConfig& quant : {BitQuantConfig::none(), BitQuantConfig()})
    for (int64_t kv_heads : {0, 2, 1}) {
      expect_steps_equal_the_whole(
          BitMultiheadAttention(
              BitMultiheadAttentionOptions(24, 4).num_kv_heads(kv_heads).causal(true).rope_theta(10000).quant(quant)),
          x, quant.enabled() ? 1e-3 : 1e-5);
      expect_steps_equal_the_whole(BitTransformerBlock(BitTransformerBlockOptions(24, 4)
                                                           .num_kv_heads(kv_heads)
                                                           .causal(true)
                                                           .norm_first(true)
                                                           .norm(NormKind::kRms)
                                                           .sub_norm(true)
                                                           .activation(Activation::kSwiGlu)
                                                           .rope_theta(10000)
                                                           .quant(quant)),
                                   x, quant.enabled() ? 1e-3 : 1e-5);
    }
}

TEST(Generation, DecodersTakeAMemory) {
  torch::manual_seed(25);
  const at::NoGradGuard no_grad;
  BitTransformerBlock block(
      BitTransformerBlockOptions(8, 2).cross_attention(true).causal(true).quant(BitQuantConfig::none()));
  const at::Tensor x = torch::randn({1, 4, 8}), memory = torch::randn({1, 3, 8});
  const at::Tensor whole = block->forward(x, memory, {}, {});
  KvState state;
  for (int64_t i = 0; i < 4; ++i)
    EXPECT_TRUE(torch::allclose(block->forward(x.narrow(1, i, 1), memory, &state), whole.narrow(1, i, 1), 1e-5, 1e-5));
  EXPECT_TRUE(same_bits(block->forward(x, memory, nullptr), whole));
}

TEST(Generation, RefusesAStateThatDoesNotFit) {
  BitMultiheadAttention layer(12, 3);
  KvState state;
  layer->forward(torch::randn({2, 4, 12}), &state);
  EXPECT_EQ(message_of([&] {
              layer->forward(torch::randn({1, 1, 12}), &state);
            }),
            "[KvState] keys [2, 3, tokens, 4], got [1, 3, 1, 4]");
  EXPECT_EQ(message_of([&] { state.truncate(5); }), "[KvState] a length in [0, 4], got 5");
  EXPECT_EQ(state.position(), 4);
}

TEST(Block, RefusesWhatDoesNotFit) {
  const at::Tensor x = torch::randn({1, 2, 8});
  BitTransformerBlock encoder(8, 2), decoder(BitTransformerBlockOptions(8, 2).cross_attention(true));
  EXPECT_EQ(message_of([&] { encoder->forward(x, x, {}, {}); }),
            "[BitTransformerBlock] no memory without cross_attention, got one");
  EXPECT_EQ(message_of([&] { decoder->forward(x); }), "[BitTransformerBlock] a memory under cross_attention, got none");
}

// docs: transformer block
// A decoder of BitNet b1.58's kind: RMS norms first, rotary positions, a gated feed-forward part, ternary projections.
struct DecoderImpl : torch::nn::Cloneable<DecoderImpl> {
  DecoderImpl() { reset(); }

  void reset() override {
    const auto options = BitTransformerBlockOptions(64, 4)
                             .num_kv_heads(2)
                             .hidden_dim(160)
                             .activation(Activation::kSquaredReluGlu)
                             .norm(NormKind::kRms)
                             .norm_first(true)
                             .sub_norm(true)
                             .bias(false)
                             .causal(true)
                             .rope_theta(10000);
    embedding = register_module("embedding", torch::nn::Embedding(100, 64));
    for (int i = 0; i < 2; ++i) blocks->push_back(BitTransformerBlock(options));
    register_module("blocks", blocks);
    norm = register_module("norm", BitRMSNorm(BitRMSNormOptions({64}).quant(BitQuantConfig::none())));
  }

  // tokens int64 [B, T] -> logits [B, T, 100]. With a state for each block, tokens follow those that it has seen.
  at::Tensor forward(const at::Tensor& tokens, std::vector<KvState>* states = nullptr) {
    at::Tensor x = embedding->forward(tokens);
    for (size_t i = 0; i < blocks->size(); ++i)
      x = blocks[i]->as<BitTransformerBlock>()->forward(x, states == nullptr ? nullptr : &states->at(i));
    return norm->forward(x).matmul(embedding->weight.t());
  }

  torch::nn::Embedding embedding{nullptr};
  torch::nn::ModuleList blocks;
  BitRMSNorm norm{nullptr};
};
TORCH_MODULE(Decoder);
// docs: end

TEST(Generation, OfTheDocsGoesOn) {
  torch::manual_seed(29);
  const at::NoGradGuard no_grad;
  Decoder decoder;
  decoder->eval();
  const at::Tensor tokens = torch::randint(0, 100, {1, 6});
  const at::Tensor whole = decoder->forward(tokens);
  std::vector<KvState> states(2);
  for (int64_t i = 0; i < 6; ++i)
    EXPECT_TRUE(torch::allclose(decoder->forward(tokens.narrow(1, i, 1), &states), whole.narrow(1, i, 1), 1e-3, 1e-3));
}

}  // namespace
}  // namespace bitlab::nn
