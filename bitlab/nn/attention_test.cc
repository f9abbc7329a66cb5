// Attention and feed-forward parts beyond their twins: other sizes, masks, positions, activations.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "bitlab/nn/bit_attention.h"
#include "bitlab/nn/bit_feed_forward.h"
#include "bitlab/nn/test_support.h"
#include "bitlab/ops/ops.h"

namespace bitlab::nn {
namespace {

namespace t = torch::nn;

BitMultiheadAttentionOptions float_options(int64_t embed, int64_t heads) {
  return BitMultiheadAttentionOptions(embed, heads).quant(BitQuantConfig::none());
}

// softmax(q k^T / sqrt(d) + mask) v of [B, H, T, d] by hand.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask) {
  at::Tensor scores = q.matmul(k.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  if (mask.defined()) scores = mask.scalar_type() == at::kBool ? scores.masked_fill(~mask, -INFINITY) : scores + mask;
  return scores.softmax(-1).matmul(v);
}

// The whole layer by hand, from its projections.
at::Tensor by_hand(BitMultiheadAttention& a, const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                   const at::Tensor& mask) {
  const int64_t heads = a->options.num_heads(), kv = a->options.num_kv_heads() ? a->options.num_kv_heads() : heads;
  const auto split = [&](const at::Tensor& y, int64_t n) { return y.view({y.size(0), y.size(1), n, -1}).transpose(1, 2); };
  const auto turn = [&](const at::Tensor& y) {
    return a->options.rope_theta() == 0 ? y : ops::rotary(y, torch::arange(y.size(2)), a->options.rope_theta());
  };
  const at::Tensor q = turn(split(a->q_proj->forward(query), heads)), k = turn(split(a->k_proj->forward(key), kv));
  const at::Tensor v = split(a->v_proj->forward(value), kv);
  const int64_t shared = heads / kv;
  at::Tensor y = attend(q, k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1), mask);
  y = y.transpose(1, 2).flatten(2);
  if (!a->sub_norm.is_empty()) y = y / (y.square().mean(-1, true) + a->options.norm_eps()).sqrt();
  return a->out_proj->forward(y);
}

// Where a token may attend under `causal`.
at::Tensor lower_triangle(int64_t n) { return torch::ones({n, n}, at::kBool).tril(); }

TEST(Attention, CrossAttentionWithSizesOfItsOwnIsLibTorchs) {
  torch::manual_seed(21);
  BitMultiheadAttention ours(float_options(12, 3).kdim(5).vdim(5));
  t::MultiheadAttention theirs(t::MultiheadAttentionOptions(12, 3).kdim(5).vdim(5));
  {
    const at::NoGradGuard no_grad;
    theirs->q_proj_weight.copy_(ours->q_proj->weight);
    theirs->k_proj_weight.copy_(ours->k_proj->weight);
    theirs->v_proj_weight.copy_(ours->v_proj->weight);
    theirs->in_proj_bias.copy_(torch::cat({ours->q_proj->bias, ours->k_proj->bias, ours->v_proj->bias}));
    theirs->out_proj->weight.copy_(ours->out_proj->weight);
    theirs->out_proj->bias.copy_(ours->out_proj->bias);
  }
  const at::Tensor q = torch::randn({2, 4, 12}), k = torch::randn({2, 6, 5}), v = torch::randn({2, 6, 5});
  const at::Tensor added = torch::randn({4, 6}), allowed = (torch::rand({4, 6}) > 0.4).index_put_({"...", 0}, true);
  // LibTorch adds a mask of any type.
  const at::Tensor forbidden = torch::zeros({4, 6}).masked_fill(~allowed, -INFINITY);
  const auto first = [](const at::Tensor& x) { return x.transpose(0, 1); };
  for (const auto& [mask, their_mask] : {std::pair(at::Tensor(), at::Tensor()), {added, added}, {allowed, forbidden}}) {
    ours->zero_grad();
    theirs->zero_grad();
    const at::Tensor y = ours->forward(q, k, v, mask);
    const at::Tensor expected = first(std::get<0>(theirs->forward(first(q), first(k), first(v), {}, false, their_mask)));
    EXPECT_TRUE(torch::allclose(y, expected, 1e-6, 1e-6)) << (y - expected).abs().max();
    const at::Tensor g = torch::randn_like(y);
    y.backward(g);
    expected.backward(g);
    EXPECT_TRUE(torch::allclose(ours->q_proj->weight.grad(), theirs->q_proj_weight.grad(), 1e-5, 1e-6));
    EXPECT_TRUE(torch::allclose(ours->k_proj->weight.grad(), theirs->k_proj_weight.grad(), 1e-5, 1e-6));
    EXPECT_TRUE(torch::allclose(ours->v_proj->weight.grad(), theirs->v_proj_weight.grad(), 1e-5, 1e-6));
  }
}

TEST(Attention, KeysAndValuesOfOtherSizes) {
  torch::manual_seed(30);
  BitMultiheadAttention layer(float_options(12, 6).kdim(5).vdim(7).num_kv_heads(2));
  layer->to(at::kDouble);
  const at::Tensor q = torch::randn({2, 4, 12}, at::kDouble), k = torch::randn({2, 6, 5}, at::kDouble);
  const at::Tensor v = torch::randn({2, 6, 7}, at::kDouble);
  EXPECT_TRUE(torch::allclose(layer->forward(q, k, v), by_hand(layer, q, k, v, {}), 1e-10, 1e-10));
}

TEST(Attention, HeadsMasksAndNormsByHand) {
  torch::manual_seed(22);
  const at::Tensor x = torch::randn({2, 5, 24}, at::kDouble), triangle = lower_triangle(5);
  const at::Tensor allowed = (torch::rand({2, 1, 5, 5}) > 0.4).logical_or(torch::eye(5, at::kBool));
  const at::Tensor added = torch::randn({6, 5, 5}, at::kDouble);
  for (int64_t kv_heads : {0, 1, 2, 3})
    for (double theta : {0.0, 100.0})
      for (bool causal : {false, true}) {
        auto options = float_options(24, 6).num_kv_heads(kv_heads).rope_theta(theta).causal(causal);
        if (kv_heads == 2) options.sub_norm(NormKind::kRms);
        BitMultiheadAttention layer(options);
        layer->to(at::kDouble);
        const at::Tensor none, infinite = torch::zeros({5, 5}, at::kDouble).masked_fill(~triangle, -INFINITY);
        const std::pair<at::Tensor, at::Tensor> masks[] = {{none, causal ? triangle : none},
                                                           {allowed, causal ? allowed & triangle : allowed},
                                                           {added, causal ? added + infinite : added}};
        for (const auto& [mask, expected] : masks)
          EXPECT_TRUE(torch::allclose(layer->forward(x, x, x, mask), by_hand(layer, x, x, x, expected), 1e-10, 1e-10))
              << *layer;
      }
}

TEST(Attention, RotaryTurnsHalvesAsHuggingFace) {
  torch::manual_seed(23);
  const at::Tensor x = torch::randn({2, 3, 4, 6});
  const at::Tensor y = ops::rotary(x, torch::arange(5, 5 + x.size(2)), 10000);
  for (int64_t position = 0; position < 4; ++position)
    for (int64_t i = 0; i < 3; ++i) {
      const double angle = static_cast<double>(5 + position) * std::pow(10000.0, -2.0 * static_cast<double>(i) / 6.0);
      const at::Tensor a = x.select(2, position).select(-1, i), b = x.select(2, position).select(-1, i + 3);
      const at::Tensor turned = y.select(2, position);
      EXPECT_TRUE(torch::allclose(turned.select(-1, i), a * std::cos(angle) - b * std::sin(angle), 1e-6, 1e-6));
      EXPECT_TRUE(torch::allclose(turned.select(-1, i + 3), b * std::cos(angle) + a * std::sin(angle), 1e-6, 1e-6));
    }
  EXPECT_TRUE(same_bits(ops::rotary(x, torch::arange(x.size(2)), 10000).select(2, 0), x.select(2, 0)));
}

TEST(FeedForward, ActivationsByHand) {
  torch::manual_seed(26);
  const at::Tensor x = torch::randn({3, 5}, at::kDouble);
  using Function = std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>;  // of up and gate
  const std::vector<std::pair<Activation, Function>> list{
      {Activation::kGelu, [](auto u, auto) { return u * 0.5 * (1 + torch::erf(u / std::sqrt(2.0))); }},
      {Activation::kGeluTanh,
       [](auto u, auto) { return u * 0.5 * (1 + torch::tanh(std::sqrt(2 / M_PI) * (u + 0.044715 * u * u * u))); }},
      {Activation::kRelu, [](auto u, auto) { return u.clamp_min(0); }},
      {Activation::kSquaredRelu, [](auto u, auto) { return u.clamp_min(0).square(); }},
      {Activation::kSilu, [](auto u, auto) { return u / (1 + torch::exp(-u)); }},
      {Activation::kSwiGlu, [](auto u, auto g) { return g / (1 + torch::exp(-g)) * u; }},
      {Activation::kSquaredReluGlu, [](auto u, auto g) { return g.clamp_min(0).square() * u; }}};
  for (const auto& [activation, function] : list)
    for (bool normed : {false, true}) {
      auto options = BitFeedForwardOptions(5).hidden_dim(6).activation(activation).bias(false).quant(BitQuantConfig::none());
      if (normed) options.sub_norm(NormKind::kRms).norm_eps(1e-3);
      BitFeedForward layer(options);
      layer->to(at::kDouble);
      EXPECT_EQ(layer->gate_proj.is_empty(), !is_gated(activation));
      at::Tensor hidden =
          function(layer->up_proj->forward(x), is_gated(activation) ? layer->gate_proj->forward(x) : at::Tensor());
      if (normed) hidden = hidden / (hidden.square().mean(-1, true) + 1e-3).sqrt();
      EXPECT_TRUE(torch::allclose(layer->forward(x), layer->down_proj->forward(hidden), 1e-10, 1e-10)) << *layer;
    }
}

TEST(Attention, RefusesWhatDoesNotFit) {
  const auto made = [](const BitMultiheadAttentionOptions& options) {
    return message_of([&] { BitMultiheadAttention layer(options); });
  };
  EXPECT_EQ(made(float_options(10, 4)), "[BitMultiheadAttention] embed_dim in 4 heads, got 10");
  EXPECT_EQ(made(float_options(12, 6).num_kv_heads(4)), "[BitMultiheadAttention] num_kv_heads that divides 6 heads, got 4");
  EXPECT_EQ(made(float_options(9, 3).rope_theta(10)),
            "[BitMultiheadAttention] an even size of a head under rope_theta, got 3");
  BitMultiheadAttention layer(float_options(12, 3).kdim(5));
  const at::Tensor q = torch::randn({2, 4, 12}), k = torch::randn({2, 6, 5}), v = torch::randn({2, 6, 12});
  EXPECT_EQ(message_of([&] { layer->forward(q[0], k, v); }),
            "[BitMultiheadAttention] query of shape [-1, -1, 12] (-1: any), got [4, 12]");
  EXPECT_EQ(message_of([&] { layer->forward(q); }),
            "[BitMultiheadAttention] key of shape [2, -1, 5] (-1: any), got [2, 4, 12]");
  EXPECT_EQ(message_of([&] { layer->forward(q, k, v.narrow(1, 0, 5)); }),
            "[BitMultiheadAttention] value of shape [2, 6, 12] (-1: any), got [2, 5, 12]");
  EXPECT_EQ(message_of([&] {
              layer->forward(q, k, v, torch::ones({4, 6}, at::kLong));
            }),
            "[BitMultiheadAttention] attn_mask bool or Float, got Long");
  EXPECT_EQ(message_of([&] {
              layer->forward(q, k, v, torch::ones({4, 5}));
            }),
            "[BitMultiheadAttention] attn_mask that broadcasts to [2, 3, 4, 6], got [4, 5]");
}

TEST(FeedForward, RefusesWhatDoesNotFit) {
  EXPECT_EQ(message_of([] { BitFeedForward layer(BitFeedForwardOptions(8).hidden_dim(-1)); }),
            "[BitFeedForward] dim of 1 or more and hidden_dim of 0 or more, got 8 and -1");
  BitFeedForward unknown(BitFeedForwardOptions(8).activation(static_cast<Activation>(99)));
  EXPECT_EQ(message_of([&] { unknown->forward(torch::randn({1, 8})); }), "[BitFeedForward] an activation, got 99");
}

}  // namespace
}  // namespace bitlab::nn
